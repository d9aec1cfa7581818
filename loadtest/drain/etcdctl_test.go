package drain

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/loadtest/proc"
	"weir/loadtest/target"
)

// etcdctl watches with two endpoints, both of which are stopped and started again in turn. It prints every event once, and nothing
// else.
func TestEtcdctlWatchesThroughRestarts(t *testing.T) {
	t.Parallel()
	path, err := bin.Build(t.Context(), proc.Etcdctl)
	if err != nil {
		t.Fatal(err)
	}
	s, a, b := pair(t, target.ProxyEtcd37)
	store := newClient(s, s.Cluster.Endpoints()...)
	r, err := store.Put(s.Ctx, watched+"0", "value")
	s.Must(err)
	etcdctl, err := proc.Start("etcdctl", path, []string{
		"watch", "--endpoints=" + a.Addr + "," + b.Addr, "--prefix", fmt.Sprint("--rev=", r.Header.Revision), watched,
	}, nil)
	s.Must(err)
	defer func() { s.Must(etcdctl.Kill()) }()
	want := []string{"PUT", watched + "0", "value"}
	put := func() {
		s.Helper()
		key := fmt.Sprint(watched, len(want)/3)
		_, err := store.Put(s.Ctx, key, "value")
		s.Must(err)
		want = append(want, "PUT", key, "value")
		s.Eventually(time.Minute, "etcdctl prints "+key, func() error {
			if got := strings.Fields(etcdctl.Log()); !slices.Equal(got, want) {
				return fmt.Errorf("it printed %q", got)
			}
			return nil
		})
	}
	put()
	for range *rounds {
		for _, server := range []*target.Server{a, b} {
			restart(s, server, put)
			put()
		}
	}
}
