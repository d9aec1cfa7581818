package transport

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"
)

// authority signs the certificates of members.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "peers"},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert = sign(t, template, template, a.key, a.key)
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t testing.TB, template, parent *x509.Certificate, of, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &of.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// pair returns what a member serves with and dials with: each side shows a certificate and demands one.
func (a *authority) pair(t testing.TB) (server, client *tls.Config) {
	t.Helper()
	key := newKey(t)
	cert := sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.cert, key, a.key)
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	own := []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}
	return &tls.Config{Certificates: own, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert},
		&tls.Config{Certificates: own, RootCAs: pool}
}

func withTLS(server, client *tls.Config) option {
	return func(o *memberOptions) { o.server, o.cfg.TLS = server, client.Clone }
}

func TestPeerOfAnotherAuthorityIsKeptOut(t *testing.T) {
	a := start(t, 1, withTLS(newAuthority(t).pair(t)))
	b := start(t, 2, withTLS(newAuthority(t).pair(t)))
	connect(a, b)
	next(t, a.unreachable)
	until(t, func() bool { return a.logs.count("no connection to a peer", "unknown authority") > 0 })
	if !a.ActiveSince(2).IsZero() {
		t.Error("they are connected")
	}
}

func TestPlaintextDoesNotReachATLSPeer(t *testing.T) {
	a, b := start(t, 1), start(t, 2, withTLS(newAuthority(t).pair(t)))
	a.SetPeers(map[uint64][]string{2: {strings.Replace(b.url, "https", "http", 1)}})
	next(t, a.unreachable)
	if !a.ActiveSince(2).IsZero() {
		t.Error("they are connected")
	}
}
