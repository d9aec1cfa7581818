package main

import (
	"strings"
	"testing"
	"time"

	"weir/proxy"
)

func TestDiscoveryFlagsReachTheProxy(t *testing.T) {
	o, err := parseOptions([]string{
		"--discovery-srv=example.com", "--discovery-srv-name=dev", "--insecure-discovery", "--endpoints-auto-sync-interval=30s",
		"--resolver-prefix=/proxies", "--resolver-ttl=60", "--advertise-client-url=10.0.0.1:23790",
	}, nil)
	if err != nil || o.embedded {
		t.Fatalf("embedded %v, %v", o.embedded, err)
	}
	var cfg proxy.Config
	o.discovery.configure(&cfg, o.advertiseClientURL)
	if cfg.Discovery != (proxy.Discovery{Domain: "example.com", Service: "dev", Insecure: true}) || cfg.EndpointsSyncInterval != 30*time.Second ||
		cfg.Registration != (proxy.Registration{Prefix: "/proxies", TTL: 60, URL: "10.0.0.1:23790"}) {
		t.Errorf("got %+v", cfg)
	}
}

func TestDiscoveryFlagsThatCannotBeAreOneLine(t *testing.T) {
	for want, args := range map[string][]string{
		"--discovery-srv-name needs --discovery-srv":     {"--endpoints=a:1", "--discovery-srv-name=dev"},
		"--insecure-discovery needs --discovery-srv":     {"--endpoints=a:1", "--insecure-discovery"},
		"--endpoints-auto-sync-interval=-1s is not":      {"--endpoints=a:1", "--endpoints-auto-sync-interval=-1s"},
		"--endpoints-auto-sync-interval=10ms is not":     {"--endpoints=a:1", "--endpoints-auto-sync-interval=10ms"},
		"--endpoints-auto-sync-interval=2562047h0m0s is": {"--endpoints=a:1", "--endpoints-auto-sync-interval=2562047h"},
		"--resolver-prefix needs a --resolver-ttl":       {"--endpoints=a:1", "--resolver-prefix=p", "--advertise-client-url=a:1"},
		"seconds, not 9000000001":                        {"--endpoints=a:1", "--resolver-prefix=p", "--resolver-ttl=9000000001", "--advertise-client-url=a:1"},
		"--resolver-ttl needs --resolver-prefix":         {"--endpoints=a:1", "--resolver-ttl=1", "--advertise-client-url=a:1"},
		"--resolver-prefix needs --advertise-client-url": {"--endpoints=a:1", "--resolver-prefix=p", "--resolver-ttl=1"},
		"or --discovery-srv, or --embedded":              {"--debug"},
		"--discovery-srv is for --endpoints":             {"--embedded", "--discovery-srv=example.com"},
		"--resolver-prefix is for --endpoints":           {"--embedded", "--resolver-prefix=p"},
	} {
		if _, err := parseOptions(args, nil); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: got %v, want %s", args, err, want)
		}
	}
}
