package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/internal/bubble"

	"golang.org/x/net/dns/dnsmessage"
	"google.golang.org/grpc/test/bufconn"
)

func TestEndpointsAreThoseOfTheServices(t *testing.T) {
	const secure, insecure = "_etcd-client-ssl._tcp.example.com", "_etcd-client._tcp.example.com"
	type records = map[string][]dnsmessage.SRVResource
	cases := []struct {
		name    string
		d       Discovery
		records records
		want    string
		domain  string // that certificates must be for
		err     string
	}{
		{name: "with TLS", records: records{secure: {srv("a.example.com.", 2379), srv("b.example.com.", 1)}},
			want: "https://a.example.com:2379,https://b.example.com:1", domain: "example.com"},
		{name: "without TLS unasked", records: records{insecure: {srv("a.example.com.", 2379)}},
			err: "SRV records of " + secure + ": lookup " + secure},
		{name: "both unasked", records: records{secure: {srv("a.", 1)}, insecure: {srv("b.", 2)}}, want: "https://a:1", domain: "example.com"},
		{name: "without TLS", d: Discovery{Insecure: true}, records: records{insecure: {srv("a.", 2379)}}, want: "http://a:2379"},
		{name: "both", d: Discovery{Insecure: true}, records: records{secure: {srv("a.", 1)}, insecure: {srv("b.", 2)}}, want: "http://b:2,https://a:1"},
		{name: "insecure with TLS", d: Discovery{Insecure: true}, records: records{secure: {srv("a.", 1)}}, want: "https://a:1"},
		{name: "none", d: Discovery{Insecure: true}, err: "SRV records of " + insecure},
		{name: "suffix", d: Discovery{Service: "dev"}, records: records{secure: {srv("a.", 1)}, "_etcd-client-ssl-dev._tcp.example.com": {srv("b.", 1)}},
			want: "https://b:1", domain: "example.com"},
		{name: "insecure suffix", d: Discovery{Service: "dev", Insecure: true}, records: records{insecure: {srv("a.", 1)}, "_etcd-client-dev._tcp.example.com": {srv("b.", 1)}},
			want: "http://b:1"},
		{name: "said not to be there", records: records{secure: {srv(".", 0)}}, err: "they say that there is no such service"},
	}
	for _, c := range cases {
		dns := &fakeDNS{}
		for name, r := range c.records {
			dns.name(name, r...)
		}
		c.d.Domain, c.d.Resolver = "example.com", dns.resolver(t)
		found, err := c.d.lookup(t.Context())
		names := strings.Split(namesOf(found), ",")
		slices.Sort(names) // DNS shuffles
		if got := strings.Join(names, ","); got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: got %s, %v", c.name, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: not one line: %v", c.name, err)
		}
		for _, e := range found {
			if e.serverName != c.domain {
				t.Errorf("%s: the certificate of %s must be for %q, want %q", c.name, e.name, e.serverName, c.domain)
			}
		}
	}
}

const testService = "_etcd-client._tcp.example.com"

// network is members in memory, by the names of their endpoints. What is not there cannot be reached.
type network map[string]*bufconn.Listener

func (n network) dial(ctx context.Context, endpoint string) (net.Conn, error) {
	if l, ok := n[endpoint]; ok {
		return l.DialContext(ctx)
	}
	return nil, errors.New("no such host")
}

func (n network) add(t *testing.T, endpoint string) (stop func()) {
	n[endpoint] = bufconn.Listen(64 << 10)
	return serve(t, n[endpoint], echo).Stop
}

func currentIs(u *upstream, endpoint string) func() bool {
	return func() bool {
		c := u.current.Load()
		return c != nil && c.member.endpoint == endpoint
	}
}

func TestDNSIsAskedUntilItAnswersAndAgainWhenAllIsLost(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		dns := &fakeDNS{}
		net := network{}
		stop := net.add(t, "http://a:1")
		net.add(t, "http://b:2")
		p := newProxy(t, Config{Dial: net.dial, Discovery: Discovery{Domain: "example.com", Insecure: true, Resolver: dns.resolver(t)}})
		u := p.upstream
		time.Sleep(time.Minute)
		err := p.Ready(t.Context())
		if err == nil || !strings.Contains(err.Error(), "SRV records of "+testService) || strings.Contains(err.Error(), "\n") {
			t.Errorf("not ready because of %v", err)
		}
		dns.name(testService, srv("a.", 1))
		time.Sleep(lookupInterval + time.Second)
		await(t, u, currentIs(u, "http://a:1"))

		dns.mu.Lock()
		asked := dns.asked
		dns.mu.Unlock()
		dns.name(testService, srv("b.", 2))
		time.Sleep(time.Minute)
		dns.mu.Lock()
		again := dns.asked
		dns.mu.Unlock()
		if again != asked || !currentIs(u, "http://a:1")() {
			t.Errorf("a proxy that is content has asked %d times, and is connected to %s", again-asked, u.current.Load().member.endpoint)
		}

		delete(net, "http://a:1")
		stop()
		time.Sleep(lookupInterval + time.Second)
		await(t, u, currentIs(u, "http://b:2"))
		await(t, u, are(u, "http://b:2"))
		p.Close()
	})
}

func TestEndpointsAreUsedUntilDNSHasAnswered(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		dns := &fakeDNS{}
		net := network{}
		net.add(t, "http://a:1")
		net.add(t, "http://b:2")
		p := newProxy(t, Config{
			Endpoints: []string{"http://a:1"}, Dial: net.dial,
			Discovery: Discovery{Domain: "example.com", Insecure: true, Resolver: dns.resolver(t)},
		})
		u := p.upstream
		await(t, u, currentIs(u, "http://a:1"))
		dns.name(testService, srv("b.", 2))
		time.Sleep(lookupInterval + time.Second)
		await(t, u, are(u, "http://b:2"))
		p.Close()
	})
}

// DNS can be forged: a host that it names is believed only with a certificate for the domain, whatever it is called.
func TestDiscoveredMemberMustShowACertificateForTheDomain(t *testing.T) {
	for domain, want := range map[string]bool{"example.com": true, "evil.com": false} {
		ca, cert := selfSigned(t, domain)
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}})
		if err != nil {
			t.Fatal(err)
		}
		serve(t, l, echo)
		dns := &fakeDNS{}
		dns.name("_etcd-client-ssl._tcp.example.com", srv("localhost.", uint16(l.Addr().(*net.TCPAddr).Port)))
		roots := x509.NewCertPool()
		roots.AddCert(ca)
		p := newProxy(t, Config{
			TLS: func() *tls.Config { return &tls.Config{RootCAs: roots} },
			Dial: func(ctx context.Context, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
			},
			Discovery: Discovery{Domain: "example.com", Resolver: dns.resolver(t)},
		})
		u := p.upstream
		await(t, u, func() bool { return len(u.members) == 1 && (u.current.Load() != nil || u.members[0].failed) })
		err = p.Ready(t.Context())
		if (err == nil) != want || err != nil && !strings.Contains(err.Error(), "certificate is valid for "+domain+", not example.com") {
			t.Errorf("certificate for %s: %v", domain, err)
		}
		p.Close()
	}
}
