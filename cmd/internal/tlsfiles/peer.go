package tlsfiles

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
)

// Dial checks the flags, reads the files, and returns the configuration of connections to others of the process's kind: what it
// shows is ClientCertFile, else CertFile, and who it meets must be of TrustedCAFile, else of the system's authorities. As at etcd,
// who has made its own certificate believes others who have. The files are read again when they change, at a handshake, but for
// TrustedCAFile, which is read once. Errors are one line.
func (s Server) Dial(logger *slog.Logger) (*tls.Config, error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	cfg, err := s.protocol()
	if err != nil {
		return nil, err
	}
	cert, key := s.file("client-cert-file", s.ClientCertFile), s.file("client-key-file", s.ClientKeyFile)
	if s.ClientCertFile == "" {
		cert, key = s.file("cert-file", s.CertFile), s.file("key-file", s.KeyFile)
	}
	cfg.InsecureSkipVerify = s.CertFile == "" && s.SelfSigned != nil
	if cert.path != "" {
		identity, err := newSource(logger, parsePair, cert, key)
		if err != nil {
			return nil, err
		}
		// Not Certificates: of those none is shown that the other's list of authorities does not fit.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return identity.current(), nil }
	}
	if s.TrustedCAFile != "" {
		var authorities *source[*x509.CertPool]
		if authorities, err = newSource(logger, parseAuthorities, s.file("trusted-ca-file", s.TrustedCAFile)); err != nil {
			return nil, err
		}
		cfg.RootCAs = authorities.current()
	}
	return cfg, nil
}
