package tlsfiles

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// shake connects a client at 127.0.0.1 with a server, and returns what the server says of the handshake.
func shake(t *testing.T, server, client *tls.Config) (tls.ConnectionState, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // a pipe would not do: both sides may write at once
	must(t, err)
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			l.Close()
			return
		}
		defer raw.Close()
		_, _ = tls.Client(raw, client).Read(make([]byte, 1)) // does the handshake, and takes the server's last word
	}()
	raw, err := l.Accept()
	must(t, err)
	c := tls.Server(raw, server)
	err = c.HandshakeContext(t.Context())
	raw.Close()
	<-done
	return c.ConnectionState(), err
}

// served is the certificate that a client is shown.
func served(t *testing.T, server *tls.Config, client *tls.Config) *x509.Certificate {
	t.Helper()
	client = client.Clone()
	var leaf *x509.Certificate
	client.VerifyConnection = func(s tls.ConnectionState) error {
		leaf = s.PeerCertificates[0]
		return nil
	}
	if _, err := shake(t, server, client); err != nil {
		t.Fatal(err)
	}
	return leaf
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// client trusts the authority and shows a certificate, unless it is empty.
func (a *authority) client(p pair) *tls.Config {
	a.t.Helper()
	c := &tls.Config{RootCAs: a.pool(), ServerName: "127.0.0.1"}
	if p.cert != "" {
		own, err := tls.X509KeyPair([]byte(p.cert), []byte(p.key))
		must(a.t, err)
		// Not Certificates: of those none is shown that does not fit the authorities that the server names.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil }
	}
	return c
}

func named(cn string) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.Subject.CommonName = cn }
}

func TestClientCertificatesAreJudged(t *testing.T) {
	f, ours, other := newFolder(t), newAuthority(t), newAuthority(t)
	cert, key := f.writePair("server", ours.issue(nil))
	ca := f.write("ca.crt", ours.pem())
	alice, revoked := ours.issue(named("alice")), ours.issue(named("bob"))
	crl := f.write("list.crl", ours.revoke(revoked.serial))
	expired := ours.issue(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	onlyServer := ours.issue(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	elsewhere := ours.issue(func(c *x509.Certificate) {
		c.IPAddresses, c.DNSNames = []net.IP{net.IPv4(10, 0, 0, 1)}, nil
	})
	nowhere := ours.issue(func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, nil })

	nobodyAsked := Server{}
	demanded := Server{TrustedCAFile: ca, ClientCertAuth: true}
	system := Server{ClientCertAuth: true}
	listed := Server{TrustedCAFile: ca, CRLFile: crl}
	byName := Server{TrustedCAFile: ca, AllowedCNs: []string{"carol", "alice"}}
	byHost := Server{TrustedCAFile: ca, AllowedHostnames: []string{"127.0.0.1", "example.org"}}
	byAddress := Server{TrustedCAFile: ca, CheckClientAddress: true}
	for _, c := range []struct {
		name   string
		server Server
		client pair
		want   string // empty: accepted
	}{
		{"nobody is asked", nobodyAsked, pair{}, ""},
		{"what nobody asked for is not shown", nobodyAsked, other.issue(nil), ""},
		{"signed", demanded, alice, ""},
		{"a CA alone demands certificates", Server{TrustedCAFile: ca}, pair{}, "didn't provide a certificate"},
		{"absent", demanded, pair{}, "didn't provide a certificate"},
		{"signed by somebody else", demanded, other.issue(nil), "unknown authority"},
		{"expired", demanded, expired, "expired"},
		{"not for clients", demanded, onlyServer, "incompatible key usage"},
		{"without a CA the system's count", system, alice, "unknown authority"},
		{"not on the list", listed, alice, ""},
		{"revoked", listed, revoked, "revoked"},
		{"allowed name", byName, alice, ""},
		{"another name", byName, revoked, `common name "bob" is not allowed`},
		{"no name", byName, nowhere, `common name "" is not allowed`},
		{"allowed host", byHost, alice, ""},
		{"another host", byHost, elsewhere, "none of the allowed hostnames"},
		{"from its address", byAddress, alice, ""},
		{"from another address", byAddress, elsewhere, "127.0.0.1"},
		{"for no address", byAddress, nowhere, ""},
		{"addresses do not matter", demanded, elsewhere, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.server.CertFile, c.server.KeyFile = cert, key
			cfg, err := c.server.Load(NewSet(quiet(), nil))
			must(t, err)
			state, err := shake(t, cfg, ours.client(c.client))
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			asks := c.server.AsksClients()
			if c.want == "" && len(state.VerifiedChains) > 0 != asks {
				t.Errorf("verified %d chains, asked for a certificate: %v", len(state.VerifiedChains), asks)
			}
		})
	}
}

// The list names an authority in the middle of the chain that a client shows.
func TestRevokedIntermediateIsRefused(t *testing.T) {
	f, root := newFolder(t), newAuthority(t)
	cert, key := f.writePair("server", root.issue(nil))
	middle := root.issue(func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
	})
	own, err := tls.X509KeyPair([]byte(middle.cert), []byte(middle.key))
	must(t, err)
	under := &authority{t: t, cert: own.Leaf, key: own.PrivateKey.(*ecdsa.PrivateKey), serial: 100}
	leaf := under.issue(nil)
	leaf.cert += middle.cert
	for _, c := range []struct {
		list string
		ok   bool
	}{{root.revoke(), true}, {root.revoke(middle.serial), false}} {
		cfg, err := Server{CertFile: cert, KeyFile: key, TrustedCAFile: f.write("ca.crt", root.pem()), CRLFile: f.write("list.crl", c.list)}.Load(NewSet(quiet(), nil))
		must(t, err)
		if _, err := shake(t, cfg, root.client(leaf)); (err == nil) != c.ok {
			t.Errorf("accepted should be %v: got %v", c.ok, err)
		}
	}
}

func TestChangedFilesCountFromTheNextHandshake(t *testing.T) {
	f, first, second := newFolder(t), newAuthority(t), newAuthority(t)
	log := &logged{}
	serve, ask := first.issue(nil), first.issue(nil)
	cert, key := f.writePair("server", serve)
	cfg, err := Server{CertFile: cert, KeyFile: key, TrustedCAFile: f.write("ca.crt", first.pem()), CRLFile: f.write("list.crl", first.revoke())}.Load(NewSet(log.logger(), nil))
	must(t, err)
	client := first.client(ask)
	if got := served(t, cfg, client); got.SerialNumber.Cmp(serve.serial) != 0 {
		t.Errorf("serial %v", got.SerialNumber)
	}

	serve = first.issue(nil)
	f.write("server.crt", serve.cert) // does not fit its key yet
	if got := served(t, cfg, client); got.SerialNumber.Cmp(serve.serial) == 0 {
		t.Error("half a pair was used")
	}
	f.write("server.key", serve.key)
	if got := served(t, cfg, client); got.SerialNumber.Cmp(serve.serial) != 0 {
		t.Errorf("serial %v", got.SerialNumber)
	}

	refused := func(what string, client *tls.Config) {
		t.Helper()
		if _, err := shake(t, cfg, client); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
	other := second.client(second.issue(nil))
	other.RootCAs = first.pool()
	refused("an authority that is not known yet", other)
	f.write("ca.crt", first.pem()+second.pem())
	served(t, cfg, other)
	served(t, cfg, client)
	f.write("list.crl", "not a list")
	served(t, cfg, client)
	f.write("list.crl", toPEM("X509 CRL", []byte(first.revoke(ask.serial))))
	refused("a certificate that has been revoked", client)
	f.write("list.crl", first.revoke())
	f.write("ca.crt", second.pem())
	refused("an authority that is not trusted any more", client)
	served(t, cfg, other)
	must(t, os.Remove(f.path("ca.crt")))
	served(t, cfg, other)
	if n := log.count(unusable); n != 3 { // half a pair, the list, the absent bundle
		t.Errorf("%d warnings: %s", n, log.buf.String())
	}
}

// Who writes a file in place has, for a moment, one that ends in the middle.
func TestFilesThatAreHalfWrittenDoNotCount(t *testing.T) {
	f, first, second := newFolder(t), newAuthority(t), newAuthority(t)
	second.serial = 100 // for a list revokes by serial numbers alone
	own, others := first.issue(nil), second.issue(nil)
	cert, key := f.writePair("server", first.issue(nil))
	list := func(a *authority, p pair) string { return toPEM("X509 CRL", []byte(a.revoke(p.serial))) }
	ca, crl := first.pem()+second.pem(), list(first, first.issue(nil))+list(second, others)
	cfg, err := Server{CertFile: cert, KeyFile: key, TrustedCAFile: f.write("ca.crt", ca), CRLFile: f.write("list.crl", crl)}.Load(NewSet(quiet(), nil))
	must(t, err)
	judge := func(what string) {
		t.Helper()
		served(t, cfg, first.client(own))
		client := second.client(others)
		client.RootCAs = first.pool()
		if _, err := shake(t, cfg, client); err == nil || !strings.Contains(err.Error(), "revoked") {
			t.Errorf("%s: the revoked client is told %v", what, err)
		}
	}
	judge("whole")
	f.write("list.crl", crl[:len(crl)-40])
	judge("half a list")
	f.write("ca.crt", ca[:len(ca)-40])
	judge("half a bundle")
}

// Who resumes a session is let in without showing a certificate again.
func TestResumedSessionIsJudgedByWhatTheFilesHoldNow(t *testing.T) {
	for name, version := range map[string]uint16{"1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13} {
		for change, apply := range map[string]func(folder, *authority, pair){
			"untrusted": func(f folder, _ *authority, _ pair) { f.write("ca.crt", newAuthority(t).pem()) },
			"revoked":   func(f folder, a *authority, own pair) { f.write("list.crl", a.revoke(own.serial)) },
		} {
			t.Run(name+"/"+change, func(t *testing.T) {
				f, a := newFolder(t), newAuthority(t)
				own := a.issue(nil)
				cert, key := f.writePair("server", a.issue(nil))
				cfg, err := Server{CertFile: cert, KeyFile: key, TrustedCAFile: f.write("ca.crt", a.pem()), CRLFile: f.write("list.crl", a.revoke())}.Load(NewSet(quiet(), nil))
				must(t, err)
				client := a.client(own)
				client.ClientSessionCache, client.MaxVersion = tls.NewLRUClientSessionCache(1), version
				if _, err := shake(t, cfg, client); err != nil {
					t.Fatal(err)
				}
				if state, err := shake(t, cfg, client); err != nil || !state.DidResume {
					t.Fatalf("resumed: %v, %v", state.DidResume, err)
				}
				apply(f, a, own)
				if state, err := shake(t, cfg, client); err == nil {
					t.Errorf("accepted, resumed: %v", state.DidResume)
				}
			})
		}
	}
}

func TestVersionsAndCipherSuitesAreThoseOfTheFlags(t *testing.T) {
	f, a := newFolder(t), newAuthority(t)
	cert, key := f.writePair("server", a.issue(nil))
	const gcm256, gcm128 = tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
	for _, c := range []struct {
		name   string
		server Server
		client func(*tls.Config)
		suite  uint16 // 0: any
		ok     bool
	}{
		{"old client", Server{}, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, 0, false},
		{"1.2", Server{}, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, 0, true},
		{"1.2 is too old", Server{MinVersion: "TLS1.3"}, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, 0, false},
		{"1.3", Server{MinVersion: "TLS1.3"}, func(*tls.Config) {}, 0, true},
		{"1.3 is too new", Server{MaxVersion: "TLS1.2"}, func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 }, 0, false},
		{"the one suite", Server{CipherSuites: []string{"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"}, MaxVersion: "TLS1.2"}, func(*tls.Config) {}, gcm256, true},
		{"no suite in common", Server{CipherSuites: []string{"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"}, MaxVersion: "TLS1.2"},
			func(c *tls.Config) { c.CipherSuites = []uint16{gcm128} }, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.server.CertFile, c.server.KeyFile = cert, key
			cfg, err := c.server.Load(NewSet(quiet(), nil))
			must(t, err)
			client := a.client(pair{})
			c.client(client)
			state, err := shake(t, cfg, client)
			if (err == nil) != c.ok || c.suite != 0 && state.CipherSuite != c.suite {
				t.Errorf("got %v with %s", err, tls.CipherSuiteName(state.CipherSuite))
			}
		})
	}
}

func TestBothProtocolsAreOffered(t *testing.T) {
	f, a := newFolder(t), newAuthority(t)
	cert, key := f.writePair("server", a.issue(nil))
	cfg, err := Server{CertFile: cert, KeyFile: key}.Load(NewSet(quiet(), nil))
	must(t, err)
	for _, offer := range [][]string{{"h2"}, {"http/1.1"}, {"h2", "http/1.1"}} {
		client := a.client(pair{})
		client.NextProtos = offer
		if state, err := shake(t, cfg, client); err != nil || state.NegotiatedProtocol != offer[0] {
			t.Errorf("%v: got %q, %v", offer, state.NegotiatedProtocol, err)
		}
	}
}

func TestContradictionsAreRefusedInOneLine(t *testing.T) {
	f, a := newFolder(t), newAuthority(t)
	cert, key := f.writePair("server", a.issue(nil))
	_, otherKey := f.writePair("other", a.issue(nil))
	ca, garbage := f.write("ca.crt", a.pem()), f.write("garbage", "x")
	for _, c := range []struct {
		Server
		want string
	}{
		{Server{CertFile: cert}, "--cert-file and --key-file go together"},
		{Server{Side: PeerSide, KeyFile: key}, "--peer-cert-file and --peer-key-file go together"},
		{Server{CertFile: cert, KeyFile: otherKey}, "load --cert-file=" + cert + " and --key-file=" + otherKey + ": "},
		{Server{CertFile: cert, KeyFile: f.path("none")}, "no such file or directory: give a file that this user can read"},
		{Server{CertFile: cert, KeyFile: key, ClientCertFile: cert}, "--client-cert-file and --client-key-file go together"},
		{Server{CertFile: cert, KeyFile: key, ClientCertFile: cert, ClientKeyFile: otherKey}, "load --client-cert-file="},
		{Server{TrustedCAFile: ca}, "--trusted-ca-file needs --cert-file and --key-file"},
		{Server{Side: PeerSide, ClientCertAuth: true}, "--peer-client-cert-auth needs --peer-cert-file and --peer-key-file"},
		{Server{CertFile: cert, KeyFile: key, TrustedCAFile: garbage}, "load --trusted-ca-file=" + garbage + ": it has no certificate"},
		{Server{CertFile: cert, KeyFile: key, TrustedCAFile: key}, "block 1 of it, PRIVATE KEY"},
		{Server{CertFile: cert, KeyFile: key, TrustedCAFile: ca, CRLFile: garbage}, "load --client-crl-file=" + garbage},
		{Server{Side: PeerSide, CertFile: cert, KeyFile: key, TrustedCAFile: ca, CRLFile: garbage}, "load --peer-crl-file=" + garbage},
		{Server{CertFile: cert, KeyFile: key, CRLFile: garbage}, "load --client-crl-file=" + garbage},
		{Server{Side: PeerSide, CertFile: cert, KeyFile: key, CRLFile: f.path("none")}, "no such file or directory: give a file that this user can read"},
		{Server{Side: PeerSide, CertFile: cert, KeyFile: key, TrustedCAFile: ca, AllowedCNs: []string{"a"}, AllowedHostnames: []string{"b"}},
			"--peer-cert-allowed-cn and --peer-cert-allowed-hostname exclude each other"},
		{Server{MinVersion: "TLS1.1"}, "unknown --tls-min-version=TLS1.1"},
		{Server{MaxVersion: "1.3"}, "unknown --tls-max-version=1.3"},
		{Server{MinVersion: "TLS1.3", MaxVersion: "TLS1.2"}, "--tls-min-version=TLS1.3 is above --tls-max-version=TLS1.2"},
		{Server{CipherSuites: []string{"ROT13"}}, `unknown cipher suite "ROT13" in --cipher-suites`},
		{Server{Side: PeerSide, CipherSuites: []string{""}}, `unknown cipher suite "" in --cipher-suites`},
		{Server{Side: ProxySide, MinVersion: "TLS1.3", CipherSuites: []string{"TLS_RSA_WITH_RC4_128_SHA"}}, "--listen-cipher-suites cannot be chosen for TLS1.3"},
		{Server{SelfSigned: &SelfSigned{Dir: f.dir}}, "--self-signed-cert-validity=0 is not possible with --auto-tls"},
		{Server{SelfSigned: &SelfSigned{Dir: garbage + "/dir", Years: 1}}, "--auto-tls: make a directory"},
	} {
		cfg, err := c.Load(NewSet(quiet(), nil))
		if cfg != nil || err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
	if cfg, err := (Server{MinVersion: "TLS1.2"}).Load(NewSet(quiet(), nil)); cfg != nil || err != nil {
		t.Errorf("without certificates: %v, %v", cfg, err)
	}
}

// Such flags are etcd's way, and so they are accepted; but whoever gave them should know what they do.
func TestWhatIsProbablyNotMeantIsLoggedOnce(t *testing.T) {
	f, a := newFolder(t), newAuthority(t)
	cert, key := f.writePair("server", a.issue(nil))
	oldCert, oldKey := f.writePair("old", a.issue(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }))
	soonCert, soonKey := f.writePair("soon", a.issue(func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().AddDate(-1, 0, 0), time.Now().AddDate(0, 0, 6)
	}))
	newCert, newKey := f.writePair("new", a.issue(func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().AddDate(0, 0, 1), time.Now().AddDate(0, 2, 0)
	}))
	ca, crl := f.write("ca.crt", a.pem()), f.write("list.crl", a.revoke())
	for _, c := range []struct {
		name string
		Server
		want string // empty: nothing
	}{
		{"all that is needed", Server{CertFile: cert, KeyFile: key, TrustedCAFile: ca, ClientCertAuth: true, CRLFile: crl}, ""},
		{"a list of nobody's certificates", Server{CertFile: cert, KeyFile: key, CRLFile: crl}, "[--client-crl-file]"},
		{"at a generated certificate", Server{SelfSigned: &SelfSigned{Dir: f.path("made"), Years: 1}, CRLFile: crl}, "give --trusted-ca-file to ask for them"},
		{"allowed peers", Server{Side: PeerSide, CertFile: cert, KeyFile: key, AllowedCNs: []string{"a"}, CRLFile: crl}, "[--peer-cert-allowed-cn --peer-crl-file]"},
		{"allowed hosts", Server{CertFile: cert, KeyFile: key, AllowedHostnames: []string{"a"}}, "[--client-cert-allowed-hostname]"},
		{"the system's authorities", Server{CertFile: cert, KeyFile: key, ClientCertAuth: true, CRLFile: crl}, "any authority that this system trusts"},
		{"expired", Server{CertFile: oldCert, KeyFile: oldKey}, "the certificate has expired"},
		{"expires this week", Server{CertFile: soonCert, KeyFile: soonKey}, "the certificate expires soon"},
		{"shown when connecting", Server{CertFile: cert, KeyFile: key, ClientCertFile: soonCert, ClientKeyFile: soonKey}, "replace --client-cert-file="},
		{"not valid yet", Server{CertFile: newCert, KeyFile: newKey}, "the certificate is not valid before"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := c.Load(NewSet(quiet(), nil)); err != nil {
				t.Fatal(err)
			}
			log := &logged{}
			c.Warn(log.logger())
			if lines := log.count("\n"); c.want == "" && lines > 0 || c.want != "" && (lines != 1 || log.count(c.want) != 1) {
				t.Errorf("want %q once, got %s", c.want, log.buf.String())
			}
		})
	}
}

func TestSuitesAreThoseOfEtcd(t *testing.T) {
	names := append(suiteNames(), "TLS_RSA_WITH_RC4_128_SHA", "TLS_AES_128_GCM_SHA256",
		"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305")
	if ids, err := suites("cipher-suites", names); err != nil || len(ids) != len(names) || slices.Contains(ids, 0) {
		t.Errorf("%v, %v", ids, err)
	}
}

func TestLoadKeepsTheCause(t *testing.T) {
	_, err := Server{CertFile: "/none", KeyFile: "/none"}.Load(NewSet(quiet(), nil))
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestVerifyTellsAllThatLoadRefusesAndMakesNothing(t *testing.T) {
	f, a := newFolder(t), newAuthority(t)
	cert, key := f.writePair("server", a.issue(nil))
	_, otherKey := f.writePair("other", a.issue(nil))
	ca, garbage := f.write("ca.crt", a.pem()), f.write("garbage", "garbage")
	for _, c := range []struct {
		Server
		want []string
	}{
		{Server{}, nil},
		{Server{CertFile: cert, KeyFile: key, TrustedCAFile: ca}, nil},
		{Server{SelfSigned: &SelfSigned{Dir: f.path("made"), Years: 1}, TrustedCAFile: ca}, nil},
		{Server{CertFile: cert, KeyFile: otherKey, TrustedCAFile: garbage, CRLFile: garbage}, []string{"private key does not match", "load --trusted-ca-file", "load --client-crl-file"}},
		{Server{SelfSigned: &SelfSigned{Dir: f.path("made"), Years: 1}, TrustedCAFile: garbage}, []string{"load --trusted-ca-file"}},
		{Server{KeyFile: key, ClientKeyFile: key, ClientCertAuth: true}, []string{"--cert-file and --key-file go", "--client-cert-file and", "--client-cert-auth needs"}},
	} {
		err := c.Verify()
		got := ""
		if err != nil {
			got = err.Error()
		}
		if lines := strings.Split(got, "\n"); got != "" && len(lines) != len(c.want) || got == "" && c.want != nil {
			t.Errorf("got %s, want %q", got, c.want)
		}
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	}
	if _, err := os.Stat(f.path("made")); err == nil {
		t.Error("it has made a certificate")
	}
}

func TestHostsForWhichACertificateIsNotAreNamed(t *testing.T) {
	f, a := newFolder(t), newAuthority(t)
	cert, key := f.writePair("server", a.issue(func(c *x509.Certificate) {
		c.DNSNames, c.IPAddresses = []string{"*.example.org"}, []net.IP{net.IPv4(10, 0, 0, 1)}
	}))
	s := Server{Side: PeerSide, CertFile: cert, KeyFile: key}
	if d := s.Misnamed("urls", []string{"a.example.org", "10.0.0.1"}); d != nil {
		t.Errorf("got %q", d)
	}
	d := s.Misnamed("urls", []string{"example.com", "10.0.0.2", "a.example.org", "10.0.0.2"})
	if len(d) != 2 || !strings.Contains(d[0], "not for 10.0.0.2, as which --urls") || !strings.Contains(d[1], "not for example.com") || !strings.Contains(d[1], "--peer-cert-file="+cert) {
		t.Errorf("got %q", d)
	}
}

func TestWhatIsProbablyNotMeantTowardsAClusterIsTold(t *testing.T) {
	f, a := newFolder(t), newAuthority(t)
	cert, key := f.writePair("old", a.issue(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }))
	for _, c := range []struct {
		Client
		want []string
	}{
		{Client{CAFile: "ca"}, nil},
		{Client{CAFile: "ca", SkipVerify: true, CertFile: cert, KeyFile: key}, []string{"--cacert says nothing", "has expired"}},
		{Client{SkipVerify: true}, []string{"give --cacert instead"}},
	} {
		d := c.Doubts(time.Now())
		if len(d) != len(c.want) {
			t.Errorf("got %q", d)
			continue
		}
		for i, want := range c.want {
			if !strings.Contains(d[i], want) {
				t.Errorf("got %q, want %s", d[i], want)
			}
		}
	}
}
