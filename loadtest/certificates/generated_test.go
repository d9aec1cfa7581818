package certificates

import (
	"crypto/tls"
	"crypto/x509"
	"os"
	"testing"
)

// shownTo is the certificate that a port shows to a visitor.
func shownTo(t *testing.T, addr string, visitor *tls.Config) *x509.Certificate {
	t.Helper()
	c, err := tls.Dial("tcp", addr, visitor)
	must(t, err)
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0]
}

func TestGeneratedCertificateIsAsEtcds(t *testing.T) {
	upstream, crl := startUpstream(t), newFixture(t).crl // of certificates that nobody is asked for, as etcd's own tests have it
	trusting := &tls.Config{InsecureSkipVerify: true}
	for p, file := range map[program]string{core: "data/fixtures/client/cert.pem", proxy: "fixtures/proxy/cert.pem"} {
		t.Run(string(p), func(t *testing.T) {
			t.Parallel()
			weirs, etcds := startBoth(t, p, "https", upstream, "--auto-tls", "--self-signed-cert-validity=3", crl)
			got, want := shownTo(t, weirs.addr, trusting), shownTo(t, etcds.addr, trusting)
			if g, w := got.NotAfter.Sub(got.NotBefore), want.NotAfter.Sub(want.NotBefore); g != w {
				t.Errorf("valid for %v, etcd's for %v", g, w)
			}
			if g, w := got.ExtKeyUsage, want.ExtKeyUsage; len(g) != 1 || g[0] != w[0] || got.IsCA != want.IsCA {
				t.Errorf("for %v, authority %v; etcd's for %v, %v", g, got.IsCA, w, want.IsCA)
			}
			for _, p := range []*port{weirs, etcds} {
				if err := calls(t, p.addr, trusting); err != nil {
					t.Errorf("%s: %v", p.program, err)
				}
				if err := calls(t, p.addr, &tls.Config{}); err == nil {
					t.Errorf("%s: somebody trusts what it has made itself", p.program)
				}
				// Who has the file can do without --insecure-skip-tls-verify, but not at etcd's grpc-proxy: what it
				// makes is for no host.
				bundle, err := os.ReadFile(p.dir + "/" + file)
				must(t, err)
				roots := x509.NewCertPool()
				roots.AppendCertsFromPEM(bundle)
				if err := calls(t, p.addr, &tls.Config{RootCAs: roots}); err != nil && p.program != grpcProxy {
					t.Errorf("%s: %v", p.program, err)
				}
			}
			must(t, weirs.Stop())
			must(t, weirs.Restart())
			weirs.wait(t)
			if again := shownTo(t, weirs.addr, trusting); !again.Equal(got) {
				t.Error("it has made another after a restart")
			}
		})
	}
}

// Here etcd forgets the flags that restrict who gets in.
func TestGeneratedCertificateDoesNotLetEverybodyIn(t *testing.T) {
	f := newFixture(t)
	weirs := startPort(t, core, "https", "", "--auto-tls", f.ca, "--client-cert-auth")
	for _, v := range f.visitors[:2] {
		cfg := v.config(f.ours)
		cfg.InsecureSkipVerify = true
		if err := calls(t, weirs.addr, cfg); (err == nil) != (v.shows != nil) {
			t.Errorf("%s: %v", v.name, err)
		}
	}
}
