package coalesce

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/loadtest/proc"
	"weir/loadtest/target"
)

// behindProxies is where clients do not notice what happens upstream.
var behindProxies = []place{{proc.Etcd37, 1}, {proc.Etcd37, 2}}

// Members are killed one after the other, always the one that serves the feeds. No client sees an error, a gap, or an
// event twice.
func TestKilledMemberIsReplacedUnnoticed(t *testing.T) {
	t.Parallel()
	for _, p := range append(behindProxies, place{proc.Etcd35, 1}) {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, p, config{members: 3})
			w := s.watchThroughOutages()
			for range 3 {
				w.writeSome(50)
				serving := s.serving()
				s.must(serving.Kill())
				w.writeSome(50)
				w.awaitNewest()
				s.must(serving.Restart())
				s.must(serving.WaitReady(s.ctx, target.Serves(serving.Addr)))
			}
			w.finish()
		})
	}
}

func TestRestartOfAllMembersIsUnnoticed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		place
		members int
	}{{place{proc.Etcd37, 1}, 3}, {place{proc.Etcd37, 2}, 1}, {place{proc.Core, 1}, 1}, {place{proc.Core, 2}, 1}} {
		t.Run(c.place.String(), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, c.place, config{members: c.members})
			w := s.watchThroughOutages()
			for range 2 {
				w.writeSome(50)
				for _, m := range s.cluster.Members {
					s.must(m.Kill())
				}
				for _, m := range s.cluster.Members {
					s.must(m.Restart())
				}
				s.must(s.cluster.WaitReady(s.ctx))
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
	s := newSite(t, place{proc.Etcd37, 1}, config{members: 3, proxyArgs: []string{"--dial-keepalive-timeout=1s"}})
	w := s.watchThroughOutages()
	w.writeSome(50)
	serving := s.serving()
	s.must(serving.Pause())
	w.writeSome(50)
	w.awaitNewest()
	s.must(serving.Resume())
	w.finish()
}

// A connection that is open and passes nothing on is noticed by pings, and replaced.
func TestHalfOpenConnectionIsReplacedUnnoticed(t *testing.T) {
	t.Parallel()
	for _, p := range []place{{proc.Etcd37, 1}, {proc.Core, 1}} {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, place{p.member, 0}, config{})
			r := s.relayTo(s.cluster.Members[0].Addr)
			s.place = p
			s.startProxies([]string{r.addr}, []string{"--dial-keepalive-timeout=1s"})
			w := s.watchThroughOutages()
			w.writeSome(50)
			w.awaitNewest()
			r.freeze()
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
		place
		args []string
	}{
		{place{proc.Etcd37, 1}, nil}, {place{proc.Etcd36, 1}, []string{smallRing}}, {place{proc.Etcd35, 1}, nil},
		{place{proc.Core, 1}, nil}, {place{proc.Core, 2}, []string{smallRing}},
	} {
		t.Run(c.place.String(), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, place{c.member, 0}, config{})
			r := s.relayTo(s.cluster.Members[0].Addr)
			s.place = c.place
			s.startProxies([]string{r.addr}, c.args)
			w := s.watchThroughOutages()
			var writing sync.WaitGroup
			for n := range int64(8) {
				acknowledged := w.acknowledged.Load()
				writing.Go(func() { w.write(60) })
				w.awaitAcknowledged(acknowledged + 20)
				r.cut()
				w.awaitAcknowledged(acknowledged + 40)
				r.mend()
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
	for i := range s.cluster.Members {
		w.members = append(w.members, &store{s, pb.NewKVClient(s.dialTo(s.cluster.Members[i].Addr))})
	}
	withPrev := prefix("/a/")
	withPrev.prevKV = true
	for i := range 20 {
		on := s.open(s.ctx, s.dialAgain())
		w.streams = append(w.streams, on)
		w.watches = append(w.watches, on.create(prefix("/a/"), withPrev, spec{key: fmt.Sprintf("/a/%d", i)}, everything)...)
	}
	return w
}

// serving is the member that has watchers.
func (s *site) serving() *target.Member {
	s.Helper()
	for _, m := range s.cluster.Members {
		n, err := s.readMetricOf(m, watchersMetric)
		s.must(err)
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
			ctx, cancel := context.WithTimeout(w.ctx, 2*time.Second)
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
			if w.ctx.Err() != nil {
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
		case <-w.ctx.Done():
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
