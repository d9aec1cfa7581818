package check

import (
	"testing"
	"time"
)

// scene is what Prometheus has scraped, as a value for each minute: while all is well, and in the trouble that an alert is for.
// 0+6 is a counter that grows by 6 a minute.
type scene map[string]struct{ well, ill string }

const (
	core  = `{job="weir-core", instance="a"}`
	proxy = `{job="weir-proxy", instance="a"}`
)

// scenes has one for each alert.
var scenes = map[string]scene{
	"WeirCoreMemberDown": {`up` + core: {"1", "0"}},
	"WeirCoreQuorumLost": {
		`up{job="weir-core", instance="a"}`: {"1", "1"},
		`up{job="weir-core", instance="b"}`: {"1", "0"},
		`up{job="weir-core", instance="c"}`: {"0", "0"},
	},
	"WeirCoreNoLeader":      {`etcd_server_has_leader` + core: {"1", "0"}},
	"WeirCoreLeaderChanges": {`etcd_server_leader_changes_seen_total` + core: {"1", "0+1"}},
	"WeirCorePeersDisconnected": {
		`etcd_network_known_peers{job="weir-core", instance="a", Local="1", Remote="1"}`:  {"1", "1"},
		`etcd_network_known_peers{job="weir-core", instance="a", Local="1", Remote="2"}`:  {"1", "1"},
		`etcd_network_active_peers{job="weir-core", instance="a", Local="1", Remote="2"}`: {"1", "0"},
		`etcd_network_known_peers{job="weir-core", instance="b", Local="3", Remote="3"}`:  {"1", "1"}, // alone in its cluster
	},
	"WeirCoreRequestsFail": {
		`etcd_server_proposals_failed_total` + core:    {"3", "0+6"},
		`etcd_server_read_indexes_failed_total` + core: {"3", "0+6"},
	},
	"WeirCoreFsyncSlow": {
		`etcd_disk_wal_fsync_duration_seconds_bucket{job="weir-core", instance="a", le="0.016"}`: {"0+600", "0"},
		`etcd_disk_wal_fsync_duration_seconds_bucket{job="weir-core", instance="a", le="0.128"}`: {"0+600", "0"},
		`etcd_disk_wal_fsync_duration_seconds_bucket{job="weir-core", instance="a", le="0.256"}`: {"0+600", "0+600"},
		`etcd_disk_wal_fsync_duration_seconds_bucket{job="weir-core", instance="a", le="+Inf"}`:  {"0+600", "0+600"},
	},
	"WeirCoreFsyncStalls": {
		`etcd_disk_wal_fsync_duration_seconds_bucket{job="weir-core", instance="a", le="0.256"}`: {"0+600", "0"},
		`etcd_disk_wal_fsync_duration_seconds_bucket{job="weir-core", instance="a", le="1.024"}`: {"0+600", "0"},
		`etcd_disk_wal_fsync_duration_seconds_bucket{job="weir-core", instance="a", le="2.048"}`: {"0+600", "0+600"},
		`etcd_disk_wal_fsync_duration_seconds_bucket{job="weir-core", instance="a", le="+Inf"}`:  {"0+600", "0+600"},
	},
	"WeirCoreStoreCommitSlow": {
		`etcd_disk_backend_commit_duration_seconds_bucket{job="weir-core", instance="a", le="0.128"}`: {"0+600", "0"},
		`etcd_disk_backend_commit_duration_seconds_bucket{job="weir-core", instance="a", le="0.256"}`: {"0+600", "0"},
		`etcd_disk_backend_commit_duration_seconds_bucket{job="weir-core", instance="a", le="0.512"}`: {"0+600", "0+600"},
		`etcd_disk_backend_commit_duration_seconds_bucket{job="weir-core", instance="a", le="+Inf"}`:  {"0+600", "0+600"},
	},
	"WeirCoreApplySlow": {`etcd_server_slow_apply_total` + core: {"5", "0+60"}},
	"WeirCoreStoreNearQuota": {
		`etcd_mvcc_db_total_size_in_bytes` + core:                                 {"7", "9"},
		`etcd_server_quota_backend_bytes` + core:                                  {"10", "10"},
		`etcd_mvcc_db_total_size_in_bytes{job="weir-core", instance="unlimited"}`: {"9", "9"},
		`etcd_server_quota_backend_bytes{job="weir-core", instance="unlimited"}`:  {"0", "0"},
	},
	"WeirCoreStoreMostlyFree": {
		`etcd_mvcc_db_total_size_in_bytes` + core:                                    {"2000000000", "2000000000"},
		`etcd_mvcc_db_total_size_in_use_in_bytes` + core:                             {"1500000000", "500000000"},
		`etcd_mvcc_db_total_size_in_bytes{job="weir-core", instance="small"}`:        {"2000", "2000"},
		`etcd_mvcc_db_total_size_in_use_in_bytes{job="weir-core", instance="small"}`: {"5", "5"},
	},
	"WeirCoreNoSpace": {
		`etcd_server_alarms{job="weir-core", instance="a", server_id="1", alarm_type="NOSPACE"}`: {"_", "1"},
		`etcd_server_alarms{job="weir-core", instance="b", server_id="1", alarm_type="NOSPACE"}`: {"_", "1"}, // the same alarm
	},
	"WeirCoreCorrupt": {`etcd_server_alarms{job="weir-core", instance="a", server_id="1", alarm_type="CORRUPT"}`: {"_", "1"}},
	"WeirCoreWatchersBehind": {
		`etcd_debugging_mvcc_slow_watcher_total` + core: {"5", "20"},
		`etcd_debugging_mvcc_watcher_total` + core:      {"100", "100"},
	},
	"WeirCoreLevelHeldUp": {
		`weir_level` + core:        {"2", "1"},
		`weir_level_newest` + core: {"2", "2"},
	},

	"WeirProxyDown":         {`up` + proxy: {"1", "0"}},
	"WeirProxyUpstreamDown": {`weir_upstream_connected` + proxy: {"1", "0"}},
	"WeirProxyUpstreamSilent": {
		`weir_upstream_answered_before_seconds` + proxy:                              {"0", "0+60"},
		`weir_reads_checks_total` + proxy:                                            {"0+60", "0+60"},
		`weir_upstream_answered_before_seconds{job="weir-proxy", instance="unused"}`: {"0+60", "0+60"},
		`weir_reads_checks_total{job="weir-proxy", instance="unused"}`:               {"0", "0"},
	},
	"WeirProxyServesStale": {`weir_reads_stale_total` + proxy: {"7", "0+60"}},
	"WeirProxyNotSharing": {
		`weir_upstream_shared` + proxy:                                  {"1", "0"},
		`weir_upstream_connected` + proxy:                               {"1", "1"},
		`weir_upstream_shared{job="weir-proxy", instance="cut off"}`:    {"0", "0"},
		`weir_upstream_connected{job="weir-proxy", instance="cut off"}`: {"0", "0"},
	},
	"WeirProxyIdentityRefused": {`weir_access_failed` + proxy: {"0", "1"}},
	"WeirProxyRevisionLags": {
		`weir_upstream_revision{job="weir-proxy", instance="ahead"}`:  {"0+60000", "0+60000"},
		`weir_watch_events_total{job="weir-proxy", instance="ahead"}`: {"0+60000", "0+60000"},
		`weir_upstream_revision` + proxy:                              {"0+60000", "0+1"},
		`weir_watch_events_total` + proxy:                             {"0+60000", "0+1"},
		`weir_upstream_revision{job="weir-proxy", instance="idle"}`:   {"1", "1"},
		`weir_watch_events_total{job="weir-proxy", instance="idle"}`:  {"0", "0"},
	},
	"WeirProxyWatchersBehind": {
		`weir_watch_watchers_behind` + proxy: {"5", "20"},
		`weir_watch_watchers` + proxy:        {"100", "100"},
	},
	"WeirProxyWatchStreamsEnded": {
		`grpc_server_handled_total{job="weir-proxy", instance="a", grpc_method="Watch", grpc_code="Unavailable"}`: {"0+6", "0+120"},
	},
	"WeirProxyMemoryShort": {`weir_cache_dropped_room_total` + proxy: {"3", "0+1"}},
	"WeirProxyLoadsFail":   {`weir_cache_loads_failed_total` + proxy: {"3", "0+1"}},
	"WeirProxyLimitsHit": {
		`weir_clients_refused_rate_total` + proxy:      {"3", "0+30"},
		`weir_clients_refused_in_flight_total` + proxy: {"3", "0+30"},
		`weir_clients_refused_watches_total` + proxy:   {"3", "0+30"},
		`weir_clients_refused_quota_total` + proxy:     {"3", "0+30"},
	},
	"WeirProxyUpstreamCallsRefused": {`weir_calls_refused_total` + proxy: {"3", "0+1"}},
	"WeirProxyLeasePingsFail": {
		`weir_lease_pings_total` + proxy:        {"0+6000", "0+6000"},
		`weir_lease_pings_failed_total` + proxy: {"0+6", "0+600"},
	},

	"WeirErrors": {
		`grpc_server_handled_total{job="weir-proxy", instance="a", grpc_type="unary", grpc_service="etcdserverpb.KV", grpc_method="Range", grpc_code="OK"}`:          {"0+600", "0+600"},
		`grpc_server_handled_total{job="weir-proxy", instance="a", grpc_type="unary", grpc_service="etcdserverpb.KV", grpc_method="Range", grpc_code="Unavailable"}`: {"0+6", "0+60"},
	},
	"WeirReloadRefused": {
		`weir_reload_refused{job="weir-proxy", instance="a", what="tenants"}`: {"0", "1"},
		`weir_reload_refused{job="weir-core", instance="b", what="tls"}`:      {"0", "0"},
	},
	"WeirFileDescriptorsShort": {
		`os_fd_used` + core:  {"700", "900"},
		`os_fd_limit` + core: {"1000", "1000"},
	},
	"WeirRestarts": {`process_start_time_seconds` + core: {"5", "5+1"}},
}

// TestAlertsFireInTroubleAndOnlyThen runs each scene on Prometheus' engine: the alert is quiet while all is well, waits for as long as it says,
// and fires once. (promtool would do so, too. It brings the clients of every cloud with it, as Prometheus' package of rules does.)
func TestAlertsFireInTroubleAndOnlyThen(t *testing.T) {
	for _, rule := range alerts(t) {
		s, ok := scenes[rule.Alert]
		if !ok {
			t.Errorf("%s has no scene", rule.Alert)
			continue
		}
		well, ill := map[string]string{}, map[string]string{}
		for name, values := range s {
			well[name], ill[name] = values.well+"x1600", values.ill+"x1600"
		}
		patience := time.Duration(rule.For)
		end := patience + time.Hour
		if got := load(t, time.Minute, well).firing(t, rule, end); len(got) > 0 {
			t.Errorf("%s fires while all is well, for %v", rule.Alert, got)
		}
		trouble := load(t, time.Minute, ill)
		if got := trouble.firing(t, rule, end); len(got) != 1 {
			t.Errorf("%s fires in trouble for %v, want one", rule.Alert, got)
		}
		if got := trouble.firing(t, rule, patience-time.Minute); len(got) > 0 {
			t.Errorf("%s does not wait for %v, and fires for %v", rule.Alert, patience, got)
		}
	}
}
