package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
)

// clientFiles are the flags of TLS towards the cluster.
type clientFiles struct {
	cert, key, ca string
	skipVerify    bool
}

// load returns nil when no flag is set. Certificate and key are read again for every connection, so that they can
// be replaced; the CA bundle is read once.
func (f clientFiles) load() (*tls.Config, error) {
	if f == (clientFiles{}) {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: f.skipVerify}
	if f.ca != "" {
		pool, err := loadCA("cacert", f.ca)
		if err != nil {
			return nil, err
		}
		c.RootCAs = pool
	}
	if f.cert == "" && f.key == "" {
		return c, nil
	}
	if _, err := f.identity(); err != nil {
		return nil, err
	}
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return f.identity() }
	return c, nil
}

// identity reads the certificate and its key. One with a common name is refused, whenever it is read: with
// --client-cert-auth the cluster takes that for the user of every request without a token, so that all clients of the
// proxy would become that user. etcd's own proxy refuses it at its start.
func (f clientFiles) identity() (*tls.Certificate, error) {
	pair, err := loadPair("cert", f.cert, "key", f.key)
	if err != nil {
		return nil, err
	}
	if name := pair.Leaf.Subject.CommonName; name != "" {
		return nil, fmt.Errorf("the certificate %s in --cert has the common name %q, and the cluster would take all clients of the proxy for that user: use one without a common name", f.cert, name)
	}
	return pair, nil
}

// serverFiles are the flags of TLS towards clients.
type serverFiles struct {
	cert, key, ca          string
	cipherSuites           string
	minVersion, maxVersion string
}

// load returns nil without a certificate. Certificate and key are read again for every connection, so that they can
// be replaced; the CA bundle is read once.
func (f serverFiles) load() (*tls.Config, error) {
	c := &tls.Config{}
	var err error
	if c.MinVersion, err = tlsVersion("tls-min-version", f.minVersion); err != nil {
		return nil, err
	}
	if c.MaxVersion, err = tlsVersion("tls-max-version", f.maxVersion); err != nil {
		return nil, err
	}
	if c.MaxVersion != 0 && c.MinVersion > c.MaxVersion {
		return nil, fmt.Errorf("--tls-min-version=%s is above --tls-max-version=%s: swap them", f.minVersion, f.maxVersion)
	}
	if c.CipherSuites, err = cipherSuites(f.cipherSuites); err != nil {
		return nil, err
	}
	if len(c.CipherSuites) > 0 && c.MinVersion == tls.VersionTLS13 {
		return nil, errors.New("--listen-cipher-suites cannot be chosen for TLS1.3: leave it out, or set --tls-min-version=TLS1.2")
	}
	if f.cert == "" && f.key == "" {
		if f.ca != "" {
			return nil, errors.New("--trusted-ca-file needs --cert-file and --key-file")
		}
		return nil, nil
	}
	if _, err := loadPair("cert-file", f.cert, "key-file", f.key); err != nil {
		return nil, err
	}
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return loadPair("cert-file", f.cert, "key-file", f.key)
	}
	if f.ca != "" {
		if c.ClientCAs, err = loadCA("trusted-ca-file", f.ca); err != nil {
			return nil, err
		}
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return c, nil
}

func loadPair(certFlag, cert, keyFlag, key string) (*tls.Certificate, error) {
	if cert == "" || key == "" {
		return nil, fmt.Errorf("--%s and --%s go together: give both", certFlag, keyFlag)
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("load --%s=%s and --%s=%s: %w: give a PEM certificate and its key that this user can read", certFlag, cert, keyFlag, key, err)
	}
	return &pair, nil
}

func loadCA(flag, file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read --%s: %w: give a PEM file that this user can read", flag, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--%s=%s has no certificate: give a PEM file", flag, file)
	}
	return pool, nil
}

func tlsVersion(flag, version string) (uint16, error) {
	switch version {
	case "":
		return 0, nil
	case "TLS1.2":
		return tls.VersionTLS12, nil
	case "TLS1.3":
		return tls.VersionTLS13, nil
	}
	return 0, fmt.Errorf("unknown --%s=%s: use TLS1.2 or TLS1.3", flag, version)
}

func cipherSuites(names string) ([]uint16, error) {
	known := map[string]uint16{}
	for _, s := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		known[s.Name] = s.ID
	}
	var ids []uint16
	for _, name := range splitList(names) {
		id, ok := known[name]
		if !ok {
			return nil, fmt.Errorf("unknown cipher suite %q in --listen-cipher-suites: use Go's names, as %s", name, strings.Join(suiteNames(), ", "))
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// suiteNames are those that may be chosen: TLS 1.3 has its own, which are not for choice.
func suiteNames() []string {
	var names []string
	for _, s := range tls.CipherSuites() {
		if s.SupportedVersions[0] != tls.VersionTLS13 {
			names = append(names, s.Name)
		}
	}
	return names
}
