package main

import (
	"time"

	"weir/cmd/internal/process"
)

// ineffectiveFlags are flags of etcd that cannot change anything here. They are accepted, so that a command line of etcd's
// goes on working, checked as etcd checks them, and each that is given is logged with the reason.
type ineffectiveFlags struct {
	texts map[string]*string
}

// ineffective is one such flag. Those with values have only these.
var ineffective = []struct {
	name      string
	byDefault any
	why       string
	values    []string
}{
	{name: "raft-read-timeout", byDefault: 5 * time.Second, why: ownPings},
	{name: "raft-write-timeout", byDefault: 5 * time.Second, why: ownPings},
	{name: "downgrade-check-time", byDefault: 5 * time.Second, why: "all members keep to a downgrade at once: there is no end of it to be looked for"},

	{name: "max-snapshots", byDefault: uint(5), why: "there are no snapshot files"},
	{name: "max-wals", byDefault: uint(5), why: "what the log does not need any more is removed at once"},
	{name: "memory-mlock", byDefault: false, why: "weir cannot keep its memory from being swapped out: turn swap off"},
	{name: "backend-bbolt-freelist-type", byDefault: "map", why: "weir chooses it", values: []string{"map", "array"}},
	{name: "v2-deprecation", byDefault: "write-only", why: "there is no v2 store; etcd ignores it too",
		values: []string{"write-only", "write-only-skip-check", "write-only-drop-data", "gone"}},

	{name: "discovery-fallback", byDefault: "exit", why: noDiscovery, values: []string{"exit"}},
	{name: "discovery-dial-timeout", byDefault: 2 * time.Second, why: noDiscovery},
	{name: "discovery-request-timeout", byDefault: 5 * time.Second, why: noDiscovery},
	{name: "discovery-keepalive-time", byDefault: 2 * time.Second, why: noDiscovery},
	{name: "discovery-keepalive-timeout", byDefault: 6 * time.Second, why: noDiscovery},
	{name: "discovery-insecure-transport", byDefault: true, why: noDiscovery},
	{name: "discovery-insecure-skip-tls-verify", byDefault: false, why: noDiscovery},
	{name: "discovery-cert", byDefault: "", why: noDiscovery},
	{name: "discovery-key", byDefault: "", why: noDiscovery},
	{name: "discovery-cacert", byDefault: "", why: noDiscovery},
	{name: "discovery-user", byDefault: "", why: noDiscovery},
	{name: "discovery-password", byDefault: "", why: noDiscovery},
}

const (
	ownPings    = "members ping each other, and notice within seconds that one is away"
	noDiscovery = "without --discovery-endpoints nothing is looked for"
)

// leftovers are flags that etcd itself takes only to ignore them.
var leftovers = []string{
	"cluster-active-size", "cluster-remove-delay", "cluster-sync-interval", "config", "force", "max-result-buffer", "max-retry-attempts",
	"peer-election-timeout", "peer-heartbeat-interval", "retry-interval", "snapshot", "v", "vv",
}

func (i *ineffectiveFlags) define(f *process.Flags) {
	i.texts = map[string]*string{}
	for _, flag := range ineffective {
		usage := "No effect: " + flag.why + "."
		switch d := flag.byDefault.(type) {
		case bool:
			f.Bool(flag.name, d, usage)
		case uint:
			f.Uint(flag.name, d, usage)
		case time.Duration:
			f.Duration(flag.name, d, usage)
		case string:
			i.texts[flag.name] = f.String(flag.name, d, usage)
		}
		f.NoEffect(flag.name, flag.why)
	}
	for _, name := range leftovers {
		f.BoolFunc(name, "", func(string) error { return nil }) // not for the help, where etcd does not have them either
		f.NoEffect(name, "etcd ignores it too")
	}
}

func (i *ineffectiveFlags) apply(f *process.Flags, _ *options) error {
	var wrong process.Mistakes
	for _, flag := range ineffective {
		if flag.values != nil {
			wrong.Add(oneOf(flag.name, *i.texts[flag.name], flag.values...))
		}
	}
	return wrong.Err()
}
