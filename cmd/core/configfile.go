package main

import "weir/cmd/internal/process"

// fileSections are the keys of etcd's configuration file that hold keys, and the flags these stand for. All other keys are
// named as the flags are.
var fileSections = map[string]map[string]string{
	"client-transport-security": {
		"cert-file": "cert-file", "key-file": "key-file", "client-cert-file": "client-cert-file", "client-key-file": "client-key-file",
		"client-cert-auth": "client-cert-auth", "trusted-ca-file": "trusted-ca-file", "auto-tls": "auto-tls",
		"allowed-cn": "client-cert-allowed-cn", "allowed-hostname": "client-cert-allowed-hostname",
	},
	"peer-transport-security": {
		"cert-file": "peer-cert-file", "key-file": "peer-key-file", "client-cert-file": "peer-client-cert-file", "client-key-file": "peer-client-key-file",
		"client-cert-auth": "peer-client-cert-auth", "trusted-ca-file": "peer-trusted-ca-file", "auto-tls": "peer-auto-tls",
		"allowed-cn": "peer-cert-allowed-cn", "allowed-hostname": "peer-cert-allowed-hostname",
		"skip-client-san-verification": "peer-skip-client-san-verification",
	},
	"socket-options": {"reuse-port": "socket-reuse-port", "reuse-address": "socket-reuse-address"},
}

// fileForm is that of etcd's file (https://github.com/etcd-io/etcd/blob/main/etcd.conf.yml.sample). Unlike etcd it refuses a key that it
// does not know.
var fileForm = process.FileForm{
	Sections: fileSections,
	// They are in etcd's sample, and etcd 3.7 ignores them.
	Ignored: []string{
		"discovery-fallback", "enable-v2", "proxy", "proxy-dial-timeout", "proxy-failure-wait", "proxy-read-timeout", "proxy-refresh-interval", "proxy-write-timeout",
	},
	Nanoseconds: true,
}

// listFlags are those for which a file may have a list. At etcd only some may.
var listFlags = []string{
	"advertise-client-urls", "cipher-suites", "client-cert-allowed-cn", "client-cert-allowed-hostname", "cors", "discovery-endpoints", "feature-gates",
	"host-whitelist", "initial-advertise-peer-urls", "initial-cluster", "listen-client-http-urls", "listen-client-urls", "listen-metrics-urls",
	"listen-peer-urls", "log-outputs", "peer-cert-allowed-cn", "peer-cert-allowed-hostname",
}
