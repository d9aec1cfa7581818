package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
)

// zone answers for DNS.
type zone struct {
	records map[string][]*net.SRV // by service
	hosts   map[string][]string
}

var errNoSuchName = errors.New("no such name")

func (z zone) LookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	records, ok := z.records[service+"."+proto+"."+name]
	if !ok {
		return "", nil, errNoSuchName
	}
	return "", records, nil
}

func (z zone) LookupHost(_ context.Context, host string) ([]string, error) {
	if net.ParseIP(host) != nil {
		return []string{host}, nil
	}
	addresses, ok := z.hosts[host]
	if !ok {
		return nil, errNoSuchName
	}
	return addresses, nil
}

func TestMembersAreFoundByDNS(t *testing.T) {
	dns := zone{
		records: map[string][]*net.SRV{
			"etcd-server.tcp.example.org": {
				{Target: "a.example.org.", Port: 2380}, {Target: "b.example.org.", Port: 2380}, {Target: ".", Port: 0},
			},
			"etcd-server-ssl-blue.tcp.example.org": {{Target: "a.example.org.", Port: 2380}, {Target: "c.example.org.", Port: 2381}},
		},
		hosts: map[string][]string{"a.example.org": {"fd00::1", "10.0.0.1"}, "b.example.org": {"10.0.0.2"}},
	}
	for name, one := range map[string]struct {
		domain, service, own string
		want                 string // members, or part of an error
	}{
		"own by name":          {"example.org", "", "http://a.example.org:2380", "[{b.example.org:2380 [http://b.example.org:2380]} {m [http://a.example.org:2380]}]"},
		"own by address":       {"example.org", "", "http://10.0.0.2:2380", "[{a.example.org:2380 [http://a.example.org:2380]} {m [http://b.example.org:2380]}]"},
		"with TLS and service": {"example.org", "blue", "https://a.example.org:2380", "[{c.example.org:2381 [https://c.example.org:2381]} {m [https://a.example.org:2380]}]"},
		"own is not there":     {"example.org", "", "http://10.0.0.3:2380", "--discovery-srv=example.org has 0 of the peer URLs"},
		"own has no TLS":       {"example.org", "blue", "http://a.example.org:2380", "has 0 of the peer URLs"},
		"another port":         {"example.org", "", "http://a.example.org:2381", "has 0 of the peer URLs"},
		"no records":           {"example.com", "", "http://a.example.org:2380", "finds nobody"},
	} {
		d := discovery{domain: one.domain, service: one.service, name: "m", peerURLs: []string{one.own}, resolver: dns, logger: slog.New(slog.DiscardHandler)}
		members, err := d.find(t.Context())
		got := fmt.Sprint(members)
		if err != nil {
			got = err.Error()
		}
		if got != one.want && (err == nil || !strings.Contains(got, one.want)) {
			t.Errorf("%s: %s, want %s", name, got, one.want)
		}
	}
}
