package tlsfiles

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
)

// Client is the TLS flags of connections that a proxy opens to its cluster: --cert, --key, --cacert and
// --insecure-skip-tls-verify. Zero fields are flags that were not given.
type Client struct {
	CertFile, KeyFile string
	CAFile            string // empty: the system's authorities
	SkipVerify        bool
}

// Check tells what is wrong with the flags as far as it can without reading files.
func (c Client) Check() error { return together("cert", c.CertFile, "key", c.KeyFile) }

// Load reads the files, and returns what to ask for the configuration of each connection: it reads them again when they
// change, as files, which they are added to, does. It is nil if no flag was given. commonName is that of the certificate, "" if there is none: a cluster may take whoever
// shows it for that user. Another one with another name is not taken over. Errors are one line. The function may be called
// concurrently, and who calls it may change the result.
//
// A *tls.Config alone would not do: crypto/tls can be given another certificate for each handshake, but not other
// authorities.
func (c Client) Load(files *Set) (config func() *tls.Config, commonName string, err error) {
	if err := c.Check(); err != nil || c == (Client{}) {
		return nil, "", err
	}
	var (
		identity    *source[*tls.Certificate]
		authorities *source[*x509.CertPool]
	)
	if c.CertFile != "" {
		if identity, err = newSource(files, parseSameName(), file{"cert", c.CertFile}, file{"key", c.KeyFile}); err == nil {
			commonName = identity.current().Leaf.Subject.CommonName
		}
	}
	if c.CAFile != "" {
		var caErr error
		authorities, caErr = newSource(files, parseAuthorities, file{"cacert", c.CAFile})
		err = errors.Join(err, caErr)
	}
	if err != nil {
		return nil, "", err
	}
	return func() *tls.Config {
		cfg := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: c.SkipVerify}
		if authorities != nil {
			cfg.RootCAs = authorities.current()
		}
		if identity != nil {
			// Not Certificates: of those none is shown that the server's list of authorities does not fit.
			cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return identity.current(), nil }
		}
		return cfg
	}, commonName, nil
}
