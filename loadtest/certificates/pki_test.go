package certificates

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

// authority signs certificates, and revokes them.
type authority struct {
	t      *testing.T
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	serial atomic.Int64 // of the last certificate
}

// pair is a certificate with its key.
type pair struct {
	tls.Certificate
	certPEM, keyPEM string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "authority"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		SubjectKeyId:          []byte{1},
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	must(t, err)
	a.cert, err = x509.ParseCertificate(der)
	must(t, err)
	a.serial.Store(1)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// issue makes a certificate for 127.0.0.1, unless change says otherwise.
func (a *authority) issue(change func(*x509.Certificate)) pair {
	a.t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.serial.Add(1)),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if change != nil {
		change(template)
	}
	key := newKey(a.t)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	must(a.t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	must(a.t, err)
	p := pair{certPEM: toPEM("CERTIFICATE", der), keyPEM: toPEM("PRIVATE KEY", pkcs8)}
	p.Certificate, err = tls.X509KeyPair([]byte(p.certPEM), []byte(p.keyPEM))
	must(a.t, err)
	return p
}

func named(name string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.Subject.CommonName = name }
}

func (a *authority) pem() string { return toPEM("CERTIFICATE", a.cert.Raw) }

// revoke is a list in DER, the form that etcd reads.
func (a *authority) revoke(revoked ...pair) string {
	a.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), NextUpdate: time.Now().Add(time.Hour)}
	for _, p := range revoked {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries,
			x509.RevocationListEntry{SerialNumber: p.Leaf.SerialNumber, RevocationTime: time.Now()})
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, a.cert, a.key)
	must(a.t, err)
	return string(der)
}

func toPEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// folder is where a test's files are.
type folder struct {
	t   *testing.T
	dir string
}

func newFolder(t *testing.T) folder { return folder{t, t.TempDir()} }

func (f folder) path(name string) string { return filepath.Join(f.dir, name) }

// write puts a file in place at once and returns its path.
func (f folder) write(name, content string) string {
	f.t.Helper()
	must(f.t, os.WriteFile(f.path(name+".new"), []byte(content), 0o600))
	must(f.t, os.Rename(f.path(name+".new"), f.path(name)))
	return f.path(name)
}

// flags are those of a certificate, which is written to name.crt and name.key.
func (f folder) flags(name string, p pair) []string {
	f.t.Helper()
	return []string{"--cert-file=" + f.write(name+".crt", p.certPEM), "--key-file=" + f.write(name+".key", p.keyPEM)}
}
