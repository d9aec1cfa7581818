package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
)

func TestMemberIsReachedInHTTPLikeItsRPCs(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, "something 1\n")
	})
	plain, secure := httptest.NewServer(handler), httptest.NewTLSServer(handler)
	defer plain.Close()
	defer secure.Close()
	socket := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	local := &httptest.Server{Listener: l, Config: &http.Server{Handler: handler}}
	local.Start()
	defer local.Close()
	broken := httptest.NewServer(http.NotFoundHandler())
	defer broken.Close()

	pool := x509.NewCertPool()
	pool.AddCert(secure.Certificate())
	trusting := func() *tls.Config { return &tls.Config{RootCAs: pool} }
	for _, c := range []struct {
		endpoint string
		tls      func() *tls.Config
		wrong    string // a part of the error
	}{
		{plain.URL, nil, ""},
		{plain.URL, trusting, ""},
		{strings.TrimPrefix(plain.URL, "http://"), nil, ""},
		{secure.URL, trusting, ""},
		{strings.TrimPrefix(secure.URL, "https://"), trusting, ""},
		{"unix://" + socket, nil, ""},
		{secure.URL, nil, "certificate"},
		{broken.URL, nil, "404"},
		{"unix://" + socket + "x", nil, "no such file"},
	} {
		cfg := Config{TLS: c.tls, MaxRecvBytes: 1}
		e, err := cfg.endpoint(c.endpoint)
		if err != nil {
			t.Fatal(err)
		}
		m, err := newMember(e, cfg)
		if err != nil {
			t.Fatal(err)
		}
		body, err := m.get(t.Context(), "/metrics")
		switch {
		case c.wrong != "":
			if err == nil || !strings.Contains(err.Error(), c.wrong) || !strings.Contains(err.Error(), c.endpoint) {
				t.Errorf("%s: got %v, want %s", c.endpoint, err, c.wrong)
			}
		case err != nil:
			t.Errorf("%s: %v", c.endpoint, err)
		default:
			raw, err := io.ReadAll(body)
			if err != nil || string(raw) != "something 1\n" {
				t.Errorf("%s: got %q, %v", c.endpoint, raw, err)
			}
			body.Close()
		}
		m.conn.Close()
	}
}
