package main

import "weir/cmd/internal/process"

// introduction is how the help begins.
const introduction = `Usage:

  proxy [--flag=value ...]
    Serve etcd's API before an etcd cluster, a weir core or another proxy. Without any flag, before a
    core of its own in the same process.

  proxy check-config [--flag=value ...]
    Tell what is wrong with these flags, variables and the files that they name, and start nothing.

  proxy version | --version
    Show the version.

  proxy help | -h | --help
    Show this.

Each flag may be given as an environment variable, --listen-addr as WEIR_PROXY_LISTEN_ADDR, and as a key
of a YAML file that --config-file names, as in "listen-addr: 127.0.0.1:23790". A flag counts more than
its variable, and that more than the file.
`

// helpGroups are the flags as the help has them.
var helpGroups = []process.Group{
	{Title: "Upstream", Flags: []string{
		"endpoints", "embedded", "data-dir", "user", "password", "cacert", "cert", "key", "insecure-skip-tls-verify",
		"dial-keepalive-time", "dial-keepalive-timeout", "permit-without-stream", "max-send-bytes", "max-recv-bytes", "max-upstream-requests",
	}},
	{Title: "Discovery and registration", Flags: []string{
		"discovery-srv", "discovery-srv-name", "insecure-discovery", "endpoints-auto-sync-interval", "resolver-prefix", "resolver-ttl", "balance-clients", "advertise-client-url",
	}},
	{Title: "Listening", Flags: []string{
		"listen-addr", "metrics-addr", "max-concurrent-streams", "grpc-keepalive-min-time", "grpc-keepalive-interval", "grpc-keepalive-timeout",
		"slow-client-timeout",
	}},
	{Title: "Security", Flags: []string{
		"cert-file", "key-file", "trusted-ca-file", "client-crl-file", "auto-tls", "self-signed-cert-validity",
		"listen-cipher-suites", "tls-min-version", "tls-max-version",
	}},
	{Title: "Clients", Flags: []string{
		"namespace", "tenants-file", "limit-requests", "limit-bytes", "limit-in-flight", "limit-watches", "max-range-keys", "max-range-bytes",
	}},
	{Title: "Watches", Flags: []string{"feed", "watch-history-bytes", "watch-progress-notify-interval"}},
	{Title: "Reads", Flags: []string{"cache-prefix", "cache-bytes", "max-staleness", "read-check-interval"}},
	{Title: "Process", Flags: []string{"config-file", "memory-limit", "log-level", "debug", "status-page", "enable-pprof", "drain-delay", "drain-timeout", "version"}},
	{Title: "Not there yet", Flags: []string{
		"experimental-enable-grpc-logging", "experimental-leasing-prefix", "experimental-serializable-ordering",
	}},
}
