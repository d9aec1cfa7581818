package core

import (
	"fmt"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/version"
)

// metrics are those of a Node that its store, its log and its hub do not have. Names, labels and buckets are etcd's
// (server/etcdserver/metrics.go and others, etcd 3.7), and so is what they mean; docs/metrics.md says which of etcd's
// are not there, and why.
//
// What the Node knows anyway is asked when somebody collects; only what happens is counted here.
type metrics struct {
	leaderChanges     prometheus.Counter
	proposalsFailed   prometheus.Counter
	slowApplies       prometheus.Counter
	slowReads         prometheus.Counter // checks of linearizable reads that had to be sent again
	failedReads       prometheus.Counter // linearizable reads that waited in vain
	lostHeartbeats    prometheus.Counter
	leasesGranted     prometheus.Counter
	leasesRevoked     prometheus.Counter
	leasesRenewed     prometheus.Counter
	leasesExpired     prometheus.Counter
	leaseTTLs         prometheus.Histogram // seconds
	promotions        prometheus.Counter
	promotionFailures *prometheus.CounterVec

	counted []prometheus.Collector // the above

	clock    stopwatch
	requests *durations // from when they are proposed until their result is known; reads likewise
	applies  *durations
	ranges   readTimer
	readTxns readTimer
}

func newNodeMetrics() *metrics {
	m := &metrics{clock: newStopwatch()}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		m.counted = append(m.counted, c)
		return c
	}
	m.leaderChanges = counter("etcd_server_leader_changes_seen_total", "Changes of leader that this member has seen.")
	m.proposalsFailed = counter("etcd_server_proposals_failed_total", "Proposals whose result this member did not see.")
	m.slowApplies = counter("etcd_server_slow_apply_total", "Entries of the log that took longer to apply than they should.")
	m.slowReads = counter("etcd_server_slow_read_indexes_total", "Checks for linearizable reads that were not answered in time and asked again.")
	m.failedReads = counter("etcd_server_read_indexes_failed_total", "Linearizable reads that failed because their check was not answered.")
	m.lostHeartbeats = counter("etcd_server_heartbeat_send_failures_total", "Heartbeats of the leader that could not be sent.")
	m.leasesGranted = counter("etcd_debugging_lease_granted_total", "Leases granted.")
	m.leasesRevoked = counter("etcd_debugging_lease_revoked_total", "Leases revoked, those that expired included.")
	m.leasesRenewed = counter("etcd_debugging_lease_renewed_total", "Renewals of leases by this member as leader.")
	m.leasesExpired = counter("etcd_debugging_server_lease_expired_total", "Leases of which this member, as leader, found that they had expired.")
	m.promotions = counter("etcd_server_learner_promote_successes", "Learners that this member, as leader, has made voters.")

	m.leaseTTLs = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "etcd_debugging_lease_ttl_total", Help: "TTLs of the leases granted, in seconds.",
		Buckets: prometheus.ExponentialBuckets(1, 2, 24),
	})
	m.promotionFailures = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "etcd_server_learner_promote_failures", Help: "Learners that this member, as leader, could not make voters.",
	}, []string{"Reason"})
	m.counted = append(m.counted, m.leaseTTLs, m.promotionFailures)

	m.requests = newDurations("etcd_server_request_duration_seconds", "How long requests took, in seconds. Reads are sampled.",
		time.Millisecond, 14, []string{"type", "success"},
		func(o operation, success bool) []string { return []string{operationNames[o], successLabel(success)} })
	m.applies = newDurations("etcd_server_apply_duration_seconds", "How long requests took to be applied, in seconds.",
		100*time.Microsecond, 20, []string{"version", "op", "success"},
		func(o operation, success bool) []string {
			return []string{"v3", operationNames[o], successLabel(success)}
		})
	m.ranges = readTimer{clock: m.clock, reads: opRange, whole: m.requests, answer: newDurations(
		"etcd_server_range_duration_seconds", "How long the store took to answer Ranges, in seconds. They are sampled.",
		100*time.Microsecond, 20, []string{"success"},
		func(_ operation, success bool) []string { return []string{successLabel(success)} })}
	m.readTxns = readTimer{clock: m.clock, reads: opReadTxn, whole: m.requests}
	return m
}

// Describe is part of prometheus.Collector.
func (n *Node) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range nodeDescs {
		ch <- d
	}
	for _, c := range n.metrics.counted {
		c.Describe(ch)
	}
	for _, d := range []*durations{n.metrics.requests, n.metrics.applies, n.metrics.ranges.answer} {
		ch <- d.desc
	}
	n.store.Describe(ch)
	n.log.Describe(ch)
	n.transport.Describe(ch)
}

// Collect is part of prometheus.Collector. It may be called at any time, also after Close.
func (n *Node) Collect(ch chan<- prometheus.Metric) {
	n.collectState(ch)
	n.collectMembership(ch)
	n.collectWatches(ch)
	for _, c := range n.metrics.counted {
		c.Collect(ch)
	}
	n.metrics.requests.collect(ch)
	n.metrics.applies.collect(ch)
	n.metrics.ranges.answer.collect(ch)
	n.store.Collect(ch)
	n.log.Collect(ch)
	n.transport.Collect(ch)
}

// collectState tells where raft, the store and authentication are.
func (n *Node) collectState(ch chan<- prometheus.Metric) {
	leader := n.leader.Load()
	gauge(ch, descHasLeader, truth(leader != 0))
	gauge(ch, descIsLeader, truth(leader == n.member.ID))
	gauge(ch, descCommitted, float64(n.committed.Load()))
	gauge(ch, descApplied, float64(n.applied.Load()))
	gauge(ch, descPending, float64(n.queue.requests()))
	gauge(ch, descQuota, float64(max(n.cfg.QuotaBytes, 0)))
	gauge(ch, descAuthRevision, float64(n.auth.Revision()))
	gauge(ch, descVersion, 1, version.Version)
	gauge(ch, descGoVersion, 1, runtime.Version())
	cluster, _ := n.version.get()
	gauge(ch, descClusterVersion, 1, fmt.Sprintf("%d.%d", cluster.Major, cluster.Minor))
	gauge(ch, descLevel, float64(n.agreement.level()))
	gauge(ch, descNewestLevel, float64(n.cfg.level))
	gauge(ch, descID, 1, idString(n.member.ID))
	for _, a := range n.alarms.list(pb.AlarmType_NONE) {
		gauge(ch, descAlarms, 1, idString(a.MemberID), a.Alarm.String())
	}
}

// collectMembership tells who the members are.
func (n *Node) collectMembership(ch chan<- prometheus.Metric) {
	local := idString(n.member.ID)
	learner := false
	for _, m := range n.members.list() {
		gauge(ch, descKnownPeers, 1, local, idString(m.ID))
		learner = learner || m.ID == n.member.ID && m.IsLearner
	}
	gauge(ch, descIsLearner, truth(learner))
}

// collectWatches tells what the hub does. What etcd calls slow is not up to date: behind, for whatever reason.
func (n *Node) collectWatches(ch chan<- prometheus.Metric) {
	s := n.hub.Stats()
	gauge(ch, descWatchStreams, float64(s.Streams))
	gauge(ch, descWatchers, float64(s.Watchers))
	gauge(ch, descSlowWatchers, float64(s.Behind))
	ch <- prometheus.MustNewConstMetric(descWatchEvents, prometheus.CounterValue, float64(s.Delivered))
}

func gauge(ch chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

var (
	descHasLeader      = desc("etcd_server_has_leader", "Whether this member knows a leader: 1 if so, else 0.")
	descIsLeader       = desc("etcd_server_is_leader", "Whether this member is the leader: 1 if so, else 0.")
	descIsLearner      = desc("etcd_server_is_learner", "Whether this member is a learner: 1 if so, else 0.")
	descCommitted      = desc("etcd_server_proposals_committed_total", "Index of the last entry of the log that is committed.")
	descApplied        = desc("etcd_server_proposals_applied_total", "Index of the last entry of the log that is applied.")
	descPending        = desc("etcd_server_proposals_pending", "Proposals whose result is awaited.")
	descQuota          = desc("etcd_server_quota_backend_bytes", "Bytes that the store's file may have; 0 is no bound.")
	descAuthRevision   = desc("etcd_debugging_auth_revision", "Revision of users and roles.")
	descVersion        = desc("etcd_server_version", "1, with the version of etcd that this member speaks as.", "server_version")
	descGoVersion      = desc("etcd_server_go_version", "1, with the version of Go that this member was built with.", "server_go_version")
	descClusterVersion = desc("etcd_cluster_version", "1, with the version of the cluster.", "cluster_version")
	descLevel          = desc("weir_level", "Level that all members have agreed on.")
	descNewestLevel    = desc("weir_level_newest", "Highest level that this member knows.")
	descID             = desc("etcd_server_id", "1, with the id of this member in hexadecimal.", "server_id")
	descAlarms         = desc("etcd_server_alarms", "1 for each alarm that is raised.", "server_id", "alarm_type")
	descKnownPeers     = desc("etcd_network_known_peers", "1 for each member of the cluster.", "Local", "Remote")

	descWatchStreams = desc("etcd_debugging_mvcc_watch_stream_total", "Open streams of watches.")
	descWatchers     = desc("etcd_debugging_mvcc_watcher_total", "Watches.")
	descSlowWatchers = desc("etcd_debugging_mvcc_slow_watcher_total", "Watches that have not been sent all there is.")
	descWatchEvents  = desc("etcd_debugging_mvcc_events_total", "Events sent to watches by this member.")
)

// nodeDescs are all of the above.
var nodeDescs = []*prometheus.Desc{
	descHasLeader, descIsLeader, descIsLearner, descCommitted, descApplied, descPending,
	descQuota, descAuthRevision, descVersion, descGoVersion, descClusterVersion, descLevel, descNewestLevel, descID,
	descAlarms, descKnownPeers, descWatchStreams, descWatchers, descSlowWatchers, descWatchEvents,
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}
