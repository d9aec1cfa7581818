package main

import (
	"fmt"
	"io"
	"net"
	"time"

	"weir/cmd/internal/process"
	"weir/grpcapi"
	"weir/grpcapi/statuspage"
	"weir/proxy"
)

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
	if l.clients, err = process.Inherit("listen-addr"); l.clients == nil && err == nil {
		l.clients, err = listenTCP(o.listenAddr, "listen-addr")
	}
	if err != nil {
		return l, err
	}
	for _, u := range o.metricsURLs {
		m, err := listenTCP(u.Host, "metrics-addr")
		if err != nil {
			return l, err
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

// newServer makes the server of all ports. page is nil if there is to be none.
func newServer(o options, p *proxy.Proxy, page *statuspage.Page, r *reload) (*grpcapi.Server, error) {
	metrics := grpcapi.NewMetrics()
	registry, err := process.NewRegistry("proxy", metrics, p, r)
	if err != nil {
		return nil, err
	}
	cfg := grpcapi.Config{
		MaxRequestBytes:       o.maxSendBytes,
		WatchProgressInterval: o.progressInterval,
		SlowClientTimeout:     o.slowClientTimeout,
		MaxConcurrentStreams:  uint32(o.maxConcurrentStreams),
		KeepAliveMinTime:      offIfZero(o.keepAliveMinTime),
		KeepAliveInterval:     offIfZero(o.keepAliveInterval),
		KeepAliveTimeout:      o.keepAliveTimeout,
		AdvertiseClientURL:    o.memberListURL(),
		KeepClientURLs:        o.embedded && o.advertiseClientURL != "",
		Gateway:               true,
		Pings:                 p,
		Metrics:               metrics,
		Gatherer:              registry,
		Pprof:                 o.enablePprof,
		Logger:                r.log.Logger,
	}
	if page != nil { // else the handlers would be interfaces that are not nil
		cfg.Status, cfg.Counts = page, page.Counts()
	}
	if gate := p.Gate(); gate != nil { // else Gate would be an interface that is not nil
		cfg.Gate = gate
	}
	if o.discovery.resolverPrefix != "" {
		cfg.Proxies = p.Proxies
	}
	return grpcapi.NewForwardServer(cfg, p, p, p), nil
}

// offIfZero is how grpcapi.Config says off: its zero is a default.
func offIfZero(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}

// start serves on every listener. Each sends its end to the channel, nil when it was told to.
func (l listeners) start(o options, c certificates, server *grpcapi.Server) <-chan error {
	ended := make(chan error, 1+len(l.metrics))
	go func() { ended <- server.Serve(l.clients, grpcapi.Port{TLS: c.clients}) }()
	for i, m := range l.metrics {
		port := grpcapi.Port{Only: grpcapi.OnlyMonitoring}
		if isSecure(o.metricsURLs[i]) {
			port.TLS = c.metrics
		}
		go func() { ended <- server.Serve(m, port) }()
	}
	return ended
}

// greet tells who started this without flags what they have.
func greet(w io.Writer, o options, address net.Addr) {
	etcdctl := "etcdctl --endpoints=" + address.String()
	if o.listen.HasCertificate() {
		etcdctl = "etcdctl --endpoints=https://" + address.String() + " --cacert=..."
	}
	fmt.Fprintf(w, "weir: a proxy with an embedded core\n  listens on  %s\n  data in     %s\n  try         %s put hello world\n",
		address, o.dataDir, etcdctl)
}
