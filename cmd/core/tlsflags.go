package main

import (
	"net/url"
	"path/filepath"
	"slices"

	"weir/cmd/internal/process"
	"weir/cmd/internal/tlsfiles"
)

// tlsFlags are the certificates of both sides: towards clients and towards peers.
type tlsFlags struct {
	clients, peers         sideFlags
	skipPeerAddress        bool // --peer-skip-client-san-verification
	validity               uint // of generated certificates, in years
	cipherSuites           string
	minVersion, maxVersion string
}

// sideFlags are the flags that both sides have.
type sideFlags struct {
	server       tlsfiles.Server
	auto         bool
	names, hosts string
}

func (t *tlsFlags) define(f *process.Flags) {
	t.clients.define(f, "", "client-", "clients")
	t.peers.define(f, "peer-", "peer-", "peers")
	f.BoolVar(&t.skipPeerAddress, "peer-skip-client-san-verification", false, "Accept peers' certificates that are for another address than the peer's.")
	f.UintVar(&t.validity, "self-signed-cert-validity", 1, "Validity period of generated certificates in years.")
	f.StringVar(&t.cipherSuites, "cipher-suites", "", "Comma separated TLS cipher suites (empty leaves it to Go).")
	f.StringVar(&t.minVersion, "tls-min-version", "TLS1.2", "Minimum TLS version: TLS1.2, TLS1.3.")
	f.StringVar(&t.maxVersion, "tls-max-version", "", "Maximum TLS version: TLS1.2, TLS1.3 (empty leaves it to Go).")
}

// define adds the flags of one side. Most names begin with prefix, those about certificates of who connects with whose.
func (s *sideFlags) define(f *process.Flags, prefix, whose, who string) {
	v := &s.server
	f.StringVar(&v.CertFile, prefix+"cert-file", "", "Certificate file shown to "+who+".")
	f.StringVar(&v.KeyFile, prefix+"key-file", "", "Key file of that certificate.")
	f.StringVar(&v.TrustedCAFile, prefix+"trusted-ca-file", "", "Demand certificates of "+who+" and verify them using this CA bundle.")
	f.BoolVar(&v.ClientCertAuth, prefix+"client-cert-auth", false, "Demand certificates of "+who+".")
	f.StringVar(&v.CRLFile, whose+"crl-file", "", "List of revoked certificates of "+who+".")
	f.StringVar(&s.names, whose+"cert-allowed-cn", "", "Comma separated common names, one of which certificates of "+who+" must have.")
	f.StringVar(&s.hosts, whose+"cert-allowed-hostname", "", "Comma separated host names, one of which certificates of "+who+" must be for.")
	f.StringVar(&v.ClientCertFile, prefix+"client-cert-file", "", "Certificate file shown when connecting to others, instead of the one above.")
	f.StringVar(&v.ClientKeyFile, prefix+"client-key-file", "", "Key file of that certificate.")
	f.BoolVar(&s.auto, prefix+"auto-tls", false, "TLS towards "+who+" using a generated certificate.")
}

func (t *tlsFlags) apply(_ *process.Flags, o *options) error {
	var wrong process.Mistakes
	t.clients.server.Side, t.peers.server.Side = tlsfiles.ClientSide, tlsfiles.PeerSide
	t.peers.server.CheckClientAddress = !t.skipPeerAddress
	for _, side := range []struct {
		flags *sideFlags
		name  string // of etcd's directory for generated certificates
		urls  []*url.URL
		to    *tlsfiles.Server
	}{
		{&t.clients, "client", slices.Concat(o.listen.clients, o.listen.http), &o.tls},
		{&t.peers, "peer", o.listen.peers, &o.peerTLS},
	} {
		s := side.flags.server
		s.AllowedCNs, s.AllowedHostnames = splitList(side.flags.names), splitList(side.flags.hosts)
		s.CipherSuites, s.MinVersion, s.MaxVersion = splitList(t.cipherSuites), t.minVersion, t.maxVersion
		if side.flags.auto {
			s.SelfSigned = &tlsfiles.SelfSigned{Dir: filepath.Join(o.core.DataDir, "fixtures", side.name), Hosts: hosts(side.urls), Years: t.validity}
		}
		wrong.Add(s.Check())
		*side.to = s
	}
	o.core.ClientCertAuth, o.api.ClientCertAuth = t.clients.server.ClientCertAuth, t.clients.server.ClientCertAuth
	wrong.Add(o.checkSecureURLs())
	return wrong.Err()
}

func hosts(urls []*url.URL) []string {
	var hosts []string
	for _, u := range urls {
		hosts = append(hosts, u.Host)
	}
	return hosts
}

// certificateFiles are those of the URLs of a flag.
func (o *options) certificateFiles(flag string) tlsfiles.Server {
	files := o.tls
	switch flag {
	case "listen-peer-urls":
		return o.peerTLS
	case "listen-metrics-urls":
		files.CheckClientAddress = true // as at etcd
	}
	return files
}

// checkSecureURLs refuses URLs with TLS for which there is no certificate.
func (o *options) checkSecureURLs() error {
	var wrong process.Mistakes
	for _, list := range o.listen.byFlag() {
		needs := "--cert-file and --key-file, or --auto-tls"
		if list.flag == "listen-peer-urls" {
			needs = "--peer-cert-file and --peer-key-file, or --peer-auto-tls"
		}
		for _, u := range list.urls {
			if isSecure(u) && !o.certificateFiles(list.flag).HasCertificate() {
				wrong.Addf("--%s=%s needs %s", list.flag, u, needs)
			}
		}
	}
	return wrong.Err()
}
