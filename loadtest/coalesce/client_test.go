package coalesce

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"weir/loadtest/proc"
	"weir/loadtest/target"
)

// client is etcd's own client of the endpoint, which begins watches again by itself.
func (s *site) client() *clientv3.Client {
	s.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{s.endpoint()}, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
	s.must(err)
	s.Cleanup(func() {
		if err := c.Close(); err != nil && !errors.Is(err, context.Canceled) {
			s.Error(err)
		}
	})
	return c
}

// The proxy that clients talk to is killed and comes back. Etcd's client begins its watches again where they were.
func TestEtcdsClientResumesWhenTheProxyRestarts(t *testing.T) {
	t.Parallel()
	for _, p := range []place{{proc.Etcd37, 1}, {proc.Etcd37, 2}, {proc.Core, 1}} {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, p, config{proxyArgs: []string{smallRing}})
			const clients, rounds, writes = 4, 3, 150
			st := s.store()
			first := st.put("/a/1", "the first")
			last := first + rounds*writes

			var watching sync.WaitGroup
			for i := range clients {
				c := s.client()
				for _, opts := range [][]clientv3.OpOption{
					{clientv3.WithPrefix(), clientv3.WithRev(first)},
					{clientv3.WithPrefix(), clientv3.WithRev(first), clientv3.WithPrevKV(), clientv3.WithFragment()},
					{clientv3.WithPrefix(), clientv3.WithRev(first), clientv3.WithProgressNotify()},
				} {
					watching.Go(func() {
						if err := seesEach(s.ctx, c, first, last, opts); err != nil {
							s.Errorf("client %d: %v", i, err)
						}
					})
				}
			}
			proxy := s.proxies[len(s.proxies)-1]
			for round := range rounds {
				for i := range writes {
					st.put(fmt.Sprintf("/a/%d", i%10), fmt.Sprint(round))
					if i == writes/2 {
						s.must(proxy.Kill())
						s.must(proxy.Restart())
					}
				}
				s.must(proxy.WaitReady(s.ctx, target.Serves(proxy.Addr)))
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
