package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"
)

// Discovery says how the members are found by DNS, as etcd's clients find them: by the SRV records (RFC 2782) of the services
// etcd-client-ssl, whose endpoints are https, and etcd-client, whose are http
// (https://etcd.io/docs/v3.6/op-guide/clustering/#dns-discovery).
//
// Who can forge an answer of DNS can name members of his own. So endpoints without TLS are only taken if that is asked for,
// and a member must show a certificate for the domain. etcd checks that once, at its start; here it is what every
// connection is checked for, instead of the name of the member's host.
type Discovery struct {
	// Domain is where the records are; "" discovers nothing.
	Domain string
	// Service goes after the services' names, as in etcd-client-ssl-<Service>; "" leaves them as they are.
	Service string
	// Insecure takes endpoints without TLS too, and certificates for the names of the members' hosts.
	Insecure bool
	// Resolver asks DNS; nil is net.DefaultResolver.
	Resolver *net.Resolver
}

const (
	// lookupTimeout bounds one look into DNS.
	lookupTimeout = 5 * time.Second
	// lookupInterval is the most between two of them while no member can be reached, and the first interval is
	// lookupIntervalMin: when machines are started together, DNS may be the last to come.
	lookupInterval    = 5 * time.Second
	lookupIntervalMin = 250 * time.Millisecond
)

// discover has the endpoints be what DNS names. It asks until that is something, and from then on only while no member
// is connected: records that are gone for a moment must not disconnect a proxy that is content.
func (u *upstream) discover(d Discovery) {
	interval, reported := lookupIntervalMin, ""
	for {
		found, err := d.lookup(u.ctx)
		if err == nil {
			err = u.setEndpoints(found)
		}
		switch {
		case u.ctx.Err() != nil:
			return
		case err == nil:
			if names := namesOf(found); names != reported {
				u.log.Info("discovered endpoints", "domain", d.Domain, "endpoints", names)
				reported = names
			}
			for ok := true; ok; ok = u.current.Load() != nil {
				if !pause(u.ctx, lookupInterval) {
					return
				}
			}
		default:
			u.explain(err)
			if err.Error() != reported {
				u.log.Warn("no endpoints are discovered", "domain", d.Domain, "error", err)
				reported = err.Error()
			}
			if !pause(u.ctx, interval) {
				return
			}
			interval = min(2*interval, lookupInterval)
		}
	}
}

// lookup returns at least one endpoint, or why there is none.
func (d Discovery) lookup(ctx context.Context) ([]endpoint, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	secure, secureErr := d.service(ctx, "etcd-client-ssl", "https://")
	if !d.Insecure {
		for i := range secure {
			secure[i].serverName = d.Domain
		}
		if len(secure) == 0 {
			return nil, fmt.Errorf("%w; --insecure-discovery takes endpoints without TLS", secureErr)
		}
		return secure, nil
	}
	insecure, insecureErr := d.service(ctx, "etcd-client", "http://")
	if all := append(secure, insecure...); len(all) > 0 {
		return all, nil
	}
	return nil, fmt.Errorf("%w; %w", secureErr, insecureErr)
}

// service returns the endpoints of one service: at least one, or an error.
func (d Discovery) service(ctx context.Context, service, scheme string) (found []endpoint, err error) {
	if d.Service != "" {
		service += "-" + d.Service
	}
	resolver := d.Resolver
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	name := fmt.Sprintf("_%s._tcp.%s", service, d.Domain)
	_, records, err := resolver.LookupSRV(ctx, service, "tcp", d.Domain)
	if err != nil && len(records) == 0 { // it also fails when only some are malformed
		return nil, fmt.Errorf("SRV records of %s: %w", name, err)
	}
	for _, r := range records {
		host := strings.TrimSuffix(r.Target, ".")
		if host == "" {
			continue // which says that there is no such service: RFC 2782, "Target"
		}
		e, err := Config{}.endpoint(scheme + net.JoinHostPort(host, strconv.Itoa(int(r.Port))))
		if err != nil {
			return nil, fmt.Errorf("SRV records of %s: %w", name, err)
		}
		found = append(found, e)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("SRV records of %s: %w", name, errNoService)
	}
	return found, nil
}

var errNoService = errors.New("they say that there is no such service")

func namesOf(endpoints []endpoint) string {
	var names []string
	for _, e := range endpoints {
		names = append(names, e.name)
	}
	return strings.Join(names, ",")
}

// pause waits for d, and tells whether ctx has not ended meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
