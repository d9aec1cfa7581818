package main

import (
	"slices"
	"strings"
	"testing"

	"weir/proxy/tenants"
)

func TestWhoTheProxyIsCanBeSaidInTwoWays(t *testing.T) {
	for _, args := range [][]string{
		{"--user=root:a:b"},
		{"--user=root", "--password=a:b"},
	} {
		o, err := parseOptions(append(args, "--endpoints=a:1"), nil)
		if err != nil || o.clients.user != "root" || o.clients.password != "a:b" {
			t.Errorf("%v: got %q with %q, %v", args, o.clients.user, o.clients.password, err)
		}
	}
	o, err := parseOptions([]string{"--endpoints=a:1"}, []string{"WEIR_PROXY_USER=root", "WEIR_PROXY_PASSWORD=secret"})
	if err != nil || o.clients.user != "root" || o.clients.password != "secret" {
		t.Errorf("from variables: got %q with %q, %v", o.clients.user, o.clients.password, err)
	}
}

func TestWhatClientsMayDoIsCheckedAtStart(t *testing.T) {
	const bound = " is not possible: make it 0 to 1000000000000; 0 is no limit"
	for want, args := range map[string][]string{
		"leave one out":                         {"--user=root:a", "--password=b"},
		"--password is without --user":          {"--password=b"},
		"--user=root is without a password":     {"--user=root"},
		"--limit-requests=-1" + bound:           {"--limit-requests=-1"},
		"--limit-requests=+Inf" + bound:         {"--limit-requests=inf"},
		"--limit-bytes=NaN" + bound:             {"--limit-bytes=NaN"},
		"--limit-bytes=1e+13" + bound:           {"--limit-bytes=1e13"},
		"--limit-in-flight=-1" + bound:          {"--limit-in-flight=-1"},
		"--limit-in-flight=1e+13" + bound:       {"--limit-in-flight=10000000000000"},
		"--limit-watches=-1" + bound:            {"--limit-watches=-1"},
		"--max-upstream-requests=-1" + bound:    {"--max-upstream-requests=-1"},
		"--max-upstream-requests=1e+13" + bound: {"--max-upstream-requests=10000000000000"},
	} {
		_, err := parseOptions(append(args, "--endpoints=a:1"), nil)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: got %v, want %s", args, err, want)
		}
	}
}

func TestLimitsAreOffUnlessTheyAreGiven(t *testing.T) {
	o, err := parseOptions([]string{"--endpoints=a:1"}, nil)
	if err != nil || o.clients.limits != (tenants.Limits{}) || o.clients.upstreamCalls != 256 {
		t.Errorf("got %+v, %v", o.clients, err)
	}
}

func TestPrefixesAreWithinTheNamespace(t *testing.T) {
	c := clientOptions{namespace: "/app/"}
	if got := c.within([]string{"", "a"}); !slices.Equal(got, []string{"/app/", "/app/a"}) {
		t.Errorf("got %q", got)
	}
}
