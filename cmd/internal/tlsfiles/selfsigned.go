package tlsfiles

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// SelfSigned is a certificate that nobody signed but its own key, kept in files.
type SelfSigned struct {
	Dir   string   // where it is kept, as cert.pem and key.pem; made if it is not there
	Hosts []string // host:port of the ports that it is for
	Years uint     // how long one that is made is valid
}

// maxYears is how long a certificate is valid at most: X.509 ends with the year 9999.
const maxYears = 1000

// files returns the files of a certificate: of the one that is there, unless it cannot be used or has expired, else of a
// new one.
func (s *SelfSigned) files(logger *slog.Logger) (cert, key string, err error) {
	dir, err := filepath.Abs(s.Dir)
	if err != nil {
		return "", "", err
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if old, err := tls.LoadX509KeyPair(cert, key); err == nil && time.Now().Before(old.Leaf.NotAfter) {
		return cert, key, nil
	}
	certPEM, keyPEM, expires, err := s.make()
	if err != nil {
		return "", "", fmt.Errorf("make a certificate: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", "", fmt.Errorf("make a directory for the certificate: %w: give a --data-dir that is a directory, or can become one, and that this user can write", err)
	}
	// What is there may be for others to read, and would stay so.
	if err := os.Remove(key); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", "", fmt.Errorf("remove the key of no use: %w", err)
	}
	if err := os.WriteFile(key, keyPEM, 0o600); err != nil {
		return "", "", fmt.Errorf("write the certificate's key: %w", err)
	}
	if err := os.WriteFile(cert, certPEM, 0o644); err != nil {
		return "", "", fmt.Errorf("write the certificate: %w", err)
	}
	logger.Warn("made a self-signed certificate", "path", cert, "expires", expires.Format(time.RFC3339))
	return cert, key, nil
}

func (s *SelfSigned) make() (certPEM, keyPEM []byte, expires time.Time, err error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return nil, nil, expires, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, expires, err
	}
	now := time.Now()
	expires = now.AddDate(0, 0, 365*int(min(s.Years, maxYears)))
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"weir"}},
		NotBefore:             now,
		NotAfter:              expires,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true, // so that a client can take it for its own authority
	}
	for _, hostPort := range s.Hosts {
		host, _, err := net.SplitHostPort(hostPort)
		if err != nil || host == "" {
			continue // a unix socket, or every address
		}
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, expires, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, expires, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), expires, nil
}
