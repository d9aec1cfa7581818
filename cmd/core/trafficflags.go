package main

import (
	"fmt"
	"math"
	"net/url"
	"strings"
	"time"

	"weir/cmd/internal/process"
)

// trafficFlags are where this member listens, and what it lets clients do there.
type trafficFlags struct {
	clients, http, metrics, peers string
	reuseAddress, reusePort       bool

	maxTxnOps, maxRequestBytes, maxConcurrentStreams      uint
	keepAliveMinTime, keepAliveInterval, keepAliveTimeout time.Duration
	progressInterval, warnUnary                           time.Duration

	gateway, reflection, pprof bool
	statusPage                 bool
	cors, hostWhitelist        string
	metricsLevel               string
}

// maxRequestLimit keeps a request within what one record of the log, and one gRPC message, can hold.
const maxRequestLimit = 512 << 20

func (t *trafficFlags) define(f *process.Flags) {
	f.StringVar(&t.clients, "listen-client-urls", defaultClientURL, "List of URLs to listen on for client traffic: gRPC, and HTTP unless --listen-client-http-urls is given.")
	f.StringVar(&t.http, "listen-client-http-urls", "", "List of URLs to listen on for client traffic in HTTP alone.")
	f.StringVar(&t.metrics, "listen-metrics-urls", "", "List of URLs to listen on for metrics and health alone.")
	f.StringVar(&t.peers, "listen-peer-urls", defaultPeerURL, "List of URLs to listen on for peer traffic.")
	f.BoolVar(&t.reuseAddress, "socket-reuse-address", false, "Listen on an address that connections in TIME_WAIT still have. This is always so.")
	f.BoolVar(&t.reusePort, "socket-reuse-port", false, "Listen on a port that another process listens on, if that has set SO_REUSEPORT too.")

	f.UintVar(&t.maxTxnOps, "max-txn-ops", 128, "Maximum number of operations permitted in a transaction.")
	f.UintVar(&t.maxRequestBytes, "max-request-bytes", 3<<19, "Maximum client request size in bytes the server will accept.")
	f.UintVar(&t.maxConcurrentStreams, "max-concurrent-streams", math.MaxUint32, "Maximum concurrent RPCs on one client connection.")
	f.DurationVar(&t.keepAliveMinTime, "grpc-keepalive-min-time", 5*time.Second, "Minimum time between a client's pings.")
	f.DurationVar(&t.keepAliveInterval, "grpc-keepalive-interval", 2*time.Hour, "Time without traffic after which a client is pinged (0 to disable).")
	f.DurationVar(&t.keepAliveTimeout, "grpc-keepalive-timeout", 20*time.Second, "Time to wait for the answer to such a ping (0 is 20s).")
	f.DurationVar(&t.progressInterval, "watch-progress-notify-interval", 10*time.Minute, "Duration of periodic watch progress notifications, at least 100ms (0 is 10m).")
	f.DurationVar(&t.warnUnary, "warning-unary-request-duration", 300*time.Millisecond, "Time after which a unary RPC is logged as slow (0 is 300ms).")

	f.BoolVar(&t.gateway, "enable-grpc-gateway", true, "Serve the API as JSON over HTTP too.")
	f.BoolVar(&t.reflection, "enable-grpc-reflection", false, "Serve gRPC's reflection service, by which tools find services and messages. Not a flag of etcd.")
	f.BoolVar(&t.pprof, "enable-pprof", false, "Serve runtime profiling data at /debug/pprof/. So does --log-level=debug.")
	f.BoolVar(&t.statusPage, "status-page", true, "Serve a page at /weir/ that shows what this member does, and the same as JSON. Where authentication is on it is for users with the role root. Not a flag of etcd.")
	f.StringVar(&t.cors, "cors", "*", "List of origins whose pages may use HTTP (empty or * is all).")
	f.StringVar(&t.hostWhitelist, "host-whitelist", "*", "List of names by which clients may call this server in HTTP without TLS (empty or * is all).")
	f.StringVar(&t.metricsLevel, "metrics", "basic", "Detail of metrics: 'basic', or 'extensive' to measure how long RPCs take.")
}

func (t *trafficFlags) apply(f *process.Flags, o *options) error {
	var wrong process.Mistakes
	f.NoEffect("socket-reuse-address", "it is always so")
	for _, list := range []struct {
		flag, value, byDefault string
		urls                   *[]*url.URL
	}{
		{"listen-client-urls", t.clients, defaultClientURL, &o.listen.clients},
		{"listen-client-http-urls", t.http, "", &o.listen.http},
		{"listen-metrics-urls", t.metrics, "", &o.listen.metrics},
		{"listen-peer-urls", t.peers, defaultPeerURL, &o.listen.peers},
	} {
		if list.value == "" {
			list.value = list.byDefault // as at etcd
		}
		urls, err := parseListenURLs(list.flag, list.value)
		wrong.Add(err)
		*list.urls = urls
	}
	wrong.Add(o.listen.checkAddresses())
	o.listen.reusePort = t.reusePort
	wrong.Add(oneOf("metrics", t.metricsLevel, "basic", "extensive"))
	o.extensiveMetrics, o.statusPage = t.metricsLevel == "extensive", t.statusPage
	wrong.Add(t.applyAPI(o))
	return wrong.Err()
}

func (t *trafficFlags) applyAPI(o *options) error {
	var wrong process.Mistakes
	if t.maxRequestBytes > maxRequestLimit {
		wrong.Addf("--max-request-bytes=%d is not possible: at most %d", t.maxRequestBytes, maxRequestLimit)
	}
	if t.maxTxnOps > math.MaxInt32 {
		wrong.Addf("--max-txn-ops=%d is not possible: at most %d", t.maxTxnOps, math.MaxInt32)
	}
	if t.maxConcurrentStreams > math.MaxUint32 {
		wrong.Addf("--max-concurrent-streams=%d is not possible: at most %d", t.maxConcurrentStreams, math.MaxUint32)
	}
	if t.progressInterval < 0 {
		wrong.Addf("--watch-progress-notify-interval=%v is not possible: it must not be negative", t.progressInterval)
	}
	if t.warnUnary < 0 {
		wrong.Addf("--warning-unary-request-duration=%v is not possible: it must not be negative", t.warnUnary)
	}
	cors, err := parseOrigins(t.cors)
	wrong.Add(err)
	a := &o.api
	a.MaxRequestBytes, a.MaxTxnOps, a.MaxConcurrentStreams = int(t.maxRequestBytes), int(t.maxTxnOps), uint32(t.maxConcurrentStreams)
	o.core.MaxRequestBytes = a.MaxRequestBytes
	a.KeepAliveMinTime, a.KeepAliveInterval = offIfZero(t.keepAliveMinTime), offIfZero(t.keepAliveInterval)
	a.KeepAliveTimeout = max(t.keepAliveTimeout, 0)
	a.WatchProgressInterval, a.WarnUnary = t.progressInterval, t.warnUnary
	if a.WarnUnary == 0 {
		a.WarnUnary = 300 * time.Millisecond // as at etcd
	}
	a.Gateway, a.Reflection, a.Pprof = t.gateway, t.reflection, t.pprof
	a.CORS, a.HostWhitelist = cors, splitList(t.hostWhitelist)
	return wrong.Err()
}

// parseOrigins reads a list of origins (RFC 6454): a scheme, a host and, if it is not the scheme's own, a port. etcd demands
// the port always, which browsers leave out.
func parseOrigins(list string) ([]string, error) {
	if list == "*" {
		return nil, nil
	}
	origins := splitList(list)
	for _, s := range origins {
		u, err := url.Parse(s)
		if s == "*" || err == nil && u.Host != "" && s == u.Scheme+"://"+u.Host && strings.HasPrefix(u.Scheme, "http") {
			continue
		}
		return nil, fmt.Errorf("malformed origin %q in --cors: give it as http://host:port, or * for all", s)
	}
	return origins, nil
}

// offIfZero is how grpcapi.Config says off: its zero is a default.
func offIfZero(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}
