package certificates

import (
	"testing"
	"time"
)

// A proxy is a visitor itself, of the cluster behind it.
func TestProxyReachesAClusterWithTheFlagsWithWhichEtcdsDoes(t *testing.T) {
	f := newFixture(t)
	f.flags("proxy", f.ours.issue(nil))
	f.flags("stranger", newAuthority(t).issue(nil))
	cluster := startPort(t, etcd, "https", "", f.with(f.ca)...)
	if cluster.refused {
		t.Fatal("the cluster did not start")
	}
	certificate := []string{"--cert=" + f.path("proxy.crt"), "--key=" + f.path("proxy.key")}
	cacert, other := "--cacert="+f.path("ca.crt"), "--cacert="+f.write("other.crt", newAuthority(t).pem())
	for _, c := range []struct {
		name  string
		flags []string
		ok    bool
	}{
		{"all that is needed", append(certificate, cacert), true},
		{"no certificate", []string{cacert}, false},
		{"a certificate that the cluster does not know", []string{"--cert=" + f.path("stranger.crt"), "--key=" + f.path("stranger.key"), cacert}, false},
		{"another authority", append(certificate, other), false},
		{"the system's authorities", certificate, false},
		{"any authority", append(certificate, "--insecure-skip-tls-verify"), true},
		{"any authority, whatever the file says", append(certificate, other, "--insecure-skip-tls-verify"), true},
		{"no flags", nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			weirs, etcds := startBoth(t, proxy, "http", "https://"+cluster.addr, c.flags...)
			wait := patience
			if !c.ok {
				wait = 2 * time.Second // etcd's proxy does not give up by itself
			}
			for _, p := range []*port{weirs, etcds} {
				if err := callsFor(t, wait, p.addr, nil); (err == nil) != c.ok {
					t.Errorf("%s should reach the cluster: %v; it says %v", p.program, c.ok, err)
				}
			}
		})
	}
}
