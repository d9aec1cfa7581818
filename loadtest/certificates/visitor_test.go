package certificates

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// visitor tries to get in.
type visitor struct {
	name   string
	shows  *pair             // nil shows nothing
	change func(*tls.Config) // nil changes nothing
}

// people are visitors of ports whose authority is a. Nobody of them has to be let in or kept out: that depends.
func people(a *authority, revoked pair) []visitor {
	shows := func(name string, by *authority, change func(*x509.Certificate)) visitor {
		p := by.issue(change)
		return visitor{name: name, shows: &p}
	}
	other := newAuthority(a.t)
	return []visitor{
		{name: "without a certificate"},
		shows("alice", a, named("alice")),
		shows("nameless", a, nil),
		{name: "revoked", shows: &revoked},
		shows("of another authority", other, nil),
		shows("expired", a, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }),
		shows("of tomorrow", a, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(24 * time.Minute) }),
		shows("with a server's certificate", a, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }),
		shows("with a certificate for elsewhere", a, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 1, 2, 3)} }),
		shows("with a certificate for nowhere", a, func(c *x509.Certificate) { c.IPAddresses = nil }),
		{name: "that expects somebody else", change: func(c *tls.Config) { c.ServerName = "example.org" }},
	}
}

// alice shows a certificate that every port of the authority accepts, and changes something.
func alice(a *authority, name string, change func(*tls.Config)) visitor {
	p := a.issue(named("alice"))
	return visitor{name: name, shows: &p, change: change}
}

// config is how the visitor speaks TLS with a port whose certificate is by a.
func (v visitor) config(a *authority) *tls.Config {
	c := &tls.Config{RootCAs: x509.NewCertPool()}
	c.RootCAs.AddCert(a.cert)
	if v.shows != nil {
		// Not Certificates: of those none is shown that does not fit the authorities that the server names.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &v.shows.Certificate, nil }
	}
	if v.change != nil {
		v.change(c)
	}
	return c
}

// patience is how long one request may take.
const patience = 20 * time.Second

// calls asks in gRPC for a key. The error is nil if it was let in. Without a configuration it asks in plaintext.
func calls(t *testing.T, addr string, cfg *tls.Config) error {
	t.Helper()
	return callsFor(t, patience, addr, cfg)
}

// callsFor is calls with another end of patience.
func callsFor(t *testing.T, patience time.Duration, addr string, cfg *tls.Config) error {
	t.Helper()
	creds := insecure.NewCredentials()
	if cfg != nil {
		creds = credentials.NewTLS(cfg)
	}
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(creds))
	must(t, err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err = pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("k")})
	return err
}

// gets asks in HTTP for a path, with the newer version of the protocol if it can be had. Who gets an answer was let in, be it
// that etcd's grpc-proxy knows nothing but gRPC in HTTP/2.
func gets(t *testing.T, addr, path string, cfg *tls.Config, newer bool) error {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: cfg, ForceAttemptHTTP2: newer}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr+path, nil)
	must(t, err)
	r, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	_, err = io.Copy(io.Discard, r.Body)
	return err
}
