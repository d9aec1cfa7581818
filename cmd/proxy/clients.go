package main

import (
	"strings"

	"weir/cmd/internal/process"
	"weir/proxy/tenants"
)

// clientOptions say who the proxy is to upstream, and what it lets its clients do.
type clientOptions struct {
	user, password string
	namespace      string
	tenantsFile    string
	limits         tenants.Limits
	upstreamCalls  int
}

func (c *clientOptions) addFlags(f *process.Flags) {
	f.StringVar(&c.user, "user", "", "User that the proxy is to the cluster, as name or name:password. With one that may read every key (of --namespace) clients share reads and watches also while authentication is on, each as far as it is permitted to; with the role root their certificates' common names are users too.")
	f.StringVar(&c.password, "password", "", "Password of --user.")
	f.StringVar(&c.namespace, "namespace", "", "Prefix of all keys of all clients.")
	f.StringVar(&c.tenantsFile, "tenants-file", "", "YAML file that says which users have which part of the keys, and how much of what; see docs/tenants.md.")
	f.Float64Var(&c.limits.Requests, "limit-requests", 0, "Limit of a client's requests per second (0 to disable). A client is a user, else the common name of a certificate, else an address.")
	f.Float64Var(&c.limits.Bytes, "limit-bytes", 0, "Limit of a client's bytes per second, of requests and of answers from the cluster (0 to disable).")
	f.IntVar(&c.limits.InFlight, "limit-in-flight", 0, "Limit of a client's requests at a time (0 to disable).")
	f.IntVar(&c.limits.Watches, "limit-watches", 0, "Limit of a client's watches (0 to disable).")
	f.IntVar(&c.upstreamCalls, "max-upstream-requests", 256, "Limit of the requests to the cluster at a time; those that wait are taken from all clients in turn (0 to disable).")
}

// check is called when the flags have been read.
func (c *clientOptions) check() error {
	var wrong process.Mistakes
	if name, password, ok := strings.Cut(c.user, ":"); ok {
		if c.password != "" {
			wrong.Addf("--user has a password, and there is --password: leave one out")
		}
		c.user, c.password = name, password
	}
	switch {
	case c.user == "" && c.password != "":
		wrong.Addf("--password is without --user: give the user's name too")
	case c.user != "" && c.password == "":
		wrong.Addf("--user=%s is without a password: write --user=%s:password, or set %s_PASSWORD", c.user, c.user, envPrefix)
	}
	for _, f := range []struct {
		name  string
		value float64
	}{
		{"limit-requests", c.limits.Requests}, {"limit-bytes", c.limits.Bytes}, {"limit-in-flight", float64(c.limits.InFlight)},
		{"limit-watches", float64(c.limits.Watches)}, {"max-upstream-requests", float64(c.upstreamCalls)},
	} {
		if !(f.value >= 0 && f.value <= tenants.MaxLimit) { // NaN is neither
			wrong.Addf("--%s=%v is not possible: make it 0 to %d; 0 is no limit", f.name, f.value, int64(tenants.MaxLimit))
		}
	}
	if wrong.Err() != nil {
		c.limits, c.upstreamCalls = tenants.Limits{}, 0 // so that nobody refuses them in other words too
	}
	return wrong.Err()
}

// within are prefixes of clients' keys as prefixes of the cluster's.
func (c *clientOptions) within(prefixes []string) (all []string) {
	for _, p := range prefixes {
		all = append(all, c.namespace+p)
	}
	return all
}
