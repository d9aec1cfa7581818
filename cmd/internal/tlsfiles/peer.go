package tlsfiles

import (
	"crypto/tls"
	"crypto/x509"
)

// Dial checks the flags, reads the files, and returns what to ask for the configuration of each connection to others of the
// process's kind: what it shows is ClientCertFile, else CertFile, and who it meets must be of TrustedCAFile, else of the system's
// authorities. As at etcd, who has made its own certificate believes others who have. The files are read again when they change, as
// files, which they are added to, does. Errors are one line. The function may be called concurrently, and who calls it may change
// the result.
func (s Server) Dial(files *Set) (config func() *tls.Config, err error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	base, err := s.protocol()
	if err != nil {
		return nil, err
	}
	cert, key := s.file("client-cert-file", s.ClientCertFile), s.file("client-key-file", s.ClientKeyFile)
	if s.ClientCertFile == "" {
		cert, key = s.file("cert-file", s.CertFile), s.file("key-file", s.KeyFile)
	}
	base.InsecureSkipVerify = s.CertFile == "" && s.SelfSigned != nil
	if cert.path != "" {
		identity, err := newSource(files, parsePair, cert, key)
		if err != nil {
			return nil, err
		}
		// Not Certificates: of those none is shown that the other's list of authorities does not fit.
		base.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return identity.current(), nil }
	}
	var authorities *source[*x509.CertPool]
	if s.TrustedCAFile != "" {
		if authorities, err = newSource(files, parseAuthorities, s.file("trusted-ca-file", s.TrustedCAFile)); err != nil {
			return nil, err
		}
	}
	return func() *tls.Config {
		cfg := base.Clone()
		if authorities != nil {
			cfg.RootCAs = authorities.current()
		}
		return cfg
	}, nil
}
