package grpcapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
)

// accessGuard keeps pages of strangers in a browser from using a server that only the browser can reach, as far as its
// configuration says. It does to a request and its answer what etcd does. The status page, which etcd has not, may be read by
// the pages of those origins alone that are named.
type accessGuard struct {
	handler http.Handler
	origins origins
	hosts   []string
	names   func(context.Context) bool // as for serveHTTP
}

func (g *accessGuard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// The path of 3.2's gateway, which etcd still takes.
	if rest, ok := strings.CutPrefix(r.URL.Path, "/v3beta/"); ok {
		r.URL.Path = "/v3/" + rest
	}
	// DNS rebinding (CVE-2018-5702) does not get past a certificate.
	if host := hostname(r); r.TLS == nil && !g.allowsHost(host) {
		http.Error(w, fmt.Sprintf("host %q is not one of this server's: add it to --host-whitelist, or use TLS", host), http.StatusMisdirectedRequest)
		return
	}
	if g.names != nil && strings.HasPrefix(r.URL.Path, "/v3/") && hasName(r.TLS) && g.names(r.Context()) {
		http.Error(w, "CommonName of client sending a request against gateway will be ignored and not used as expected", http.StatusBadRequest)
		return
	}
	if origin, ok := g.origins.header(r.Header.Get("Origin")); ok && (origin != "*" || !strings.HasPrefix(r.URL.Path, "/weir/")) {
		h := w.Header()
		h.Set("Access-Control-Allow-Methods", "POST, GET, OPTIONS, PUT, DELETE")
		h.Set("Access-Control-Allow-Origin", origin)
		h.Set("Access-Control-Allow-Headers", "accept, content-type, authorization")
	}
	if r.Method == http.MethodOptions {
		return // asks for these headers
	}
	g.handler.ServeHTTP(w, r)
}

func (g *accessGuard) allowsHost(name string) bool {
	return len(g.hosts) == 0 || slices.Contains(g.hosts, "*") || slices.Contains(g.hosts, name)
}

// hasName tells whether a client has shown a certificate with a common name. c may be nil.
func hasName(c *tls.ConnectionState) bool {
	return c != nil && slices.ContainsFunc(c.VerifiedChains, func(chain []*x509.Certificate) bool {
		return len(chain) > 0 && chain[0].Subject.CommonName != ""
	})
}

func hostname(r *http.Request) string {
	if h, _, err := net.SplitHostPort(r.Host); err == nil {
		return h
	}
	return r.Host
}

// origins are those whose pages may use the server: "https://example.org". None are all.
type origins []string

func (o origins) all() bool { return len(o) == 0 || slices.Contains(o, "*") }

// allow tells whether a request may be served whose Origin header this is. Who is no browser has none.
func (o origins) allow(origin string) bool {
	return origin == "" || o.all() || slices.Contains(o, origin)
}

// header is the value of Access-Control-Allow-Origin, if there is to be one.
func (o origins) header(origin string) (value string, ok bool) {
	if o.all() {
		return "*", true
	}
	return origin, slices.Contains(o, origin)
}
