package coalesce

import (
	"context"
	"fmt"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// The proxy that clients talk to is killed and comes back. Etcd's client begins its watches again where they were.
func TestEtcdsClientResumesWhenTheProxyRestarts(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.ProxyEtcd37, target.ProxyProxyEtcd37, target.ProxyCore} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, kind, targettest.SiteOptions{ProxyArgs: []string{smallRing}})
			const clients, rounds, writes = 4, 3, 150
			st := s.store()
			first := st.put("/a/1", "the first")
			last := first + rounds*writes

			var watching sync.WaitGroup
			for i := range clients {
				c := targettest.Client(s, s.Endpoint())
				for _, opts := range [][]clientv3.OpOption{
					{clientv3.WithPrefix(), clientv3.WithRev(first)},
					{clientv3.WithPrefix(), clientv3.WithRev(first), clientv3.WithPrevKV(), clientv3.WithFragment()},
					{clientv3.WithPrefix(), clientv3.WithRev(first), clientv3.WithProgressNotify()},
				} {
					watching.Go(func() {
						if err := seesEach(s.Ctx, c, first, last, opts); err != nil {
							s.Errorf("client %d: %v", i, err)
						}
					})
				}
			}
			proxy := s.Proxies[len(s.Proxies)-1]
			for round := range rounds {
				for i := range writes {
					st.put(fmt.Sprintf("/a/%d", i%10), fmt.Sprint(round))
					if i == writes/2 {
						s.Must(proxy.Kill())
						s.Must(proxy.Restart())
					}
				}
				s.Must(proxy.WaitReady(s.Ctx, target.Serves(proxy.Addr)))
			}
			watching.Wait()
		})
	}
}

// seesEach watches below /a/, where each revision from first to last has one event.
func seesEach(ctx context.Context, c *clientv3.Client, first, last int64, opts []clientv3.OpOption) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return bringsEach(c.Watch(ctx, "/a/", opts...), first, last)
}

// bringsEach reads a watch until it has brought each revision from first to last once.
func bringsEach(events clientv3.WatchChan, first, last int64) error {
	next := first
	for r := range events {
		if err := r.Err(); err != nil {
			return err
		}
		for _, e := range r.Events {
			if e.Kv.ModRevision != next {
				return fmt.Errorf("revision %d came after %d", e.Kv.ModRevision, next-1)
			}
			next++
		}
		if next > last {
			return nil
		}
	}
	return fmt.Errorf("the watch ended at revision %d of %d", next-1, last)
}
