package e2e

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// exposition is what a server says of itself in Prometheus' text format.
type exposition struct {
	types  map[string]string             // by family
	series map[string]map[string]float64 // by family, then by sample, less its family's name: `_bucket{le="1"}`
}

func scrape(f *fixture, path string) exposition {
	f.Helper()
	text, err := f.target.Servers()[len(f.target.Servers())-1].Get(f.ctx, path)
	f.must(err)
	e := exposition{map[string]string{}, map[string]map[string]float64{}}
	family := ""
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if typed, ok := strings.CutPrefix(line, "# TYPE "); ok {
			name, kind, _ := strings.Cut(typed, " ")
			family, e.types[name], e.series[name] = name, kind, map[string]float64{}
		}
		if line == "" || line[0] == '#' {
			continue
		}
		end := strings.LastIndexByte(line, ' ')
		v, err := strconv.ParseFloat(line[end+1:], 64)
		sample, ours := strings.CutPrefix(line[:end], family)
		if err != nil || !ours {
			f.Fatalf("line %q in family %s: %v", line, family, err)
		}
		e.series[family][sample] = v
	}
	return e
}

var labelPattern = regexp.MustCompile(`([a-zA-Z_]+)="((?:[^"\\]|\\.)*)"`)

// shape is the names of a family's labels, and the bounds of its buckets.
func (e exposition) shape(family string) string {
	names, bounds := map[string]bool{}, map[string]bool{}
	for sample := range e.series[family] {
		for _, l := range labelPattern.FindAllStringSubmatch(sample, -1) {
			if names[l[1]] = true; l[1] == "le" || l[1] == "quantile" {
				bounds[l[2]] = true
			}
		}
	}
	return fmt.Sprint(slices.Sorted(maps.Keys(names)), slices.Sorted(maps.Keys(bounds)))
}

// notOurs is what of etcd's metrics weir does not have; docs/metrics.md says why.
var notOurs = regexp.MustCompile(`^(etcd_debugging_mvcc_pending_events_total|etcd_debugging_server_watch_send_loop_.*|` +
	`etcd_snap_.*|etcd_debugging_snap_save_.*|etcd_debugging_store_.*|` +
	`etcd_server_snapshot_apply_in_progress_total|etcd_grpc_proxy_.*|promhttp_metric_handler_.*)$`)

// ofTheMachine is what differs between two processes because of the Go that built them.
var ofTheMachine = regexp.MustCompile(`^(go|process)_`)

// exercise does some of everything that metrics tell of.
func exercise(f *fixture) {
	c := f.client
	watching, stop := context.WithCancel(f.ctx)
	defer stop()
	watch := c.Watch(watching, f.key(""), clientv3.WithPrefix(), clientv3.WithCreatedNotify())
	<-watch
	f.put("a", "1")
	f.put("b", "22")
	f.get("a")
	_, err := c.Txn(f.ctx).Then(clientv3.OpPut(f.key("c"), "3"), clientv3.OpGet(f.key("a"))).Commit()
	f.must(err)
	f.del("b")
	for seen := 0; seen < 4; {
		r := <-watch
		f.must(r.Err())
		seen += len(r.Events)
	}
	lease, err := c.Grant(f.ctx, 100)
	f.must(err)
	_, err = c.KeepAliveOnce(f.ctx, lease.ID)
	f.must(err)
	_, err = c.Revoke(f.ctx, lease.ID)
	f.must(err)
	if _, err := c.Put(f.ctx, f.key("x"), "", clientv3.WithLease(4711)); err == nil {
		f.Error("a put with a lease that is not there succeeded")
	}
	_, err = c.Compact(f.ctx, f.revision(), clientv3.WithCompactPhysical())
	f.must(err)
	_, err = c.Defragment(f.ctx, f.target.Endpoint)
	f.must(err)
	_, err = c.HashKV(f.ctx, f.target.Endpoint, 0)
	f.must(err)
	_, err = pb.NewMaintenanceClient(f.conn).Hash(f.ctx, &pb.HashRequest{})
	f.must(err)
	snapshot, err := c.Snapshot(f.ctx)
	f.must(err)
	_, err = io.Copy(io.Discard, snapshot)
	f.must(err)
	f.must(snapshot.Close())
	_, err = c.RoleAdd(f.ctx, "role")
	f.must(err)
	for _, path := range []string{"/health", "/readyz", "/livez"} {
		_, err := f.target.Servers()[0].Get(f.ctx, path)
		f.must(err)
	}
}

// equalAfterwards are those samples that the same requests leave the same at etcd and here.
var equalAfterwards = []string{
	`grpc_server_started_total{grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"}`,
	`grpc_server_handled_total{grpc_code="OK",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"}`,
	`grpc_server_handled_total{grpc_code="NotFound",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"}`,
	`grpc_server_msg_received_total{grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"}`,
	`grpc_server_started_total{grpc_method="Watch",grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream"}`,
	`grpc_server_msg_sent_total{grpc_method="LeaseKeepAlive",grpc_service="etcdserverpb.Lease",grpc_type="bidi_stream"}`,
	`grpc_server_handled_total{grpc_code="OK",grpc_method="Snapshot",grpc_service="etcdserverpb.Maintenance",grpc_type="server_stream"}`,
	`etcd_mvcc_put_total`, `etcd_mvcc_delete_total`, `etcd_mvcc_txn_total`,
	`etcd_debugging_mvcc_keys_total`, `etcd_debugging_mvcc_total_put_size_in_bytes`, `etcd_debugging_mvcc_events_total`,
	`etcd_debugging_mvcc_current_revision`, `etcd_debugging_mvcc_compact_revision`, `etcd_debugging_mvcc_db_compaction_keys_total`,
	`etcd_debugging_lease_granted_total`, `etcd_debugging_lease_renewed_total`, `etcd_debugging_lease_revoked_total`,
	`etcd_debugging_lease_ttl_total_sum`, `etcd_debugging_lease_ttl_total_count`, `etcd_debugging_server_lease_expired_total`,
	`etcd_debugging_auth_revision`, `etcd_debugging_mvcc_slow_watcher_total`,
	`etcd_server_apply_duration_seconds_count{op="Put",success="true",version="v3"}`,
	`etcd_server_apply_duration_seconds_count{op="Put",success="false",version="v3"}`,
	`etcd_server_apply_duration_seconds_count{op="Txn",success="true",version="v3"}`,
	`etcd_server_request_duration_seconds_count{success="true",type="Put"}`,
	`etcd_server_request_duration_seconds_count{success="true",type="LeaseRevoke"}`,
	`etcd_disk_backend_defrag_duration_seconds_count`, `etcd_disk_backend_snapshot_duration_seconds_count`, `etcd_disk_defrag_inflight`,
	`etcd_mvcc_hash_duration_seconds_count`, `etcd_mvcc_hash_rev_duration_seconds_count`,
	`etcd_server_has_leader`, `etcd_server_is_leader`, `etcd_server_is_learner`, `etcd_server_leader_changes_seen_total`,
	`etcd_server_proposals_pending`, `etcd_server_proposals_failed_total`, `etcd_server_quota_backend_bytes`,
	`etcd_server_health_success`, `etcd_server_health_failures`,
	`etcd_server_healthcheck{name="serializable_read",type="livez"}`, `etcd_server_healthcheck{name="non_learner",type="readyz"}`,
	`etcd_server_healthchecks_total{name="data_corruption",status="success",type="readyz"}`,
	`etcd_server_version{server_version="3.7.3"}`, `etcd_cluster_version{cluster_version="3.7"}`,
}

func TestMetricsAreEtcds(t *testing.T) {
	scraped := map[target.Kind]exposition{}
	for _, kind := range []target.Kind{target.Etcd37, target.Core} {
		// Both have the same token and URLs but for the ports.
		f := newFixture(t, targettest.Start(t, bin, kind, "--metrics=extensive"))
		f.prefix = "k/"
		exercise(f)
		scraped[kind] = scrape(f, "/metrics")
	}
	etcd, core := scraped[target.Etcd37], scraped[target.Core]
	for name, kind := range etcd.types {
		ours, have := core.types[name]
		switch {
		case notOurs.MatchString(name):
			if have {
				t.Errorf("%s is there, and is said not to be", name)
			}
		case !have:
			t.Errorf("%s is missing", name)
		case ours != kind:
			t.Errorf("%s: is a %s, and at etcd a %s", name, ours, kind)
		case !ofTheMachine.MatchString(name) && core.shape(name) != etcd.shape(name):
			t.Errorf("%s: has labels and buckets %s, and at etcd %s", name, core.shape(name), etcd.shape(name))
		}
	}
	for name := range core.types {
		if _, ok := etcd.types[name]; !ok && !strings.HasPrefix(name, "weir_") {
			t.Errorf("%s is not a name of etcd's, and does not begin with weir_", name)
		}
	}
	for _, sample := range equalAfterwards {
		want, there := etcd.value(sample)
		got, have := core.value(sample)
		if !there || !have || got != want {
			t.Errorf("%s: got %v (there: %v), and etcd %v (there: %v)", sample, got, have, want, there)
		}
	}
}

func (e exposition) value(sample string) (v float64, ok bool) {
	for family, samples := range e.series {
		if rest, of := strings.CutPrefix(sample, family); of {
			if v, ok = samples[rest]; ok {
				return v, true
			}
		}
	}
	return 0, false
}

func TestTheProxyTellsOfItselfAndPassesOnItsMembersMetrics(t *testing.T) {
	f := newFixture(t, targettest.Start(t, bin, target.ProxyCore))
	f.put("a", "1")
	for range 3 {
		f.get("a")
	}
	own := scrape(f, "/proxy/metrics")
	for sample, want := range map[string]float64{
		`weir_upstream_connected`: 1,
		`weir_upstream_shared`:    1,
		`grpc_server_handled_total{grpc_code="OK",grpc_method="Put",grpc_service="etcdserverpb.KV",grpc_type="unary"}`: 1,
	} {
		if got, ok := own.value(sample); !ok || got != want {
			t.Errorf("%s: got %v (there: %v), want %v", sample, got, ok, want)
		}
	}
	for name := range own.types {
		if strings.HasPrefix(name, "etcd_mvcc_") {
			t.Errorf("the proxy has %s, which is a member's", name)
		}
	}
	if got, ok := scrape(f, "/metrics").value(`etcd_mvcc_put_total`); !ok || got != 1 {
		t.Errorf("the member's puts: got %v (there: %v), want 1", got, ok)
	}
}

// TestTheTableOfMetricsIsWhole: docs/metrics.md has each metric that there is.
func TestTheTableOfMetricsIsWhole(t *testing.T) {
	doc, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	table := map[string]bool{}
	for _, name := range regexp.MustCompile("`([a-z0-9_]+)`").FindAllStringSubmatch(string(doc), -1) {
		table[name[1]] = true
	}
	f := newFixture(t, targettest.Start(t, bin, target.ProxyEmbedded))
	f.put("a", "1")
	for _, path := range []string{"/proxy/metrics", "/metrics"} {
		for name := range scrape(f, path).types {
			if !table[name] && !ofTheMachine.MatchString(name) {
				t.Errorf("%s of %s is not in the table", name, path)
			}
		}
	}
}
