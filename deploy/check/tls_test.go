package check

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority makes the secrets of kubernetes.io/tls that a chart with TLS names.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{cert: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	_, der := a.sign(t, a.cert)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, a.pool = cert, x509.NewCertPool()
	a.pool.AddCert(cert)
	return a
}

// sign makes a key, and the certificate of it. The first of an authority is its own.
func (a *authority) sign(t *testing.T, template *x509.Certificate) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if a.key == nil {
		a.key = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return key, der
}

// secret leaves tls.crt, tls.key and ca.crt in dir, for servers at some addresses and for clients.
func (a *authority) secret(t *testing.T, dir, name string, addresses ...string) tls.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, address := range addresses {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(address))
	}
	key, der := a.sign(t, template)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{
		"tls.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		"tls.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
		"ca.crt":  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}),
	}
	for file, text := range files {
		if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.X509KeyPair(files["tls.crt"], files["tls.key"])
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// TestPodsWithTLSFindEachOther: with every secret that the chart takes, and certificates demanded of everybody, members form a cluster,
// proxies are its clients, and a client with a certificate is served by both. Probes show none.
func TestPodsWithTLSFindEachOther(t *testing.T) {
	needLoopback(t)
	c := &cluster{programs: programs(t)}
	members, proxies := c.templates(t, `
core: {tls: {client: {secretName: core-client, clientAuth: true}, peer: {secretName: core-peer}}}
proxy:
  upstream: {tls: {secretName: upstream, clientCert: true}}
  tls: {secretName: proxy-client, clientAuth: true}
`)
	ca, etc := newAuthority(t), t.TempDir()
	var addresses []string
	for i := range 4 {
		addresses = append(addresses, c.address(i))
	}
	for _, secret := range []string{"peer", "upstream"} {
		ca.secret(t, filepath.Join(etc, secret), secret, addresses...)
	}
	mine := ca.secret(t, filepath.Join(etc, "client"), "client", addresses...)
	for i := range 3 {
		name := fmt.Sprintf("weir-core-%d", i)
		c.members = append(c.members, newPod(name, c.address(i), members, c.hosts(), filepath.Join(t.TempDir(), name)))
	}
	c.proxy = newPod("weir-proxy-0", c.address(3), proxies, c.hosts(), "")
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{mine}}}}
	defer client.CloseIdleConnections()
	all := append(c.members, c.proxy)
	for _, p := range all {
		p.https = client
		for i, arg := range p.args {
			p.args[i] = strings.ReplaceAll(arg, "/etc/weir/", etc+"/")
		}
	}
	c.startAll(t)
	c.proxy.call(t, "/v3/kv/put", put{[]byte("k"), []byte("v")}, &none{})
	for _, p := range all {
		p.wantPair(t)
	}
	stranger := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: ca.pool}}}
	defer stranger.CloseIdleConnections()
	for _, p := range all {
		if response, err := stranger.Get("https://" + p.address + ":2379/version"); err == nil {
			response.Body.Close()
			t.Errorf("%s answers a client without a certificate", p.name)
		}
	}
}
