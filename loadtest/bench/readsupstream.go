package bench

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"weir/loadtest/target"
)

// readCounts is what servers have counted.
type readCounts struct {
	// upstream is the requests that an etcd was sent, by method, those within a stream included; nil if nobody tells. The
	// puts are of who writes to what is read, and are left out.
	upstream map[string]float64
	hits     float64 // answers that a proxy gave from memory; negative if nobody tells
}

func countsOf(ctx context.Context, tg *target.Target) (readCounts, error) {
	c := readCounts{hits: -1}
	servers := tg.Servers()
	first, last := servers[0], servers[len(servers)-1]
	var err error
	switch tg.Kind {
	case target.GRPCProxyEtcd37:
		// Below /metrics it gives etcd's.
		var text string
		if text, err = last.Get(ctx, "/proxy/metrics"); err == nil {
			c.hits, err = metric(text, "\netcd_grpc_proxy_cache_hits_total ")
		}
	case target.ProxyEtcd37, target.ProxyCore, target.ProxyProxyCore:
		var s cacheStatus
		if s, err = cacheStatusOf(ctx, last); err == nil {
			c.hits = s.hits()
		}
	}
	if err == nil && (tg.Kind == target.Etcd37 || tellsWatchers(tg.Kind)) {
		c.upstream, err = requestsTo(ctx, first)
	}
	if err != nil {
		return c, fmt.Errorf("counters of %s: %w", tg.Kind, err)
	}
	return c, nil
}

// requestsTo is the requests that an etcd was sent, by method. Reads of a client or a proxy are Range, what it asks a
// watch stream for is Watch.
func requestsTo(ctx context.Context, etcd *target.Server) (map[string]float64, error) {
	text, err := etcd.Get(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	requests := map[string]float64{}
	for line := range strings.Lines(text) {
		labels, ok := strings.CutPrefix(line, "grpc_server_msg_received_total{")
		if !ok || !strings.Contains(labels, `grpc_service="etcdserverpb.`) {
			continue
		}
		_, method, _ := strings.Cut(labels, `grpc_method="`)
		method, _, _ = strings.Cut(method, `"`)
		if method == "Put" {
			continue
		}
		if requests[method], err = metric(labels, "} "); err != nil {
			return nil, err
		}
	}
	if requests["Range"] == 0 {
		return nil, fmt.Errorf("etcd at %s has no counter of requests", etcd.Addr)
	}
	return requests, nil
}

// since is what was counted from before until c.
func (c readCounts) since(before readCounts) readCounts {
	d := readCounts{hits: c.hits, upstream: maps.Clone(c.upstream)}
	if c.hits >= 0 {
		d.hits -= before.hits
	}
	for method, n := range before.upstream {
		d.upstream[method] -= n
	}
	return d
}
