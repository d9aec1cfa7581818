package main

import (
	"math"
	"time"

	"weir/cmd/internal/process"
	"weir/proxy"
)

// discoveryOptions are the flags that find the cluster, and have the proxy found.
type discoveryOptions struct {
	srv              string
	srvName          string
	insecure         bool
	autoSyncInterval time.Duration
	resolverPrefix   string
	resolverTTL      int64
	balance          bool
}

func (d *discoveryOptions) addFlags(f *process.Flags) {
	f.StringVar(&d.srv, "discovery-srv", "", "Domain whose DNS SRV records name the endpoints of the cluster: _etcd-client-ssl._tcp, and with --insecure-discovery _etcd-client._tcp. --endpoints are then used until DNS has answered.")
	f.StringVar(&d.srvName, "discovery-srv-name", "", "Suffix of the names of these services, as in _etcd-client-ssl-<name>._tcp.")
	f.BoolVar(&d.insecure, "insecure-discovery", false, "Take endpoints from DNS without TLS too, and certificates for the names of hosts. Without it members must show a certificate for the domain.")
	f.DurationVar(&d.autoSyncInterval, "endpoints-auto-sync-interval", 0, "Interval at which the cluster is asked for its members, whose client URLs replace the endpoints (0 to disable).")
	f.StringVar(&d.resolverPrefix, "resolver-prefix", "", "Prefix of the keys in the cluster under which proxies register. Clients who ask for the members are told all that are registered. It needs --resolver-ttl and --advertise-client-url.")
	f.Int64Var(&d.resolverTTL, "resolver-ttl", 0, "TTL, in seconds, of the lease of the registration.")
	f.BoolVar(&d.balance, "balance-clients", true, "Where proxies register, ask some clients to move while this proxy has far more connections than the others.")
}

// discoveryFlags are those that only mean something before a cluster.
var discoveryFlags = []string{
	"balance-clients", "discovery-srv", "discovery-srv-name", "endpoints-auto-sync-interval", "insecure-discovery", "resolver-prefix", "resolver-ttl",
}

// maxResolverTTL is that of any lease at etcd, in seconds.
const maxResolverTTL = 9_000_000_000

// minAutoSyncInterval keeps many proxies from asking a cluster all the time: each question is a linearizable read.
const minAutoSyncInterval = time.Second

func (d *discoveryOptions) check(advertised string) error {
	var wrong process.Mistakes
	if d.srv == "" && d.srvName != "" {
		wrong.Addf("--discovery-srv-name needs --discovery-srv, the domain in which the service is")
	}
	if d.srv == "" && d.insecure {
		wrong.Addf("--insecure-discovery needs --discovery-srv: without it leave it out")
	}
	switch {
	case d.autoSyncInterval < 0 || d.autoSyncInterval > 0 && d.autoSyncInterval < minAutoSyncInterval:
		wrong.Addf("--endpoints-auto-sync-interval=%v is not possible: it must be at least %v, or 0 to disable it", d.autoSyncInterval, minAutoSyncInterval)
	case d.autoSyncInterval > math.MaxInt64/2:
		wrong.Addf("--endpoints-auto-sync-interval=%v is not possible: it is too long", d.autoSyncInterval)
	}
	if d.resolverPrefix == "" {
		if d.resolverTTL != 0 {
			wrong.Addf("--resolver-ttl needs --resolver-prefix, under which to register")
		}
		return wrong.Err()
	}
	if d.resolverTTL < 1 || d.resolverTTL > maxResolverTTL {
		wrong.Addf("--resolver-prefix needs a --resolver-ttl from 1 to %d seconds, not %d", maxResolverTTL, d.resolverTTL)
	}
	if advertised == "" {
		wrong.Addf("--resolver-prefix needs --advertise-client-url, to tell clients where the proxy is")
	}
	return wrong.Err()
}

// configure says to the proxy what the flags ask for.
func (d *discoveryOptions) configure(cfg *proxy.Config, advertised string) {
	cfg.Discovery = proxy.Discovery{Domain: d.srv, Service: d.srvName, Insecure: d.insecure}
	cfg.EndpointsSyncInterval = d.autoSyncInterval
	cfg.Registration = proxy.Registration{Prefix: d.resolverPrefix, TTL: d.resolverTTL, URL: advertised}
}
