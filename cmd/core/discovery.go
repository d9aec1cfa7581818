package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"weir/core"
)

// discovery finds the members of a cluster in DNS (--discovery-srv), as etcd does: each SRV record (RFC 2782) of the services
// etcd-server-ssl, with https, and etcd-server, with http, is one of them, and the one that leads to a peer URL of this member is
// this member (https://etcd.io/docs/v3.6/op-guide/clustering/#dns-discovery).
type discovery struct {
	domain   string
	service  string // goes after the services' names, as in etcd-server-ssl-<service>; "" leaves them as they are
	name     string // of this member
	peerURLs []string
	resolver resolver
	logger   *slog.Logger
}

// resolver is what of a net.Resolver is used.
type resolver interface {
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
	LookupHost(ctx context.Context, host string) ([]string, error)
}

// lookupTimeout bounds all that is asked of DNS.
const lookupTimeout = 30 * time.Second

// find returns the members. Those that are not this one are named by host and port.
func (d discovery) find(ctx context.Context) ([]core.InitialMember, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	own := core.InitialMember{Name: d.name}
	var members []core.InitialMember
	var errs []error
	for _, s := range []struct{ service, scheme string }{{"etcd-server-ssl", "https"}, {"etcd-server", "http"}} {
		found, err := d.lookup(ctx, s.service, s.scheme)
		if err != nil {
			errs = append(errs, err)
		}
		for _, u := range found {
			d.logger.Info("found a member by DNS", "peer-url", u.String(), "domain", d.domain)
			if d.isOwn(ctx, u) {
				own.PeerURLs = append(own.PeerURLs, u.String())
			} else {
				members = append(members, core.InitialMember{Name: u.Host, PeerURLs: []string{u.String()}})
			}
		}
	}
	switch {
	case len(members)+len(own.PeerURLs) == 0:
		return nil, fmt.Errorf("--discovery-srv=%s finds nobody: %w", d.domain, errors.Join(errs...))
	case len(own.PeerURLs) != len(d.peerURLs):
		return nil, fmt.Errorf("--discovery-srv=%s has %d of the peer URLs of this member, %s: make the SRV records and --initial-advertise-peer-urls lead to the same places",
			d.domain, len(own.PeerURLs), strings.Join(d.peerURLs, ","))
	}
	return append(members, own), nil
}

// lookup returns the peer URLs that the records of one service name.
func (d discovery) lookup(ctx context.Context, service, scheme string) (found []*url.URL, err error) {
	if d.service != "" {
		service += "-" + d.service
	}
	_, records, err := d.resolver.LookupSRV(ctx, service, "tcp", d.domain)
	if err != nil && len(records) == 0 { // it also fails when only some are malformed
		return nil, fmt.Errorf("SRV records of _%s._tcp.%s: %w", service, d.domain, err)
	}
	for _, r := range records {
		if host := strings.TrimSuffix(r.Target, "."); host != "" { // else it says that there is no such service
			found = append(found, &url.URL{Scheme: scheme, Host: net.JoinHostPort(host, strconv.Itoa(int(r.Port)))})
		}
	}
	return found, nil
}

// isOwn tells whether a URL leads to this member.
func (d discovery) isOwn(ctx context.Context, u *url.URL) bool {
	return slices.ContainsFunc(d.peerURLs, func(s string) bool {
		own, err := url.Parse(s)
		return err == nil && own.Scheme == u.Scheme && own.Port() == u.Port() && d.sameHost(ctx, own.Hostname(), u.Hostname())
	})
}

// sameHost tells whether two hosts have an address in common.
func (d discovery) sameHost(ctx context.Context, a, b string) bool {
	if strings.EqualFold(a, b) {
		return true
	}
	as, _ := d.resolver.LookupHost(ctx, a) // of a host that is not known none is the same
	bs, _ := d.resolver.LookupHost(ctx, b)
	return slices.ContainsFunc(as, func(address string) bool { return slices.Contains(bs, address) })
}
