package tlsfiles

import (
	"crypto/tls"
	"strings"
	"testing"
)

// connect makes one connection of a client to a server as named, and returns what the client says of it.
func connect(t *testing.T, server *tls.Config, client func() *tls.Config, name string) (shown bool, err error) {
	t.Helper()
	cfg := client()
	cfg.ServerName = name
	verified := false
	cfg.VerifyConnection = func(tls.ConnectionState) error {
		verified = true
		return nil
	}
	state, err := shake(t, server, cfg)
	if !verified && err == nil {
		t.Fatal("the server was content, the client not")
	}
	return len(state.PeerCertificates) > 0, err
}

func TestClientUsesWhatItsFilesHoldNow(t *testing.T) {
	f, first, second, log := newFolder(t), newAuthority(t), newAuthority(t), &logged{}
	server := func(a *authority) *tls.Config {
		own := a.issue(nil)
		pair, err := tls.X509KeyPair([]byte(own.cert), []byte(own.key))
		must(t, err)
		return &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: a.pool()}
	}
	cert, key := f.writePair("client", first.issue(nil))
	client, name, err := Client{CertFile: cert, KeyFile: key, CAFile: f.write("ca.crt", first.pem())}.Load(NewSet(log.logger(), nil))
	must(t, err)
	if name != "" {
		t.Errorf("a certificate without a name has %q", name)
	}
	if shown, err := connect(t, server(first), client, "127.0.0.1"); err != nil || !shown {
		t.Errorf("certificate shown: %v, %v", shown, err)
	}
	if _, err := connect(t, server(first), client, "127.0.0.2"); err == nil {
		t.Error("connected with another host")
	}
	if _, err := connect(t, server(second), client, "127.0.0.1"); err == nil {
		t.Error("connected with an unknown authority")
	}
	f.write("ca.crt", second.pem())
	f.writePair("client", second.issue(nil))
	if _, err := connect(t, server(second), client, "127.0.0.1"); err != nil {
		t.Error(err)
	}
	f.writePair("client", second.issue(named("root")))
	if _, err := connect(t, server(second), client, "127.0.0.1"); err != nil {
		t.Error(err)
	}
	if log.count(`common name is \"root\" and was \"\"`) != 1 {
		t.Errorf("nothing is said of the common name: %s", log.buf.String())
	}
}

func TestClientMayTrustAnybody(t *testing.T) {
	f, a := newFolder(t), newAuthority(t)
	cert, key := f.writePair("server", a.issue(nil))
	server, err := Server{CertFile: cert, KeyFile: key}.Load(NewSet(quiet(), nil))
	must(t, err)
	client, _, err := Client{SkipVerify: true}.Load(NewSet(quiet(), nil))
	must(t, err)
	if _, err := connect(t, server, client, "example.org"); err != nil {
		t.Error(err)
	}
}

func TestClientWithoutFlagsHasNoConfiguration(t *testing.T) {
	if cfg, name, err := (Client{}).Load(NewSet(quiet(), nil)); cfg != nil || name != "" || err != nil {
		t.Errorf("got %v", err)
	}
}

func TestClientRefusesInOneLine(t *testing.T) {
	f, a := newFolder(t), newAuthority(t)
	cert, _ := f.writePair("named", a.issue(named("root")))
	garbage := f.write("garbage", "x")
	for _, c := range []struct {
		Client
		want string
	}{
		{Client{CertFile: cert}, "--cert and --key go together"},
		{Client{CertFile: garbage, KeyFile: garbage}, "load --cert=" + garbage + " and --key=" + garbage},
		{Client{CAFile: garbage}, "load --cacert=" + garbage + ": it has no certificate"},
		{Client{CAFile: f.path("none")}, "no such file"},
	} {
		cfg, _, err := c.Load(NewSet(quiet(), nil))
		if cfg != nil || err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}

func TestClientTellsItsCommonName(t *testing.T) {
	f, a := newFolder(t), newAuthority(t)
	cert, key := f.writePair("named", a.issue(named("root")))
	if _, name, err := (Client{CertFile: cert, KeyFile: key}).Load(NewSet(quiet(), nil)); name != "root" || err != nil {
		t.Errorf("got %q, %v", name, err)
	}
}
