package grpcapi

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"slices"

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
	monitored := own.monitoring()
	if s.cfg.Counts != nil {
		monitored["/weir/status"] = s.cfg.Counts
	}
	if s.cfg.Status != nil {
		own["/weir/"] = s.cfg.Status
	}
	s.monitor = monitored.mux()
	mux := own.mux()
	if s.cfg.Pprof {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, os.Args[0]) // and not its arguments, which may have the password of a proxy
		})
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
