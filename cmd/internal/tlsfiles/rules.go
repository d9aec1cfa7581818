package tlsfiles

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"slices"
	"strings"
)

// rules are what a client certificate must satisfy beyond its chain. The zero value demands nothing.
type rules struct {
	names   []string         // common names, one of which it must have, if there are any
	hosts   []string         // host names or IP addresses, one of which it must be for, if there are any
	revoked *source[serials] // nil revokes nothing
	// addresses finds out names, if a certificate that is for addresses must be for the client's; nil demands nothing.
	addresses resolver
}

// check judges what a client at an address has shown, its own certificate first.
func (r rules) check(ctx context.Context, shown []*x509.Certificate, addr net.Addr) error {
	leaf := shown[0]
	if len(r.names) > 0 && !slices.Contains(r.names, leaf.Subject.CommonName) {
		return fmt.Errorf("client certificate authentication failed: the common name %q is not allowed", leaf.Subject.CommonName)
	}
	isFor := func(host string) bool { return leaf.VerifyHostname(host) == nil }
	if len(r.hosts) > 0 && !slices.ContainsFunc(r.hosts, isFor) {
		return fmt.Errorf("client certificate authentication failed: it is for none of the allowed hostnames, but for %q", leaf.DNSNames)
	}
	if r.revoked != nil {
		revoked := r.revoked.current()
		for _, c := range shown {
			if revoked.has(c) {
				return fmt.Errorf("client certificate serial %x revoked", c.SerialNumber)
			}
		}
	}
	if r.addresses != nil {
		return checkAddress(ctx, r.addresses, leaf, addr.String())
	}
	return nil
}

// resolver is the part of net.Resolver that is needed here.
type resolver interface {
	LookupAddr(ctx context.Context, ip string) (names []string, err error)
	LookupHost(ctx context.Context, name string) (ips []string, err error)
}

// checkAddress demands that a certificate that is for IP addresses or DNS names is for the client's. As at etcd a DNS name
// is the client's if it is found under the address, wildcards included, or the address under it.
func checkAddress(ctx context.Context, r resolver, c *x509.Certificate, addr string) error {
	if len(c.IPAddresses) == 0 && len(c.DNSNames) == 0 {
		return nil
	}
	ip, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("client certificate is for hosts, and the client has no IP address: %w", err)
	}
	if len(c.IPAddresses) > 0 {
		if err := c.VerifyHostname(ip); err == nil || len(c.DNSNames) == 0 {
			return err
		}
	}
	found, err := r.LookupAddr(ctx, ip)
	for _, name := range found {
		if slices.ContainsFunc(c.DNSNames, func(pattern string) bool { return matches(pattern, strings.TrimSuffix(name, ".")) }) {
			return nil
		}
	}
	for _, name := range c.DNSNames {
		if strings.HasPrefix(name, "*.") {
			continue
		}
		ips, lookupErr := r.LookupHost(ctx, name)
		if slices.Contains(ips, ip) {
			return nil
		}
		if lookupErr != nil {
			err = lookupErr
		}
	}
	if err != nil {
		return fmt.Errorf("client certificate is for %q, which are not known to be %s: %w", c.DNSNames, ip, err)
	}
	return fmt.Errorf("client certificate is for %q, which are not %s", c.DNSNames, ip)
}

// matches tells whether a name is what a DNS name in a certificate means. As at etcd, but not in TLS otherwise, a wildcard
// stands for any number of labels.
func matches(pattern, name string) bool {
	if domain, wildcard := strings.CutPrefix(pattern, "*."); wildcard {
		return strings.HasSuffix(name, "."+domain)
	}
	return name == pattern
}
