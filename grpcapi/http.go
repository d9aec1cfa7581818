package grpcapi

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// endpoints are what a Server serves over HTTP beside the gateway, each under its pattern.
type endpoints map[string]http.Handler

// monitoring are those that a port of OnlyMonitoring has.
func (e endpoints) monitoring() endpoints {
	only := endpoints{}
	for pattern, h := range e {
		if !slices.Contains([]string{"/version", "/debug/vars"}, pattern) {
			only[pattern] = h
		}
	}
	return only
}

func (e endpoints) mux() *http.ServeMux {
	mux := http.NewServeMux()
	for pattern, h := range e {
		mux.Handle(pattern, h)
	}
	return mux
}

// serveHTTP makes the handlers of all that is not gRPC. names tells whether certificates name users now; nil is never.
func (s *Server) serveHTTP(own endpoints, names func(context.Context) bool) {
	if s.cfg.HTTP != nil {
		own["/"] = s.cfg.HTTP
	}
	s.monitor = own.monitoring().mux()
	mux := own.mux()
	if s.cfg.Pprof {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	guard := &accessGuard{handler: mux, origins: s.cfg.CORS, hosts: s.cfg.HostWhitelist, names: names}
	if s.cfg.Gateway {
		mux.Handle("/v3/", newGateway(s.loopback.conn, s.cfg.MaxRequestBytes+frameOverhead, guard.origins))
	}
	s.rest = guard
}

// trafficKey is where the context of a connection has what its port carries.
type trafficKey struct{}

// baseContext is http.Server.BaseContext. It ends with the server: a connection that a WebSocket took over has no other end.
func (s *Server) baseContext(l net.Listener) context.Context {
	return context.WithValue(s.life.cut, trafficKey{}, l.(httpListener).only)
}

// accessGuard keeps pages of strangers in a browser from using a server that only the browser can reach, as far as its
// configuration says. It does to a request and its answer what etcd does.
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
	if origin, ok := g.origins.header(r.Header.Get("Origin")); ok {
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

// onlyGet refuses other methods, HEAD too, as etcd does.
func onlyGet(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w.Header().Set("Allow", http.MethodGet)
			http.Error(w, "Method Not Allowed", http.StatusMethodNotAllowed)
			return
		}
		h(w, r)
	})
}

// metrics serves what g gathers, in the text format.
func metrics(g prometheus.Gatherer) http.Handler {
	return promhttp.HandlerFor(g, promhttp.HandlerOpts{})
}
