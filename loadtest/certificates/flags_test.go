package certificates

import (
	"crypto/tls"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
)

// fixture is what the flags of all cases are made from.
type fixture struct {
	*testing.T
	folder
	ours     *authority
	revoked  pair
	visitors []visitor

	own []string // flags of the port's own certificate
	ca  string   // the flag of its authority, which demands certificates
	crl string   // the flag of a list that has the certificate of "revoked"
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	f := &fixture{T: t, folder: newFolder(t), ours: newAuthority(t)}
	f.revoked = f.ours.issue(nil)
	f.visitors = people(f.ours, f.revoked)
	f.own = f.flags("server", f.ours.issue(nil))
	f.ca = "--trusted-ca-file=" + f.write("ca.crt", f.ours.pem())
	f.crl = "--client-crl-file=" + f.write("list.crl", f.ours.revoke(f.revoked))
	return f
}

// with are flags beside those of the port's own certificate.
func (f *fixture) with(flags ...string) []string {
	return append(f.own[:len(f.own):len(f.own)], flags...)
}

// flagCase is a port with some flags.
type flagCase struct {
	name  string
	flags []string
	ways  []way     // nil: all ways to the clients' port
	more  []visitor // beside those of the fixture
	in    []string  // the visitors that are let in
}

// way is how to try to get in.
type way struct {
	name string
	try  func(t *testing.T, p *port, cfg *tls.Config) error
}

// inGRPC are the ways of gRPC clients, whose implementations differ in what they offer in ALPN.
func inGRPC() []way {
	return []way{
		{"gRPC", func(t *testing.T, p *port, cfg *tls.Config) error { return calls(t, p.addr, cfg) }},
		{"gRPC that offers HTTP/1.1 too", func(t *testing.T, p *port, cfg *tls.Config) error {
			cfg.NextProtos = []string{"h2", "http/1.1"}
			return calls(t, p.addr, cfg)
		}},
	}
}

// inHTTP are the ways of HTTP clients to one of the port's addresses.
func inHTTP(path string, addr func(*port) string) []way {
	return []way{
		{"HTTP/1.1", func(t *testing.T, p *port, cfg *tls.Config) error { return gets(t, addr(p), path, cfg, false) }},
		{"HTTP/2", func(t *testing.T, p *port, cfg *tls.Config) error { return gets(t, addr(p), path, cfg, true) }},
	}
}

func clientsAddr(p *port) string { return p.addr }
func metricsAddr(p *port) string { return p.metrics }
func peersAddr(p *port) string   { return p.peers }

func cipher(ids ...uint16) func(*tls.Config) {
	return func(c *tls.Config) { c.MaxVersion, c.CipherSuites = tls.VersionTLS12, ids }
}

func version(v uint16) func(*tls.Config) {
	return func(c *tls.Config) { c.MinVersion, c.MaxVersion = v, v }
}

// everybody is all who want in, and more.
func (f *fixture) everybody(more ...string) []string {
	var names []string
	for _, v := range f.visitors {
		if v.change == nil {
			names = append(names, v.name)
		}
	}
	return append(names, more...)
}

// signed are those whose certificates the authority has signed for clients and today, but for some.
func signed(but ...string) []string {
	all := []string{"alice", "nameless", "revoked", "with a certificate for elsewhere", "with a certificate for nowhere"}
	return slices.DeleteFunc(all, func(name string) bool { return slices.Contains(but, name) })
}

// For both of weir's programs.
func portCases(f *fixture, suitesFlag string) []flagCase {
	versions := []visitor{
		alice(f.ours, "with TLS 1.1", version(tls.VersionTLS11)),
		alice(f.ours, "with TLS 1.2", version(tls.VersionTLS12)),
		alice(f.ours, "with TLS 1.3", version(tls.VersionTLS13)),
		alice(f.ours, "with AES 128", cipher(tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256)),
		alice(f.ours, "with AES 256", cipher(tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384)),
	}
	return []flagCase{
		{name: "a certificate", flags: f.with(), more: versions,
			in: f.everybody("with TLS 1.2", "with TLS 1.3", "with AES 128", "with AES 256")},
		{name: "an authority", flags: f.with(f.ca), in: signed()},
		{name: "a revocation list", flags: f.with(f.ca, f.crl), in: signed("revoked")},
		{name: "a revocation list, where nobody is asked", flags: f.with(f.crl), in: f.everybody()},
		{name: "at least 1.3", flags: f.with("--tls-min-version=TLS1.3"), more: versions, in: f.everybody("with TLS 1.3")},
		{name: "at most 1.2", flags: f.with("--tls-max-version=TLS1.2"), more: versions,
			in: f.everybody("with TLS 1.2", "with AES 128", "with AES 256")},
		{name: "cipher suites", more: versions, in: f.everybody("with TLS 1.2", "with TLS 1.3", "with AES 128"),
			flags: f.with(suitesFlag + "=TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305")},
	}
}

// For the core.
func coreCases(f *fixture) []flagCase {
	return []flagCase{
		{name: "client-cert-auth", flags: f.with(f.ca, "--client-cert-auth"), in: signed()},
		{name: "client-cert-auth without an authority", flags: f.with("--client-cert-auth")},
		{name: "an allowed host", flags: f.with(f.ca, "--client-cert-allowed-hostname=example.org,127.0.0.1"),
			in: signed("with a certificate for elsewhere", "with a certificate for nowhere")},
		{name: "an allowed host, where nobody is asked", flags: f.with("--client-cert-allowed-hostname=example.org"), in: f.everybody()},
		{name: "a certificate for peers", in: f.everybody(),
			flags: f.with("--client-cert-file="+f.path("server.crt"), "--client-key-file="+f.path("server.key"))},
		{name: "gRPC and HTTP on ports of their own", ways: append(inGRPC(), inHTTP("/health", metricsAddr)...),
			flags: f.with(f.ca, f.crl, "--listen-client-http-urls=https://%METRICS%"), in: signed("revoked")},
	}
}

// For metrics, where a client's certificate must be for its address.
func metricsCases(f *fixture, metricsFlag string) []flagCase {
	flag, ways := metricsFlag+"=https://%METRICS%", inHTTP("/health", metricsAddr)
	return []flagCase{
		{name: "metrics", flags: f.with(f.ca, flag), ways: ways, in: signed("with a certificate for elsewhere")},
		{name: "metrics and a revocation list", flags: f.with(f.ca, f.crl, flag), ways: ways,
			in: signed("revoked", "with a certificate for elsewhere")},
	}
}

// For peers, where it must be too.
func peerCases(f *fixture) []flagCase {
	ways := inHTTP("/version", peersAddr)[:1] // in ALPN etcd's agrees to HTTP/2, and then speaks HTTP/1.1
	return []flagCase{
		{name: "peers", flags: f.peers(), ways: ways, in: f.everybody()},
		{name: "peers and an authority", flags: f.peers(f.ca), ways: ways, in: signed("with a certificate for elsewhere")},
		{name: "peers from anywhere", flags: f.peers(f.ca, "--skip-client-san-verification"), ways: ways, in: signed()},
		{name: "peers and a revocation list", flags: f.peers(f.ca, strings.Replace(f.crl, "client-", "", 1)), ways: ways,
			in: signed("revoked", "with a certificate for elsewhere")},
		{name: "peers of a name", flags: f.peers(f.ca, "--client-cert-auth", "--cert-allowed-cn=bob,alice"), ways: ways, in: []string{"alice"}},
		{name: "peers of a host", flags: f.peers(f.ca, "--cert-allowed-hostname=127.0.0.1"), ways: ways,
			in: signed("with a certificate for elsewhere", "with a certificate for nowhere")},
	}
}

// peers are the flags of a member whose peers' URL has TLS. More flags are given without "peer-".
func (f *fixture) peers(more ...string) []string {
	flags := []string{"--listen-peer-urls=https://%PEERS%", "--initial-advertise-peer-urls=https://%PEERS%", "--initial-cluster=m=https://%PEERS%"}
	for _, flag := range append(more, f.own...) {
		flags = append(flags, "--peer-"+strings.TrimPrefix(flag, "--"))
	}
	return flags
}

func TestPortsLetInAndKeepOutWhomEtcdDoes(t *testing.T) {
	f := newFixture(t)
	upstream := startUpstream(t)
	for p, cases := range map[program][]flagCase{
		core:  slices.Concat(portCases(f, "--cipher-suites"), coreCases(f), metricsCases(f, "--listen-metrics-urls")),
		proxy: append(portCases(f, "--listen-cipher-suites"), metricsCases(f, "--metrics-addr")...),
	} {
		for _, c := range cases {
			t.Run(string(p)+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				weirs, etcds := startBoth(t, p, "https", upstream, c.flags...)
				visit(t, f, c, weirs, etcds)
				for _, p := range []*port{weirs, etcds} {
					if answer := plainly(t, p.addr); strings.HasSuffix(answer, "200") {
						t.Errorf("%s answered without TLS: %s", p.program, answer)
					}
				}
			})
		}
	}
	for _, c := range peerCases(f) {
		t.Run("core/"+c.name, func(t *testing.T) {
			t.Parallel()
			weirs, etcds := startBoth(t, core, "http", "", c.flags...)
			visit(t, f, c, weirs, etcds)
		})
	}
}

func TestCertificatesDoNotMatterAtAURLWithoutTLS(t *testing.T) {
	f := newFixture(t)
	weirs, etcds := startBoth(t, core, "http", "", f.with(f.ca, "--client-cert-auth")...)
	for _, p := range []*port{weirs, etcds} {
		if err := calls(t, p.addr, nil); err != nil {
			t.Errorf("%s: %v", p.program, err)
		}
	}
}

// visit lets everybody try every way into both ports.
func visit(t *testing.T, f *fixture, c flagCase, weirs, etcds *port) {
	t.Helper()
	ways := c.ways
	if ways == nil {
		ways = append(inGRPC(), inHTTP("/health", clientsAddr)...)
	}
	for _, v := range append(f.visitors[:len(f.visitors):len(f.visitors)], c.more...) {
		letIn := slices.Contains(c.in, v.name)
		for _, w := range ways {
			got, want := w.try(t, weirs, v.config(f.ours)), w.try(t, etcds, v.config(f.ours))
			if (want == nil) != letIn {
				t.Errorf("%s %s: %s should let in: %v; it says %v", w.name, v.name, etcds.program, letIn, want)
			}
			if (got == nil) != letIn {
				t.Errorf("%s %s: %s should let in: %v; it says %v", w.name, v.name, weirs.program, letIn, got)
			}
		}
	}
}

// plainly asks in HTTP without TLS, and returns the beginning of the answer.
func plainly(t *testing.T, addr string) string {
	t.Helper()
	c, err := net.DialTimeout("tcp", addr, patience)
	must(t, err)
	defer c.Close()
	if _, err := io.WriteString(c, "GET /health HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		return ""
	}
	answer, _ := io.ReadAll(io.LimitReader(c, int64(len("HTTP/1.1 200")))) // it may be cut off
	return string(answer)
}
