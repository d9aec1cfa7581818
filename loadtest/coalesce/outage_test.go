package coalesce

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// behindProxies is where clients do not notice what happens upstream.
var behindProxies = []target.Kind{target.ProxyEtcd37, target.ProxyProxyEtcd37}

// Members are killed one after the other, always the one that serves the feeds. No client sees an error, a gap, or an
// event twice.
func TestKilledMemberIsReplacedUnnoticed(t *testing.T) {
	t.Parallel()
	for _, kind := range append(behindProxies, target.ProxyEtcd35) {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, kind, targettest.SiteOptions{Members: 3})
			w := s.watchThroughOutages()
			for range 3 {
				w.writeSome(50)
				serving := s.serving()
				s.Must(serving.Kill())
				w.writeSome(50)
				w.awaitNewest()
				s.Must(serving.Restart())
				s.Must(serving.WaitReady(s.Ctx, target.Serves(serving.Addr)))
			}
			w.finish()
		})
	}
}

func TestRestartOfAllMembersIsUnnoticed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind    target.Kind
		members int
	}{{target.ProxyEtcd37, 3}, {target.ProxyProxyEtcd37, 1}, {target.ProxyCore, 1}, {target.ProxyProxyCore, 1}} {
		t.Run(string(c.kind), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, c.kind, targettest.SiteOptions{Members: c.members})
			w := s.watchThroughOutages()
			for range 2 {
				w.writeSome(50)
				for _, m := range s.Cluster.Members {
					s.Must(m.Kill())
				}
				for _, m := range s.Cluster.Members {
					s.Must(m.Restart())
				}
				s.Must(s.Cluster.WaitReady(s.Ctx))
				w.writeSome(50)
				w.awaitNewest()
			}
			w.finish()
		})
	}
}

// A member that is there and does not answer, as after the loss of its power, is left for another.
func TestPausedMemberIsReplacedUnnoticed(t *testing.T) {
	t.Parallel()
	s := newSite(t, target.ProxyEtcd37, targettest.SiteOptions{Members: 3, ProxyArgs: []string{"--dial-keepalive-timeout=1s"}})
	w := s.watchThroughOutages()
	w.writeSome(50)
	serving := s.serving()
	s.Must(serving.Pause())
	w.writeSome(50)
	w.awaitNewest()
	s.Must(serving.Resume())
	w.finish()
}

// A connection that is open and passes nothing on is noticed by pings, and replaced.
func TestHalfOpenConnectionIsReplacedUnnoticed(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.ProxyEtcd37, target.ProxyCore} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, kind, targettest.SiteOptions{RelayWay: true, ProxyArgs: []string{"--dial-keepalive-timeout=1s"}})
			w := s.watchThroughOutages()
			w.writeSome(50)
			w.awaitNewest()
			s.Way.Freeze()
			w.writeSome(50)
			w.awaitNewest()
			w.finish()
		})
	}
}

// Connections break again and again, with events on their way and with events missed meanwhile.
func TestConnectionsThatBreakAreReplacedUnnoticed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind target.Kind
		args []string
	}{
		{target.ProxyEtcd37, nil}, {target.ProxyEtcd36, []string{smallRing}}, {target.ProxyEtcd35, nil},
		{target.ProxyCore, nil}, {target.ProxyProxyCore, []string{smallRing}},
	} {
		t.Run(string(c.kind), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, c.kind, targettest.SiteOptions{RelayWay: true, ProxyArgs: c.args})
			w := s.watchThroughOutages()
			var writing sync.WaitGroup
			for n := range int64(8) {
				acknowledged := w.acknowledged.Load()
				writing.Go(func() { w.write(60) })
				w.awaitAcknowledged(acknowledged + 20)
				s.Way.Cut()
				w.awaitAcknowledged(acknowledged + 40)
				s.Way.Mend()
				writing.Wait()
				if n%2 == 0 { // else the next cut comes while the proxy connects, or catches up
					w.awaitNewest()
				}
			}
			w.finish()
		})
	}
}

// outageRun is streams of watches that must never notice anything, and writes at whatever member takes them.
type outageRun struct {
	*site
	members      []*store
	streams      []*stream
	watches      []*watch
	acknowledged atomic.Int64  // writes
	newest       atomic.Int64  // the newest revision that was acknowledged
	written      chan struct{} // has an element when acknowledged has grown
}

func (s *site) watchThroughOutages() *outageRun {
	s.Helper()
	w := &outageRun{site: s, written: make(chan struct{}, 1)}
	for i := range s.Cluster.Members {
		w.members = append(w.members, &store{s, pb.NewKVClient(s.dialTo(s.Cluster.Members[i].Addr))})
	}
	withPrev := prefix("/a/")
	withPrev.prevKV = true
	for i := range 20 {
		on := s.open(s.Ctx, s.dialAgain())
		w.streams = append(w.streams, on)
		w.watches = append(w.watches, on.create(prefix("/a/"), withPrev, spec{key: fmt.Sprintf("/a/%d", i)}, everything)...)
	}
	return w
}

// serving is the member that has watchers.
func (s *site) serving() *target.Member {
	s.Helper()
	for _, m := range s.Cluster.Members {
		n, err := m.Metric(s.Ctx, watchersMetric)
		s.Must(err)
		if n > 0 {
			return m
		}
	}
	s.Fatal("no member has watchers")
	return nil
}

// writeSome writes n revisions; members that do not answer are passed over.
func (w *outageRun) writeSome(n int) {
	w.Helper()
	w.write(n)
	if w.Failed() {
		w.FailNow()
	}
}

// write may be called beside the test.
func (w *outageRun) write(n int) {
	at := 0
	for i := range n {
		for {
			ctx, cancel := context.WithTimeout(w.Ctx, 2*time.Second)
			r, err := w.members[at%len(w.members)].kv.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "/a/%d", i%20), Value: fmt.Append(nil, i)})
			cancel()
			if err == nil {
				w.newest.Store(r.Header.Revision)
				w.acknowledged.Add(1)
				select {
				case w.written <- struct{}{}:
				default:
				}
				break
			}
			if w.Ctx.Err() != nil {
				w.Errorf("write: %v", err)
				return
			}
			at++
		}
	}
}

// awaitAcknowledged waits until n writes have been acknowledged since the beginning.
func (w *outageRun) awaitAcknowledged(n int64) {
	w.Helper()
	for w.acknowledged.Load() < n {
		select {
		case <-w.written:
		case <-w.Ctx.Done():
			w.Fatalf("%d of %d writes are acknowledged", w.acknowledged.Load(), n)
		}
	}
}

// awaitNewest waits until a watch has seen what was acknowledged last.
func (w *outageRun) awaitNewest() {
	w.Helper()
	newest := w.newest.Load()
	last := w.watches[0]
	last.stream.await(fmt.Sprintf("revision %d", newest), func() bool {
		return len(last.events) > 0 && last.events[len(last.events)-1].kv.mod >= newest || last.canceled != nil
	})
}

// finish compares what all watches have seen with the history of the store.
func (w *outageRun) finish() {
	w.Helper()
	w.writeSome(1)
	h := w.historySince(1)
	for _, on := range w.streams {
		on.catchUp(w.newest.Load())
		on.mu.Lock()
		if on.err != nil {
			w.Errorf("a client noticed: %v", on.err)
		}
		on.mu.Unlock()
	}
	for _, watch := range w.watches {
		if h.check(watch); w.Failed() {
			return // the others say the same
		}
	}
}
