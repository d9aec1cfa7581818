package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"weir/cmd/internal/process"
	"weir/grpcapi"
	"weir/proxy"
)

// headerTimeout bounds the reading of one HTTP request's header on --metrics-addr.
const headerTimeout = time.Minute

// listeners are open from before anything else starts, so that a taken port costs nothing.
type listeners struct {
	clients net.Listener
	metrics []net.Listener
}

func listen(o options) (l listeners, err error) {
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if l.clients, err = listenTCP(o.listenAddr, "listen-addr"); err != nil {
		return l, err
	}
	for _, u := range o.metricsURLs {
		m, err := listenTCP(u.Host, "metrics-addr")
		if err != nil {
			return l, err
		}
		if u.Scheme == "https" {
			m = tls.NewListener(m, o.listenTLS)
		}
		l.metrics = append(l.metrics, m)
	}
	return l, nil
}

func listenTCP(address, flag string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, process.ListenError(address, flag, err)
	}
	return l, nil
}

func (l listeners) close() {
	if l.clients != nil {
		l.clients.Close()
	}
	for _, m := range l.metrics {
		m.Close()
	}
}

// httpHandler answers HTTP/1 on the clients' port and all requests on --metrics-addr.
func httpHandler(o options, p *proxy.Proxy) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", grpcapi.UpstreamHTTP(p))
	mux.HandleFunc("GET /weir/status", statusHandler(p))
	if o.enablePprof {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// newServers makes the server for clients and the one for --metrics-addr.
func newServers(o options, p *proxy.Proxy, logger *slog.Logger) (*grpcapi.Server, *http.Server) {
	handler := httpHandler(o, p)
	clients := grpcapi.NewForwardServer(grpcapi.Config{
		MaxRequestBytes:       o.maxSendBytes,
		WatchProgressInterval: o.progressInterval,
		SlowClientTimeout:     o.slowClientTimeout,
		MaxConcurrentStreams:  uint32(o.maxConcurrentStreams),
		KeepAliveMinTime:      offIfZero(o.keepAliveMinTime),
		KeepAliveInterval:     offIfZero(o.keepAliveInterval),
		KeepAliveTimeout:      o.keepAliveTimeout,
		TLS:                   o.listenTLS,
		HTTP:                  handler,
		Logger:                logger,
	}, p, p, p)
	return clients, &http.Server{Handler: handler, ReadHeaderTimeout: headerTimeout}
}

// offIfZero is how grpcapi.Config says off: its zero is a default.
func offIfZero(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// start serves on every listener. Each sends its end to the channel, nil when it was told to.
func (l listeners) start(clients *grpcapi.Server, metrics *http.Server) <-chan error {
	ended := make(chan error, 1+len(l.metrics))
	go func() { ended <- clients.Serve(l.clients) }()
	for _, m := range l.metrics {
		go func() {
			err := metrics.Serve(m)
			if errors.Is(err, http.ErrServerClosed) {
				err = nil
			}
			ended <- err
		}()
	}
	return ended
}

// greet tells who started this without flags what they have.
func greet(w io.Writer, o options, address net.Addr) {
	etcdctl := "etcdctl --endpoints=" + address.String()
	if o.listenTLS != nil {
		etcdctl = "etcdctl --endpoints=https://" + address.String() + " --cacert=..."
	}
	fmt.Fprintf(w, "weir: a proxy with an embedded core\n  listens on  %s\n  data in     %s\n  try         %s put hello world\n",
		address, o.dataDir, etcdctl)
}
