package main

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"
)

// check does what is more than reading single flags. Its error joins all that is wrong.
func (o *options) check(metrics string) error {
	errs := []error{o.checkAddresses(metrics), o.checkBounds(), o.clients.check(), o.upstream.Check(), o.listen.Check()}
	if !o.embedded { // else they are refused altogether
		errs = append(errs, o.discovery.check(o.advertiseClientURL))
	}
	return errors.Join(errs...)
}

// checkAddresses puts metrics into o, which is --metrics-addr.
func (o *options) checkAddresses(metrics string) error {
	var errs []error
	refuse := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if _, _, err := net.SplitHostPort(o.listenAddr); err != nil {
		refuse("malformed --listen-addr %q: give it as host:port", o.listenAddr)
	}
	if u := o.advertiseClientURL; o.embedded && u != "" && !isURL(u) {
		refuse("malformed URL %q in --advertise-client-url: give it as http://host:port", u)
	}
	for _, e := range o.endpoints {
		if _, address, ok := strings.Cut(e, "://"); e == o.listenAddr || ok && address == o.listenAddr {
			refuse("--endpoints has %s, which is --listen-addr: the proxy would forward to itself", e)
		}
	}
	for _, s := range splitList(metrics) {
		u, err := url.Parse(s)
		switch {
		case err != nil || !isURL(s):
			refuse("malformed URL %q in --metrics-addr: give it as http://host:port", s)
			continue
		case u.Host == o.listenAddr && u.Port() != "0":
			refuse("--metrics-addr=%s is --listen-addr, where the same is served: leave it out, or give it another port", s)
		case isSecure(u) && !o.listen.HasCertificate():
			refuse("--metrics-addr=%s needs --cert-file and --key-file", u)
		}
		o.metricsURLs = append(o.metricsURLs, u)
	}
	return errors.Join(errs...)
}

// maxCheckInterval bounds what a linearizable read can be made to wait for others.
const maxCheckInterval = time.Second

// checkBounds refuses numbers and times that are out of range.
func (o *options) checkBounds() error {
	var errs []error
	refuse := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	times := map[string]time.Duration{
		"dial-keepalive-time": o.dialKeepAliveTime, "dial-keepalive-timeout": o.dialKeepAliveTimeout,
		"grpc-keepalive-min-time": o.keepAliveMinTime, "grpc-keepalive-interval": o.keepAliveInterval, "grpc-keepalive-timeout": o.keepAliveTimeout,
		"slow-client-timeout": o.slowClientTimeout, "watch-progress-notify-interval": o.progressInterval,
		"max-staleness": o.maxStaleness, "read-check-interval": o.readCheckInterval,
	}
	for _, name := range slices.Sorted(maps.Keys(times)) {
		if d := times[name]; d < 0 {
			refuse("--%s=%v is not possible: it must not be negative", name, d)
		}
	}
	if d := o.slowClientTimeout; d > 0 && d < time.Second {
		refuse("--slow-client-timeout=%v is not possible: within less than 1s a client may be taken for slow that is not; 0 disables it", d)
	}
	if o.maxSendBytes <= 0 || o.maxSendBytes > math.MaxInt32 {
		refuse("--max-send-bytes=%d is not possible: it must be positive and below 2 GiB", o.maxSendBytes)
	}
	if o.maxRecvBytes <= 0 || o.maxRecvBytes > math.MaxInt32 {
		refuse("--max-recv-bytes=%d is not possible: it must be positive and below 2 GiB", o.maxRecvBytes)
	}
	limits := map[string]int64{
		"watch-history-bytes": int64(o.watchHistoryBytes), "cache-bytes": int64(o.cacheBytes),
		"max-range-keys": o.maxRangeKeys, "max-range-bytes": o.maxRangeBytes,
	}
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		if n := limits[name]; n < 0 {
			refuse("--%s=%d is not possible: it must not be negative", name, n)
		}
	}
	if o.readCheckInterval > maxCheckInterval {
		refuse("--read-check-interval=%v is not possible: linearizable reads would take that long; it must be at most %v", o.readCheckInterval, maxCheckInterval)
	}
	if o.cacheBytes == 0 && len(o.cachePrefixes) > 0 {
		refuse("--cache-prefix is not possible with --cache-bytes=0: leave one out")
	}
	if o.maxConcurrentStreams == 0 || o.maxConcurrentStreams > math.MaxUint32 {
		refuse("--max-concurrent-streams=%d is not possible: it must be positive and fit into 32 bits", o.maxConcurrentStreams)
	}
	return errors.Join(errs...)
}
