package main

import "weir/cmd/internal/process"

// introduction is how the help begins.
const introduction = `Usage:

  core [--flag=value ...]
    Start a member of a cluster.

  core --config-file=FILE
    The same, from a file in the form of etcd's. Other flags and environment variables are ignored. In
    the file a duration may be a whole number of nanoseconds, as at etcd, or have its unit, as in 5s.

  core check-config [--flag=value ...]
    Tell what is wrong with these flags, variables and the files that they name, and start nothing.

  core snapshot restore FILE | core snapshot status FILE
    Make the data directory of a member of a new cluster of a saved snapshot, or tell what is in one.

  core version | --version
    Show the version.

  core help | -h | --help
    Show this.

Each flag may be given as an environment variable: --data-dir as ETCD_DATA_DIR. The flag counts more.
`

// helpGroups are the flags as the help has them: in the groups of etcd's.
var helpGroups = []process.Group{
	{Title: "Member", Flags: []string{
		"name", "data-dir", "wal-dir", "snapshot-count", "heartbeat-interval", "election-timeout", "initial-election-tick-advance",
		"listen-peer-urls", "listen-client-urls", "listen-client-http-urls", "max-snapshots", "max-wals", "memory-mlock", "quota-backend-bytes",
		"backend-bbolt-freelist-type", "backend-batch-interval", "backend-batch-limit", "max-txn-ops", "max-request-bytes", "max-concurrent-streams",
		"grpc-keepalive-min-time", "grpc-keepalive-interval", "grpc-keepalive-timeout", "socket-reuse-port", "socket-reuse-address",
		"enable-grpc-gateway", "enable-grpc-reflection", "raft-read-timeout", "raft-write-timeout", "drain-delay", "drain-timeout", "feature-gates", "config-file", "version",
	}},
	{Title: "Clustering", Flags: []string{
		"initial-advertise-peer-urls", "initial-cluster", "initial-cluster-state", "initial-cluster-token", "advertise-client-urls",
		"discovery", "discovery-token", "discovery-endpoints", "discovery-dial-timeout", "discovery-request-timeout", "discovery-keepalive-time",
		"discovery-keepalive-timeout", "discovery-insecure-transport", "discovery-insecure-skip-tls-verify", "discovery-cert", "discovery-key",
		"discovery-cacert", "discovery-user", "discovery-password", "discovery-fallback", "discovery-proxy", "discovery-srv", "discovery-srv-name",
		"strict-reconfig-check", "pre-vote", "auto-compaction-retention", "auto-compaction-mode", "v2-deprecation",
	}},
	{Title: "Security", Flags: []string{
		"cert-file", "key-file", "client-cert-auth", "client-cert-file", "client-key-file", "client-crl-file", "client-cert-allowed-cn",
		"client-cert-allowed-hostname", "trusted-ca-file", "auto-tls",
		"peer-cert-file", "peer-key-file", "peer-client-cert-auth", "peer-client-cert-file", "peer-client-key-file", "peer-crl-file",
		"peer-cert-allowed-cn", "peer-cert-allowed-hostname", "peer-trusted-ca-file", "peer-auto-tls",
		"self-signed-cert-validity", "cipher-suites", "cors", "host-whitelist", "tls-min-version", "tls-max-version",
	}},
	{Title: "Auth", Flags: []string{"auth-token", "bcrypt-cost", "auth-token-ttl"}},
	{Title: "Profiling and Monitoring", Flags: []string{"enable-pprof", "metrics", "listen-metrics-urls", "status-page"}},
	{Title: "Logging", Flags: []string{
		"logger", "log-outputs", "log-level", "log-format", "enable-log-rotation", "log-rotation-config-json", "warning-unary-request-duration",
	}},
	{Title: "Distributed tracing", Flags: []string{
		"enable-distributed-tracing", "distributed-tracing-address", "distributed-tracing-service-name", "distributed-tracing-instance-id",
		"distributed-tracing-sampling-rate",
	}},
	{Title: "Features", Flags: []string{
		"corrupt-check-time", "compact-hash-check-time", "compaction-batch-limit", "peer-skip-client-san-verification",
		"watch-progress-notify-interval", "warning-apply-duration", "bootstrap-defrag-threshold-megabytes", "max-learners",
		"compaction-sleep-interval", "downgrade-check-time", "snapshot-catchup-entries",
	}},
	{Title: "Unsafe feature", Flags: []string{"force-new-cluster", "unsafe-no-fsync"}},
}
