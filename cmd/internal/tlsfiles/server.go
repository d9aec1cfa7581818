package tlsfiles

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
)

// Server is the TLS flags of a port that others connect to. Zero fields are flags that were not given.
type Server struct {
	// Side is whose flags these are. Errors name them.
	Side Side

	CertFile, KeyFile string
	// ClientCertFile and ClientKeyFile are for connections that the process opens to others of its kind. A Server only
	// checks that they can be loaded, as etcd does.
	ClientCertFile, ClientKeyFile string

	// SelfSigned makes a certificate when no CertFile is given (--auto-tls); nil does not.
	SelfSigned *SelfSigned

	// TrustedCAFile demands certificates of clients, whose chain must end there.
	TrustedCAFile string
	// ClientCertAuth demands them without TrustedCAFile too: then the system's authorities count, as at etcd.
	ClientCertAuth bool
	// CRLFile lists certificates that are refused, by their serial numbers. Where clients are not asked for certificates
	// it keeps nobody out, nor do the next two; see Warn.
	CRLFile string
	// AllowedCNs and AllowedHostnames are of which a client certificate must have one, if there are any; only one of the
	// two may be given.
	AllowedCNs, AllowedHostnames []string
	// CheckClientAddress demands that a client certificate that has IP addresses or DNS names has the client's among
	// them; names are looked up. etcd does so at peer ports, unless --peer-skip-client-san-verification is given, and at
	// metrics ports; not at client ports.
	CheckClientAddress bool

	CipherSuites           []string // names of Go or IANA
	MinVersion, MaxVersion string   // TLS1.2, TLS1.3
}

// Side says whose flags a Server holds.
type Side uint8

// The sides that have flags.
const (
	ClientSide Side = iota // etcd's towards clients: --cert-file
	PeerSide               // etcd's towards peers: --peer-cert-file
	ProxySide              // etcd grpc-proxy's towards clients: --cert-file, but --listen-cipher-suites
)

// flag is the name on this side of a flag on the client side.
func (s Side) flag(name string) string {
	switch {
	case name == "cipher-suites" && s == ProxySide:
		return "listen-cipher-suites"
	case name == "cipher-suites" || s != PeerSide: // peers have no suites of their own
		return name
	}
	switch name {
	case "client-crl-file", "client-cert-allowed-cn", "client-cert-allowed-hostname":
		name = strings.TrimPrefix(name, "client-")
	}
	return "peer-" + name
}

// Check tells what is wrong with the flags whether a port uses them or not; the files are not looked at.
func (s Server) Check() error {
	if _, err := s.protocol(); err != nil {
		return err
	}
	if s.SelfSigned != nil && s.SelfSigned.Years == 0 {
		return fmt.Errorf("--self-signed-cert-validity=0 is not possible with --%s: give a number of years", s.Side.flag("auto-tls"))
	}
	return nil
}

// checkTogether refuses flags that contradict each other.
func (s Server) checkTogether() error {
	flag := s.Side.flag
	errs := []error{
		together(flag("cert-file"), s.CertFile, flag("key-file"), s.KeyFile),
		together(flag("client-cert-file"), s.ClientCertFile, flag("client-key-file"), s.ClientKeyFile),
	}
	if len(s.AllowedCNs) > 0 && len(s.AllowedHostnames) > 0 {
		errs = append(errs, fmt.Errorf("--%s and --%s exclude each other: leave one out", flag("client-cert-allowed-cn"), flag("client-cert-allowed-hostname")))
	}
	if !s.HasCertificate() && s.AsksClients() {
		asks := "trusted-ca-file"
		if s.ClientCertAuth {
			asks = "client-cert-auth"
		}
		errs = append(errs, fmt.Errorf("--%s needs --%s and --%s", flag(asks), flag("cert-file"), flag("key-file")))
	}
	return errors.Join(errs...)
}

// checkAll is Check and checkTogether.
func (s Server) checkAll() error { return errors.Join(s.Check(), s.checkTogether()) }

// HasCertificate tells whether Load will return a configuration.
func (s Server) HasCertificate() bool { return s.CertFile != "" || s.SelfSigned != nil }

// AsksClients tells whether clients must show certificates.
func (s Server) AsksClients() bool { return s.TrustedCAFile != "" || s.ClientCertAuth }

func together(certFlag, cert, keyFlag, key string) error {
	if (cert == "") != (key == "") {
		return fmt.Errorf("--%s and --%s go together: give both", certFlag, keyFlag)
	}
	return nil
}

// Load checks the flags, reads the files, and returns a configuration for any number of ports. It reads them again when they
// change, at a handshake and when files, which they are added to, are looked at. It is nil if there is no certificate and none to
// be made. Its error joins all that is wrong, one line each.
func (s Server) Load(files *Set) (*tls.Config, error) {
	if err := s.checkAll(); err != nil {
		return nil, err
	}
	if s.SelfSigned != nil && s.CertFile == "" {
		var err error
		if s.CertFile, s.KeyFile, err = s.SelfSigned.files(files.log); err != nil {
			return nil, fmt.Errorf("--%s: %w", s.Side.flag("auto-tls"), err)
		}
	}
	if s.CertFile == "" {
		return nil, nil
	}
	return s.load(files)
}

// load is Load when there is a certificate, or, for Verify, none yet.
func (s Server) load(files *Set) (*tls.Config, error) {
	cfg, err := s.protocol()
	if err != nil {
		return nil, err
	}
	cfg.NextProtos = []string{"h2", "http/1.1"}
	p := &port{base: cfg}
	var errs []error
	if s.CertFile != "" {
		p.identity, err = newSource(files, parsePair, s.file("cert-file", s.CertFile), s.file("key-file", s.KeyFile))
		errs = append(errs, err)
	}
	if s.ClientCertFile != "" {
		_, err := newSource(NewSet(files.log, nil), parsePair, s.file("client-cert-file", s.ClientCertFile), s.file("client-key-file", s.ClientKeyFile))
		errs = append(errs, err)
	}
	if s.TrustedCAFile != "" {
		p.authorities, err = newSource(files, parseAuthorities, s.file("trusted-ca-file", s.TrustedCAFile))
		errs = append(errs, err)
	}
	if s.AsksClients() {
		cfg.ClientAuth = tls.RequireAndVerifyClientCert
	}
	p.rules = rules{names: s.AllowedCNs, hosts: s.AllowedHostnames}
	if s.CheckClientAddress {
		p.rules.addresses = net.DefaultResolver
	}
	if s.CRLFile != "" {
		p.rules.revoked, err = newSource(files, parseRevoked, s.file("client-crl-file", s.CRLFile))
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	cfg = cfg.Clone()
	cfg.GetConfigForClient = p.configFor
	return cfg, nil
}

func (s Server) file(flag, path string) file { return file{s.Side.flag(flag), path} }

// port makes the configuration of each handshake.
type port struct {
	base        *tls.Config // never changed
	identity    *source[*tls.Certificate]
	authorities *source[*x509.CertPool] // nil: the system's
	rules       rules
}

// configFor is tls.Config.GetConfigForClient. A resumed session shows the certificates that it began with, and crypto/tls
// judges them by the same fields.
func (p *port) configFor(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	cfg := p.base.Clone()
	cfg.Certificates = []tls.Certificate{*p.identity.current()}
	if p.authorities != nil {
		cfg.ClientCAs = p.authorities.current()
	}
	cfg.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 {
			return nil // clients are not asked
		}
		return p.rules.check(hello.Context(), state.PeerCertificates, hello.Conn.RemoteAddr())
	}
	return cfg, nil
}
