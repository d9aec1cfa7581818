package feed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"weir/coalesce"
	"weir/internal/bubble"
)

// bench is a Set over a fake cluster in which nothing takes time.
type bench struct {
	*testing.T
	cluster *fakeCluster
	set     *Set
}

// inBubble runs a test with a Set that shares.
func inBubble(t *testing.T, members int, fixed []string, test func(*bench)) {
	bubble.Test(t, func(t *testing.T) {
		limits := fakeLimits{batchRevisions: 1000, buffer: 128, window: 64, fragment: 1 << 20}
		b := &bench{T: t, cluster: newFakeCluster(rand.New(rand.NewPCG(1, 1)), members, limits)}
		upstream := newFakeUpstream(b.cluster)
		b.set = NewSet(Config{Upstream: upstream, Fixed: fixed, HistoryBytes: 1 << 20, Logger: slog.New(slog.DiscardHandler)})
		if apart, err := b.set.Share(t.Context()); apart != nil || err != nil {
			t.Errorf("watches are not shared: %v, %v", apart, err)
		} else {
			test(b)
		}
		b.set.Close()
		upstream.close()
		b.cluster.close()
	})
}

// countingSink takes everything.
type countingSink struct{ events, ended atomic.Int64 }

func (s *countingSink) Created(*coalesce.Watcher, int64) {}
func (s *countingSink) Deliver(_ *coalesce.Watcher, m *coalesce.Message) bool {
	s.events.Add(int64(len(m.Events)))
	return true
}
func (s *countingSink) Progress(*coalesce.Watcher, int64, int) bool { return true }
func (s *countingSink) Canceled(*coalesce.Watcher, error)           { s.ended.Add(1) }
func (s *countingSink) Ended(error)                                 {}
func (s *countingSink) Recheck()                                    {}

// watch starts a watch from now.
func (b *bench) watch(s *coalesce.Stream, key, end string) *coalesce.Watcher {
	b.Helper()
	w := new(coalesce.Watcher)
	if err := s.Watch(b.Context(), w, coalesce.Watch{Key: []byte(key), End: []byte(end)}, b.set.Hub().Arrive()); err != nil {
		b.Fatal(err)
	}
	return w
}

func (b *bench) wantUpstream(atMost int) {
	b.Helper()
	synctest.Wait()
	if n := b.cluster.watches(); n > atMost {
		b.Errorf("%d watches upstream, want at most %d", n, atMost)
	}
}

func TestIdenticalWatchersAreOneUpstream(t *testing.T) {
	inBubble(t, 1, nil, func(b *bench) {
		const watchers = 10_000
		var sink countingSink
		for range 100 {
			s := b.set.Hub().NewStream(&sink)
			defer s.Close()
			for range watchers / 100 {
				b.watch(s, "a/", "a0")
			}
		}
		b.wantUpstream(1)
		b.cluster.write(fakeOp{"a/1", []byte("v")})
		synctest.Wait()
		if n := sink.events.Load(); n != watchers {
			b.Errorf("%d events are delivered, want %d", n, watchers)
		}
	})
}

func TestSingleKeyWatchersBelowOnePrefixAreAHandfulUpstream(t *testing.T) {
	inBubble(t, 1, nil, func(b *bench) {
		const watchers = 20_000
		var sink countingSink
		s := b.set.Hub().NewStream(&sink)
		for i := range watchers {
			b.watch(s, fmt.Sprintf("/registry/pods/default/pod-%d", i), "")
		}
		time.Sleep(3 * tendInterval) // until narrow feeds have given their watchers away
		b.wantUpstream(1)
		b.cluster.write(fakeOp{"/registry/pods/default/pod-77", []byte("v")}, fakeOp{"/registry/pods/default/other", []byte("v")})
		synctest.Wait()
		if n := sink.events.Load(); n != 1 {
			b.Errorf("%d events are delivered, want 1", n)
		}
		s.Close()
		time.Sleep(10 * tendInterval)
		b.wantUpstream(0)
	})
}

func TestOneFixedFeedServesEverything(t *testing.T) {
	inBubble(t, 1, []string{""}, func(b *bench) {
		s := b.set.Hub().NewStream(&countingSink{})
		defer s.Close()
		for i := range 1000 {
			b.watch(s, fmt.Sprintf("%d/%d", i%7, i), "")
			b.watch(s, fmt.Sprintf("%d/", i), fmt.Sprintf("%d0", i))
		}
		b.wantUpstream(1)
	})
}

func TestWatchersCreatedAndCancelledLeaveNothing(t *testing.T) {
	inBubble(t, 1, nil, func(b *bench) {
		var sink countingSink
		s := b.set.Hub().NewStream(&sink)
		defer s.Close()
		for i := range 10_000 {
			s.Cancel(b.watch(s, fmt.Sprintf("a/%d", i%500), ""))
			if i%100 == 0 {
				time.Sleep(10 * time.Millisecond)
				b.wantUpstream(2 * widenFrom)
			}
		}
		time.Sleep(10 * tendInterval)
		b.wantUpstream(0)
		b.set.mu.Lock()
		defer b.set.mu.Unlock()
		if n := len(b.set.feeds) + len(b.set.retired); n != 0 {
			b.Errorf("%d feeds are left", n)
		}
	})
}

func TestAuthenticationEndsSharingWithinASecond(t *testing.T) {
	for phase := range 10 {
		inBubble(t, 3, nil, func(b *bench) {
			sink := &endSink{ended: make(chan struct{})}
			s := b.set.Hub().NewStream(sink)
			defer s.Close()
			b.watch(s, "a", "")
			time.Sleep(time.Duration(phase) * probeInterval / 10)
			b.cluster.setAuth(true)
			on := time.Now()
			<-sink.ended
			if d := time.Since(on); d > time.Second {
				b.Errorf("the stream is ended after %s", d)
			}
			if apart, err := b.set.Share(b.Context()); apart == nil || err != nil {
				b.Errorf("watches are shared, or %v", err)
			}
		})
	}
}

// What is known of who may read is void, and the next session may not be there for long.
func TestASessionThatUpstreamRefusesEndsSharingAtOnce(t *testing.T) {
	inBubble(t, 1, nil, func(b *bench) {
		sink := &endSink{ended: make(chan struct{})}
		s := b.set.Hub().NewStream(sink)
		defer s.Close()
		synctest.Wait()
		began := time.Now()
		b.set.mu.Lock()
		b.set.session.cancel(errIdentity)
		b.set.mu.Unlock()
		select {
		case <-sink.ended:
		case <-time.After(trust):
			b.Fatal("the stream goes on")
		}
		if took := time.Since(began); took >= retryInterval {
			b.Errorf("the stream is ended after %v", took)
		}
	})
}

type endSink struct {
	countingSink
	ended chan struct{}
}

func (s *endSink) Ended(error) { close(s.ended) }

func TestLeaderIsLostAfterThreeElectionTimeouts(t *testing.T) {
	inBubble(t, 3, nil, func(b *bench) {
		led, err := b.set.Leader(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		for _, m := range b.cluster.members {
			m.set(func() { m.isolated = true })
		}
		since := time.Now()
		<-led.Done()
		if err := context.Cause(led); !errors.Is(err, rpctypes.ErrGRPCNoLeader) {
			b.Errorf("the leader is lost with %v", err)
		}
		if d := time.Since(since); d < 2*electionTimeout || d > 4*electionTimeout {
			b.Errorf("the leader is lost after %s", d)
		}
		if _, err := b.set.Leader(b.Context()); !errors.Is(err, rpctypes.ErrGRPCNoLeader) {
			b.Errorf("without a leader the error is %v", err)
		}
		for _, m := range b.cluster.members {
			m.set(func() { m.isolated = false })
		}
		time.Sleep(2 * time.Second)
		if _, err := b.set.Leader(b.Context()); err != nil {
			b.Errorf("with a leader again the error is %v", err)
		}
	})
}

func TestTheEndOfTheSetIsNoLossOfTheLeader(t *testing.T) {
	var log bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	l := leader{ctx: ctx, log: slog.New(slog.NewTextHandler(&log, nil)), changed: make(chan struct{})}
	l.set(nil)
	led := l.led
	cancel()
	l.set(errUnreachable)
	if led.Err() == nil || log.Len() > 0 {
		t.Errorf("streams are ended: %v; the log is %s", led.Err(), &log)
	}
}
