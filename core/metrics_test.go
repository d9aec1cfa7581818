package core

import (
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/version"

	"weir/grpcapi/wire"
)

// gather returns what c has, by name and the values of its labels; of a histogram, how many it has counted. The order of
// labels is that of their names.
func gather(t *testing.T, c prometheus.Collector) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			values[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return values
}

func expectMetrics(t *testing.T, c prometheus.Collector, want map[string]float64) {
	t.Helper()
	got := gather(t, c)
	for name, v := range want {
		if have, ok := got[name]; !ok || have != v {
			t.Errorf("%s: got %v (there: %v), want %v", name, have, ok, v)
		}
	}
}

func TestAMemberTellsWhatItIs(t *testing.T) {
	n := openNode(t, t.TempDir())
	id := idString(n.member.ID)
	applied := float64(n.applied.Load())
	want := map[string]float64{
		"etcd_server_has_leader":                       1,
		"etcd_server_is_leader":                        1,
		"etcd_server_is_learner":                       0,
		"etcd_server_leader_changes_seen_total":        1,
		"etcd_server_proposals_committed_total":        applied,
		"etcd_server_proposals_applied_total":          applied,
		"etcd_server_proposals_pending":                0,
		"etcd_server_proposals_failed_total":           0,
		"etcd_server_quota_backend_bytes":              DefaultQuotaBytes,
		"etcd_server_id " + id:                         1,
		"etcd_server_version " + version.Version:       1,
		"etcd_cluster_version 3.7":                     1,
		"etcd_network_known_peers " + id + " " + id:    1,
		"etcd_debugging_mvcc_watcher_total":            0,
		"etcd_debugging_auth_revision":                 1,
		"etcd_disk_wal_fsync_duration_seconds":         gather(t, n)["etcd_disk_wal_write_duration_seconds"],
		"etcd_debugging_mvcc_current_revision":         1,
		"etcd_server_heartbeat_send_failures_total":    0,
		"etcd_server_learner_promote_successes":        0,
		"etcd_server_slow_read_indexes_total":          0,
		"etcd_debugging_server_lease_expired_total":    0,
		"etcd_mvcc_db_open_read_transactions":          1,
		"etcd_debugging_mvcc_slow_watcher_total":       0,
		"etcd_debugging_mvcc_watch_stream_total":       0,
		"etcd_disk_defrag_inflight":                    0,
		"etcd_debugging_mvcc_db_compaction_keys_total": 0,
	}
	expectMetrics(t, n, want)
	closeNode(t, n)
	expectMetrics(t, n, map[string]float64{"etcd_server_id " + id: 1}) // somebody may collect until the process ends
}

// TestMetricsMayBeCollectedAtAnyTime is for the race detector: while the member works, while its file is replaced, and
// while and after it is closed.
func TestMetricsMayBeCollectedAtAnyTime(t *testing.T) {
	n := openNode(t, t.TempDir())
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(n)
	stop := make(chan struct{})
	var collecting sync.WaitGroup
	collecting.Go(func() {
		for done := false; !done; {
			select {
			case <-stop:
				done = true // once more
			default:
			}
			if _, err := r.Gather(); err != nil {
				t.Error(err)
			}
		}
	})
	for i := range 100 {
		mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
		mustRange(t, n, &wire.RangeRequest{Key: []byte("k")})
		if i%25 == 0 {
			if _, err := n.Defragment(t.Context(), &pb.DefragmentRequest{}); err != nil {
				t.Error(err)
			}
		}
	}
	closeNode(t, n)
	close(stop)
	collecting.Wait()
}

func TestRequestsAreTimedByTypeAndSuccess(t *testing.T) {
	n := openNode(t, t.TempDir())
	defer closeNode(t, n)
	mustPut(t, n, &pb.PutRequest{Key: []byte("k"), Value: []byte("v")})
	if _, err := tryPut(t, n, &pb.PutRequest{Key: []byte("k"), Lease: 7}); err == nil {
		t.Fatal("a put with a lease that is not there succeeded")
	}
	if resp, err := tryTxn(t, n, &pb.TxnRequest{}); err != nil || !resp.Succeeded {
		t.Fatalf("got %v, %v", resp, err)
	}
	mustRange(t, n, &wire.RangeRequest{Key: []byte("k")})
	if _, err := n.Range(t.Context(), &wire.RangeRequest{Key: []byte("k"), Revision: 99}); err == nil {
		t.Fatal("a read of the future succeeded")
	}
	if _, err := n.Compact(t.Context(), &pb.CompactionRequest{Revision: 2}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Compact(t.Context(), &pb.CompactionRequest{Revision: 2}); err == nil {
		t.Fatal("a second compaction to the same revision succeeded")
	}
	expectMetrics(t, n, map[string]float64{
		"etcd_server_request_duration_seconds true Put":         2, // it has a result
		"etcd_server_request_duration_seconds true ReadonlyTxn": 1,
		"etcd_server_request_duration_seconds true Range":       1,
		"etcd_server_request_duration_seconds false Range":      1,
		"etcd_server_request_duration_seconds true Compaction":  2,
		"etcd_server_range_duration_seconds true":               1,
		"etcd_server_range_duration_seconds false":              1,
		"etcd_server_apply_duration_seconds Put true v3":        1,
		"etcd_server_apply_duration_seconds Put false v3":       1,
		"etcd_server_apply_duration_seconds Compaction true v3": 2, // to be compacted already is no failure
		"etcd_server_slow_apply_total":                          0,
		"etcd_mvcc_put_total":                                   1,
	})
}

func TestSlowAppliesAreCounted(t *testing.T) {
	n := openNode(t, t.TempDir(), func(c *Config) { c.WarnApply = time.Nanosecond })
	defer closeNode(t, n)
	before := gather(t, n)["etcd_server_slow_apply_total"]
	mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
	mustPut(t, n, &pb.PutRequest{Key: []byte("k")}) // the first is counted after it is answered
	if after := gather(t, n)["etcd_server_slow_apply_total"]; after < before+1 {
		t.Errorf("got %v, and before %v", after, before)
	}
}

func TestLeasesAreCounted(t *testing.T) {
	n := openNode(t, t.TempDir())
	defer closeNode(t, n)
	for id := range int64(3) {
		if _, err := n.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{ID: id + 1, TTL: 100}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{ID: 1, TTL: 100}); err == nil {
		t.Fatal("a lease was granted twice")
	}
	for range 2 {
		if _, err := n.LeaseRenew(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := n.LeaseRenew(t.Context(), 9); err == nil {
		t.Fatal("a lease was renewed that is not there")
	}
	if _, err := n.LeaseRevoke(t.Context(), &pb.LeaseRevokeRequest{ID: 2}); err != nil {
		t.Fatal(err)
	}
	expectMetrics(t, n, map[string]float64{
		"etcd_debugging_lease_granted_total": 3,
		"etcd_debugging_lease_ttl_total":     3,
		"etcd_debugging_lease_renewed_total": 2,
		"etcd_debugging_lease_revoked_total": 1,
	})
}

func TestRaisedAlarmsAreTold(t *testing.T) {
	n := openNode(t, t.TempDir())
	defer closeNode(t, n)
	id := idString(n.member.ID)
	alarm := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: n.member.ID, Alarm: pb.AlarmType_NOSPACE}
	if _, err := n.Alarm(t.Context(), alarm); err != nil {
		t.Fatal(err)
	}
	expectMetrics(t, n, map[string]float64{"etcd_server_alarms NOSPACE " + id: 1})
	alarm.Action = pb.AlarmRequest_DEACTIVATE
	if _, err := n.Alarm(t.Context(), alarm); err != nil {
		t.Fatal(err)
	}
	if v, ok := gather(t, n)["etcd_server_alarms NOSPACE "+id]; ok {
		t.Errorf("the alarm is cleared and told as %v", v)
	}
}

func TestBucketsOfDurationsIncludeTheirBounds(t *testing.T) {
	for _, c := range []struct {
		took time.Duration
		want int // the first bucket that counts it
	}{
		{-1, 0}, {0, 0}, {1, 0}, {time.Millisecond, 0}, {time.Millisecond + 1, 1}, {2 * time.Millisecond, 1},
		{2*time.Millisecond + 1, 2}, {4 * time.Millisecond, 2}, {4*time.Millisecond + 1, 3}, {time.Hour, 3},
	} {
		d := newDurations("d", "help", time.Millisecond, 3, nil, func(operation, bool) []string { return nil })
		d.observe(opRange, true, c.took, 1)
		total, upTo := d.made[opRange][1].Load().sums(d.bounds)
		if total != 1 {
			t.Errorf("%v: counted %d times", c.took, total)
		}
		for i, bound := range []float64{0.001, 0.002, 0.004} {
			want := uint64(0)
			if i >= c.want {
				want = 1
			}
			if upTo[bound] != want {
				t.Errorf("%v: %d up to %v, want %d", c.took, upTo[bound], bound, want)
			}
		}
	}
}

// TestMeasuredReadsStandForAll: the histogram of reads has as many as there were, less those since the last measured one.
func TestMeasuredReadsStandForAll(t *testing.T) {
	m := newNodeMetrics()
	for n := range uint64(10_000) {
		r := m.ranges.begin()
		r.answering()
		r.end(nil)
		r = m.readTxns.begin()
		r.end(nil)
		for _, h := range []struct {
			of *durations
			o  operation
		}{{m.ranges.whole, opRange}, {m.ranges.answer, opRange}, {m.readTxns.whole, opReadTxn}} {
			total, _ := h.of.made[h.o][1].Load().sums(h.of.bounds)
			if done := n + 1; total > done || total+measuredEach <= done {
				t.Fatalf("%d of %d", total, done)
			}
		}
	}
}

func TestTimingReadsAllocatesNothing(t *testing.T) {
	m := newNodeMetrics()
	if n := testing.AllocsPerRun(1000, func() {
		r := m.ranges.begin()
		r.answering()
		r.end(nil)
		m.requests.observe(operation(kindPut), true, time.Millisecond, 1)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkTimingReads is what a read pays for being counted and timed.
func BenchmarkTimingReads(b *testing.B) {
	m := newNodeMetrics()
	b.ReportAllocs()
	for b.Loop() {
		r := m.ranges.begin()
		r.answering()
		r.end(nil)
	}
}

// BenchmarkTimingWrites is what a write pays for being timed: when it is proposed, and when it is applied.
func BenchmarkTimingWrites(b *testing.B) {
	m := newNodeMetrics()
	b.ReportAllocs()
	for b.Loop() {
		start := m.clock.now()
		m.applies.observe(operation(kindPut), true, m.clock.now()-start, 1)
		m.requests.observe(operation(kindPut), true, m.clock.now()-start, 1)
	}
}
