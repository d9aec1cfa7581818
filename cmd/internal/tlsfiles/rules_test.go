package tlsfiles

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"slices"
	"testing"
)

// zone is a resolver of names to addresses. What is not in it cannot be asked for.
type zone map[string][]string

var errNoServer = errors.New("no DNS server")

func (z zone) LookupHost(_ context.Context, name string) ([]string, error) {
	if ips, ok := z[name]; ok {
		return ips, nil
	}
	return nil, errNoServer
}

func (z zone) LookupAddr(_ context.Context, ip string) ([]string, error) {
	var names []string
	for name, ips := range z {
		if slices.Contains(ips, ip) {
			names = append(names, name+".") // as DNS has it
		}
	}
	if names == nil {
		return nil, errNoServer
	}
	return names, nil
}

func TestAddressOfAClientMustBeItsCertificates(t *testing.T) {
	dns := zone{"a.example.org": {"10.0.0.1"}, "x.y.example.org": {"10.0.0.2"}, "b.example.com": {"10.0.0.9"}}
	ip := func(s string) []net.IP { return []net.IP{net.ParseIP(s)} }
	for _, c := range []struct {
		name string
		cert x509.Certificate
		addr string
		ok   bool
	}{
		{"for nothing", x509.Certificate{}, "10.0.0.1:1", true},
		{"its address", x509.Certificate{IPAddresses: ip("10.0.0.1")}, "10.0.0.1:1", true},
		{"its address, version 6", x509.Certificate{IPAddresses: ip("::1")}, "[::1]:1", true},
		{"another address", x509.Certificate{IPAddresses: ip("10.0.0.2")}, "10.0.0.1:1", false},
		{"its name", x509.Certificate{DNSNames: []string{"a.example.org"}}, "10.0.0.1:1", true},
		{"another address but its name", x509.Certificate{IPAddresses: ip("10.0.0.2"), DNSNames: []string{"a.example.org"}}, "10.0.0.1:1", true},
		{"another name", x509.Certificate{DNSNames: []string{"b.example.com"}}, "10.0.0.1:1", false},
		{"an unknown name", x509.Certificate{DNSNames: []string{"c.example.com"}}, "10.0.0.1:1", false},
		{"one of its names", x509.Certificate{DNSNames: []string{"c.example.com", "a.example.org"}}, "10.0.0.1:1", true},
		{"a wildcard", x509.Certificate{DNSNames: []string{"*.example.org"}}, "10.0.0.1:1", true},
		{"a wildcard, further down", x509.Certificate{DNSNames: []string{"*.example.org"}}, "10.0.0.2:1", true},
		{"another wildcard", x509.Certificate{DNSNames: []string{"*.example.org"}}, "10.0.0.9:1", false},
		{"a wildcard of nothing", x509.Certificate{DNSNames: []string{"*.a.example.org"}}, "10.0.0.1:1", false},
		{"an address without a name", x509.Certificate{DNSNames: []string{"*.example.org"}}, "10.0.0.3:1", false},
		{"a unix socket", x509.Certificate{IPAddresses: ip("10.0.0.1")}, "@", false},
		{"a unix socket, for nothing", x509.Certificate{}, "@", true},
	} {
		if err := checkAddress(t.Context(), dns, &c.cert, c.addr); (err == nil) != c.ok {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
	err := checkAddress(t.Context(), dns, &x509.Certificate{DNSNames: []string{"c.example.com"}}, "10.0.0.1:1")
	if !errors.Is(err, errNoServer) {
		t.Errorf("the cause is lost: %v", err)
	}
}
