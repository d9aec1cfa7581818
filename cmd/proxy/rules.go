package main

import (
	"maps"
	"math"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"weir/cmd/internal/process"
)

// check does what is more than reading single flags. Its error joins all that is wrong.
func (o *options) check(metrics string) error {
	var wrong process.Mistakes
	for _, err := range []error{
		o.checkAddresses(metrics), o.checkBounds(), o.clients.check(), o.upstream.Check(), o.listen.Check(), o.drain.Check(), process.LogConfig{Level: o.logLevel}.Check(),
	} {
		wrong.Add(err)
	}
	if !o.embedded { // else they are refused altogether
		wrong.Add(o.discovery.check(o.advertiseClientURL))
	}
	return wrong.Err()
}

// checkAddresses puts metrics into o, which is --metrics-addr.
func (o *options) checkAddresses(metrics string) error {
	var wrong process.Mistakes
	if _, port, err := net.SplitHostPort(o.listenAddr); err != nil {
		wrong.Addf("malformed --listen-addr %q: give it as host:port", o.listenAddr)
	} else if !process.PortExists(port) {
		wrong.Addf("--listen-addr=%s has no port that there is: give one up to 65535", o.listenAddr)
	}
	if u := o.advertiseClientURL; o.embedded && u != "" && !isURL(u) {
		wrong.Addf("malformed URL %q in --advertise-client-url: give it as http://host:port", u)
	}
	for _, e := range o.endpoints {
		if _, address, ok := strings.Cut(e, "://"); e == o.listenAddr || ok && address == o.listenAddr {
			wrong.Addf("--endpoints has %s, which is --listen-addr: the proxy would forward to itself", e)
		}
	}
	for _, s := range splitList(metrics) {
		u, err := url.Parse(s)
		switch {
		case err != nil || !isURL(s):
			wrong.Addf("malformed URL %q in --metrics-addr: give it as http://host:port", s)
			continue
		case !process.PortExists(u.Port()):
			wrong.Addf("--metrics-addr=%s has no port that there is: give one up to 65535", s)
		case slices.ContainsFunc(o.metricsURLs, func(other *url.URL) bool { return process.SameSocket(other.Host, u.Host) }):
			wrong.Addf("--metrics-addr has %s twice: leave one out", u.Host)
		case process.SameSocket(u.Host, o.listenAddr):
			wrong.Addf("--metrics-addr=%s is --listen-addr=%s, where the same is served: leave it out, or give it another port", s, o.listenAddr)
		case isSecure(u) && !o.listen.HasCertificate():
			wrong.Addf("--metrics-addr=%s needs --cert-file and --key-file", u)
		}
		o.metricsURLs = append(o.metricsURLs, u)
	}
	return wrong.Err()
}

// maxCheckInterval bounds what a linearizable read can be made to wait for others.
const maxCheckInterval = time.Second

// checkBounds refuses numbers and times that are out of range.
func (o *options) checkBounds() error {
	var wrong process.Mistakes
	times := map[string]time.Duration{
		"dial-keepalive-time": o.dialKeepAliveTime, "dial-keepalive-timeout": o.dialKeepAliveTimeout,
		"grpc-keepalive-min-time": o.keepAliveMinTime, "grpc-keepalive-interval": o.keepAliveInterval, "grpc-keepalive-timeout": o.keepAliveTimeout,
		"slow-client-timeout": o.slowClientTimeout, "watch-progress-notify-interval": o.progressInterval,
		"max-staleness": o.maxStaleness, "read-check-interval": o.readCheckInterval,
	}
	for _, name := range slices.Sorted(maps.Keys(times)) {
		if d := times[name]; d < 0 {
			wrong.Addf("--%s=%v is not possible: it must not be negative", name, d)
		}
	}
	if d := o.slowClientTimeout; d > 0 && d < time.Second {
		wrong.Addf("--slow-client-timeout=%v is not possible: within less than 1s a client may be taken for slow that is not; 0 disables it", d)
	}
	if o.maxSendBytes <= 0 || o.maxSendBytes > math.MaxInt32 {
		wrong.Addf("--max-send-bytes=%d is not possible: it must be positive and below 2 GiB", o.maxSendBytes)
	}
	if o.maxRecvBytes <= 0 || o.maxRecvBytes > math.MaxInt32 {
		wrong.Addf("--max-recv-bytes=%d is not possible: it must be positive and below 2 GiB", o.maxRecvBytes)
	}
	limits := map[string]int64{
		"watch-history-bytes": int64(o.watchHistoryBytes), "cache-bytes": int64(o.cacheBytes),
		"max-range-keys": o.maxRangeKeys, "max-range-bytes": o.maxRangeBytes,
	}
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		if n := limits[name]; n < 0 {
			wrong.Addf("--%s=%d is not possible: it must not be negative", name, n)
		}
	}
	if o.readCheckInterval > maxCheckInterval {
		wrong.Addf("--read-check-interval=%v is not possible: linearizable reads would take that long; it must be at most %v", o.readCheckInterval, maxCheckInterval)
	}
	if o.cacheBytes == 0 && len(o.cachePrefixes) > 0 {
		wrong.Addf("--cache-prefix is not possible with --cache-bytes=0: leave one out")
	}
	if o.maxConcurrentStreams == 0 || o.maxConcurrentStreams > math.MaxUint32 {
		wrong.Addf("--max-concurrent-streams=%d is not possible: it must be positive and fit into 32 bits", o.maxConcurrentStreams)
	}
	return wrong.Err()
}
