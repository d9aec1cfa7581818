package proxy

import (
	"github.com/prometheus/client_golang/prometheus"

	"weir/coalesce"
)

// Describe is part of prometheus.Collector.
func (p *Proxy) Describe(ch chan<- *prometheus.Desc) {
	for _, s := range allSeries {
		ch <- s.desc
	}
	for _, d := range []*prometheus.Desc{tenantKeys, tenantBytes} {
		ch <- d
	}
}

// Collect is part of prometheus.Collector: it tells what Status does, and what the watches are.
func (p *Proxy) Collect(ch chan<- prometheus.Metric) {
	now := snapshot{Status: p.Status(), watches: p.feeds.Hub().Stats()}
	for _, s := range allSeries {
		ch <- prometheus.MustNewConstMetric(s.desc, s.kind, s.value(now))
	}
	for _, u := range now.Clients.Usage {
		if u.Known {
			ch <- prometheus.MustNewConstMetric(tenantKeys, prometheus.GaugeValue, float64(u.Keys), u.Tenant)
			ch <- prometheus.MustNewConstMetric(tenantBytes, prometheus.GaugeValue, float64(u.Bytes), u.Tenant)
		}
	}
}

// What tenants with a quota have: as many series as the tenants file has of them. They never change.
var (
	tenantKeys  = prometheus.NewDesc("weir_tenant_keys", "Keys of a tenant with a quota.", []string{"tenant"}, nil)
	tenantBytes = prometheus.NewDesc("weir_tenant_bytes", "Bytes of a tenant with a quota, in keys and values.", []string{"tenant"}, nil)
)

// snapshot is what series are computed from.
type snapshot struct {
	Status
	watches coalesce.HubStats
}

// series is one number.
type series struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(s snapshot) float64
}

func gauge(name, help string, value func(s snapshot) float64) series {
	return series{prometheus.NewDesc(name, help, nil, nil), prometheus.GaugeValue, value}
}

func counter(name, help string, value func(s snapshot) uint64) series {
	return series{prometheus.NewDesc(name, help, nil, nil), prometheus.CounterValue, func(s snapshot) float64 { return float64(value(s)) }}
}

// allSeries never changes. What etcd's grpc-proxy has a name for has that name (server/proxy/grpcproxy/metrics.go, etcd 3.7),
// and its type, which is not always what the name says. Everything else begins with weir_.
var allSeries = []series{
	gauge("etcd_grpc_proxy_cache_hits_total", "Reads answered from memory.",
		func(s snapshot) float64 { return float64(s.Reads.Linearizable + s.Reads.Serializable) }),
	gauge("etcd_grpc_proxy_cache_misses_total", "Reads that could have been answered from memory, and were not.",
		func(s snapshot) float64 { return float64(s.Reads.Forwarded) }),
	gauge("etcd_grpc_proxy_cache_keys_total", "Keys in memory.",
		func(s snapshot) float64 { return float64(s.Reads.Keys) }),
	gauge("etcd_grpc_proxy_watchers_coalescing_total", "Watches of clients beyond the watches upstream that they share.",
		func(s snapshot) float64 { return float64(max(0, s.watches.Watchers-s.watches.Feeds)) }),
	counter("etcd_grpc_proxy_events_coalescing_total", "Events sent to clients beyond the first that was sent each of them.",
		func(s snapshot) uint64 { return s.watches.Shared }),

	gauge("weir_upstream_connected", "Whether a member is connected: 1 if so, else 0.",
		func(s snapshot) float64 { return truth(s.Upstream.Connected) }),
	gauge("weir_upstream_shared", "Whether clients share answers and watches: 1 if so, else 0.",
		func(s snapshot) float64 { return truth(s.Upstream.Shared) }),
	gauge("weir_upstream_guarded", "Whether they do so only as far as each is permitted to, authentication being on upstream: 1 if so, else 0.",
		func(s snapshot) float64 { return truth(s.Upstream.Guarded) }),
	gauge("weir_upstream_revision", "Newest revision of upstream that is known.",
		func(s snapshot) float64 { return float64(s.Upstream.Revision) }),
	gauge("weir_upstream_answered_before_seconds", "How long ago the last linearizable read was sent upstream that was answered; -1 if none was.",
		func(s snapshot) float64 { return s.Upstream.AnsweredBefore }),

	counter("weir_reads_linearizable_total", "Linearizable reads answered from memory.",
		func(s snapshot) uint64 { return s.Reads.Linearizable }),
	counter("weir_reads_serializable_total", "Serializable reads answered from memory.",
		func(s snapshot) uint64 { return s.Reads.Serializable }),
	counter("weir_reads_stale_total", "Serializable reads answered from memory while upstream was away.",
		func(s snapshot) uint64 { return s.Reads.Stale }),
	counter("weir_reads_waited_total", "Reads that waited until a range in memory had reached a revision.",
		func(s snapshot) uint64 { return s.Reads.Waits }),
	counter("weir_reads_forwarded_total", "Reads that could have been answered from memory, and were forwarded.",
		func(s snapshot) uint64 { return s.Reads.Forwarded }),
	counter("weir_reads_bypassed_total", "Ranges forwarded whatever is in memory, as their metadata demands, or because upstream is to say what is wrong with them.",
		func(s snapshot) uint64 { return s.Bypassed }),
	counter("weir_reads_refused_total", "Reads refused because their answer was too large.",
		func(s snapshot) uint64 { return s.Reads.Refused }),
	counter("weir_reads_checks_total", "Questions upstream on behalf of linearizable reads from memory.",
		func(s snapshot) uint64 { return s.Checks }),
	counter("weir_reads_calls_total", "Calls upstream for forwarded reads that may be shared.",
		func(s snapshot) uint64 { return s.SharedReads.Calls }),
	counter("weir_reads_shared_total", "Forwarded reads that were answered by another's call.",
		func(s snapshot) uint64 { return s.SharedReads.Shared }),

	gauge("weir_cache_ranges", "Ranges in memory.",
		func(s snapshot) float64 { return float64(s.Reads.Ranges) }),
	gauge("weir_cache_ranges_loading", "Ranges that are being loaded.",
		func(s snapshot) float64 { return float64(s.Reads.Loading) }),
	gauge("weir_cache_ranges_candidate", "Ranges whose reads are counted because they may become worth keeping.",
		func(s snapshot) float64 { return float64(s.Reads.Candidates) }),
	gauge("weir_cache_bytes", "Memory taken by ranges, those that are being loaded included.",
		func(s snapshot) float64 { return float64(s.Reads.Bytes) }),
	gauge("weir_cache_history_bytes", "Memory taken by past states of ranges, which is part of weir_cache_bytes.",
		func(s snapshot) float64 { return float64(s.Reads.HistoryBytes) }),
	counter("weir_cache_loads_total", "Loads of ranges that were begun.",
		func(s snapshot) uint64 { return s.Reads.Loads }),
	counter("weir_cache_loads_failed_total", "Loads of ranges that failed.",
		func(s snapshot) uint64 { return s.Reads.LoadsFailed }),
	counter("weir_cache_dropped_total", "Ranges that were in memory and have been dropped.",
		func(s snapshot) uint64 { return s.Reads.Dropped }),
	counter("weir_cache_dropped_room_total", "Ranges that were dropped because memory was short.",
		func(s snapshot) uint64 { return s.Reads.DroppedRoom }),
	gauge("weir_cache_results_bytes", "Memory taken by answers that are kept.",
		func(s snapshot) float64 { return float64(s.Reads.Results.Bytes) }),
	counter("weir_cache_results_hits_total", "Answers that were kept and used again.",
		func(s snapshot) uint64 { return s.Reads.Results.Hits }),
	counter("weir_cache_results_misses_total", "Answers that were looked for and had to be made.",
		func(s snapshot) uint64 { return s.Reads.Results.Misses }),

	counter("weir_lease_pings_total", "Pings of leases by clients, those that are forwarded excluded.",
		func(s snapshot) uint64 { return s.Pings.Pings }),
	counter("weir_lease_pings_shared_total", "Pings that joined another's of the same lease.",
		func(s snapshot) uint64 { return s.Pings.Shared }),
	counter("weir_lease_pings_failed_total", "Pings that could not be answered in time, or not at all.",
		func(s snapshot) uint64 { return s.Pings.Failed }),
	counter("weir_lease_pings_sent_total", "Pings sent upstream.",
		func(s snapshot) uint64 { return s.Pings.Sent }),
	gauge("weir_lease_ping_streams", "Streams upstream on which pings are sent.",
		func(s snapshot) float64 { return float64(s.Pings.Streams) }),
	counter("weir_lease_ping_streams_silent_total", "Streams of pings that were given up because upstream did not answer.",
		func(s snapshot) uint64 { return s.Pings.Silent }),

	gauge("weir_access_failed", "Whether the proxy's own identity is of no use upstream, see access.error of /weir/status: 1 if so, else 0.",
		func(s snapshot) float64 { return truth(s.Access.Error != "") }),
	counter("weir_access_verdicts_total", "Questions upstream whether a client may read a range.",
		func(s snapshot) uint64 { return s.Access.Verdicts }),
	counter("weir_access_allowed_total", "Reads allowed without such a question.",
		func(s snapshot) uint64 { return s.Access.VerdictHits + s.Access.PolicyHits }),
	counter("weir_access_judged_total", "Requests of clients whom upstream cannot know, judged by the proxy.",
		func(s snapshot) uint64 { return s.Access.Judged }),
	counter("weir_access_auth_calls_total", "Calls upstream about users and roles on the proxy's own behalf, each a write to etcd's log.",
		func(s snapshot) uint64 {
			a := s.Access
			return a.AuthStatuses + a.UserReads + a.RoleReads + a.Authentications
		}),

	gauge("weir_calls_in_flight", "Short calls upstream at the moment.",
		func(s snapshot) float64 { return float64(s.Calls.InUse) }),
	gauge("weir_calls_queued", "Calls that wait for others.",
		func(s snapshot) float64 { return float64(s.Calls.Queued) }),
	counter("weir_calls_waited_total", "Calls that had to wait for others.",
		func(s snapshot) uint64 { return s.Calls.Waited }),
	counter("weir_calls_refused_total", "Calls refused because too many of the same client wait.",
		func(s snapshot) uint64 { return s.Calls.Refused }),
	gauge("weir_clients", "Clients that limits are counted for at the moment.",
		func(s snapshot) float64 { return float64(s.Clients.Accounts) }),

	counter("weir_clients_refused_rate_total", "Requests refused because a client makes too many a second.",
		func(s snapshot) uint64 { return s.Clients.Refused.Rate }),
	counter("weir_clients_refused_in_flight_total", "Requests refused because a client makes too many at a time.",
		func(s snapshot) uint64 { return s.Clients.Refused.InFlight }),
	counter("weir_clients_refused_watches_total", "Watches refused because a client has too many.",
		func(s snapshot) uint64 { return s.Clients.Refused.Watches }),
	counter("weir_clients_refused_quota_total", "Writes refused because they might take a tenant above its quota.",
		func(s snapshot) uint64 { return s.Clients.Refused.Quota }),
	counter("weir_clients_refused_access_total", "Requests refused because they are not for who asks, as the tenants file says.",
		func(s snapshot) uint64 { return s.Clients.Refused.Access }),

	gauge("weir_watch_feeds", "Watches upstream that those of clients share.",
		func(s snapshot) float64 { return float64(s.watches.Feeds) }),
	gauge("weir_watch_history_bytes", "Memory taken by recent events.",
		func(s snapshot) float64 { return float64(s.watches.RingBytes) }),
	gauge("weir_watch_streams", "Streams of watches of clients, those that are forwarded excluded.",
		func(s snapshot) float64 { return float64(s.watches.Streams) }),
	gauge("weir_watch_watchers", "Watches on these streams.",
		func(s snapshot) float64 { return float64(s.watches.Watchers) }),
	gauge("weir_watch_watchers_behind", "Watches that have not been sent all there is.",
		func(s snapshot) float64 { return float64(s.watches.Behind) }),
	counter("weir_watch_events_total", "Events sent to watches.",
		func(s snapshot) uint64 { return s.watches.Delivered }),
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
