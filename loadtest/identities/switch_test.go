package identities

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"weir/loadtest/target"
)

// Authentication is switched on, and watches of etcd's own client are opened until the proxies have found out, and after. For
// some time a proxy forwards them. Nobody can tell later: all miss no event, share upstream's watches, and end when
// the right to them is taken away, where watches do at that place.
func TestWatchesOpenedWhileAuthenticationIsSwitchedOnAreAsOthers(t *testing.T) {
	for _, p := range []place{
		{kind: target.ProxyEtcd37}, {kind: target.ProxyEtcd37, own: asReader}, {kind: target.ProxyEtcd37, own: asRoot},
		{kind: target.ProxyCore}, {kind: target.ProxyCore, own: asRoot}, {kind: target.ProxyProxyEtcd37, own: asRoot},
	} {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			s := newOpenScene(t, p)
			s.StartProxies(s.Cluster.Endpoints())
			s.wantSharing(true, false)
			clients := make([]*clientv3.Client, 30)
			for i := range clients {
				clients[i] = s.client()
			}
			stop := s.keepWriting()
			defer stop()

			all := s.followThroughSwitch(clients)
			if p.own != asNobody {
				s.wantSharing(true, true)
				s.wantFewUpstream(len(all))
			}
			s.root.revoke(aliceRole, aliceMay)
			revoked := s.now()
			ends := promised(p.kind, p.own).endsAtRevoke
			if ends {
				for _, f := range all {
					s.wantEndedBy(f, revoked+longPast+slack)
				}
			}
			stop()
			s.wantFollowed(all, ends)
		})
	}
}

// sharing is whether a proxy says that it answers from memory, and with authentication on.
func (s *scene) sharing() (shared, guarded bool) {
	s.Helper()
	shared, guarded, err := s.Front().Sharing(s.Ctx)
	s.Must(err)
	return shared, guarded
}

func (s *scene) wantSharing(shared, guarded bool) {
	s.Helper()
	s.Eventually(hangBound, "what is shared is known", func() error {
		if gotShared, gotGuarded := s.sharing(); gotShared != shared || gotGuarded != guarded {
			return fmt.Errorf("shared %v, guarded %v", gotShared, gotGuarded)
		}
		return nil
	})
}

// wantFewUpstream waits until upstream has not a watch for each of so many.
func (s *scene) wantFewUpstream(many int) {
	s.Helper()
	s.Eventually(hangBound, "clients share watches", func() error {
		if n := s.Metric("etcd_debugging_mvcc_watcher_total"); n > many/4 {
			return fmt.Errorf("%d watches for %d", n, many)
		}
		return nil
	})
}

// keepWriting writes what alice may read until it is stopped.
func (s *scene) keepWriting() (stop func()) {
	ctx, cancel := context.WithCancel(s.Ctx)
	var writing sync.WaitGroup
	failed := errors.New("nothing was written")
	writing.Go(func() {
		for pause(ctx, 10*time.Millisecond) {
			if _, failed = s.root.put("/a/1", fmt.Sprint(s.now()), 0); failed != nil {
				return
			}
		}
	})
	return sync.OnceFunc(func() {
		cancel()
		writing.Wait()
		s.Must(failed)
	})
}

// follower is a watch of etcd's client, with what it was given.
type follower struct {
	ended chan struct{}

	mu     sync.Mutex // guards the fields below
	events []received
	err    error // why it ended, if the client tells
}

// followThroughSwitch switches authentication on while watches are opened, at least one of them while nothing is shared. On a busy
// machine none may meet that moment: then it is switched off, and on again.
func (s *scene) followThroughSwitch(clients []*clientv3.Client) (all []*follower) {
	s.Helper()
	for range 10 {
		s.root.enable()
		opened, forwarded := s.followAll(clients)
		s.Logf("%d of %d watches were forwarded at first", forwarded, len(opened))
		all = append(all, opened...)
		if forwarded > 0 {
			return all
		}
		s.root.disable()
		s.wantSharing(true, false)
	}
	s.Fatal("no watch was opened while nothing was shared")
	return nil
}

// followAll opens a watch with each client, one after another, for longer than a proxy needs to find out about a switch, and tells how
// many were opened while nothing was shared.
func (s *scene) followAll(clients []*clientv3.Client) (all []*follower, forwarded int) {
	s.Helper()
	for _, c := range clients {
		before, _ := s.sharing()
		all = append(all, s.follow(c))
		if after, _ := s.sharing(); !before && !after {
			forwarded++
		}
		pause(s.Ctx, 40*time.Millisecond)
	}
	return all, forwarded
}

// follow watches everything that alice may read, from the beginning.
func (s *scene) follow(c *clientv3.Client) *follower {
	f := &follower{ended: make(chan struct{})}
	comes := c.Watch(s.Ctx, aliceMay.key, clientv3.WithRange(aliceMay.end), clientv3.WithRev(1))
	go func() {
		defer close(f.ended)
		for r := range comes {
			f.take(s.now(), r)
		}
	}()
	return f
}

func (f *follower) take(at time.Duration, r clientv3.WatchResponse) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range r.Events {
		f.events = append(f.events, received{e, at})
	}
	if err := r.Err(); err != nil {
		f.err = err
	}
}

// wantEndedBy waits until a follower's watch has ended, which must be before some time. Etcd's client does not tell why.
func (s *scene) wantEndedBy(f *follower, latest time.Duration) {
	s.Helper()
	select {
	case <-f.ended:
	case <-time.After(max(0, latest-s.now())):
		s.Error("a watch goes on without the right to it")
	}
}

// wantFollowed holds what was given against what the store has: each event once and in order, none that came after the right to
// it, and, unless they have ended, all of them.
func (s *scene) wantFollowed(all []*follower, ended bool) {
	s.Helper()
	last, err := s.root.put("/a/1", "the last", 0)
	s.Must(err)
	c := &checker{ledger: s.root.ledger, promises: promised(s.place.kind, s.place.own), own: s.place.own}
	c.history = s.root.history(last)
	c.begin(s.root.writes)
	for i, f := range all {
		if !ended {
			s.Eventually(hangBound, fmt.Sprintf("watch %d is given revision %d", i, last), func() error { return f.reached(last) })
		}
		f.mu.Lock()
		w := &watch{in: aliceMay, start: 1, from: 1, events: slices.Clone(f.events)}
		f.mu.Unlock()
		c.eventsOf(&watchStream{client: fmt.Sprint("follower ", i), who: &identity{user: alice}}, w)
	}
	for _, what := range c.wrong {
		s.Error(what)
	}
	s.Log(c.summary())
}

func (f *follower) reached(rev int64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.events); n == 0 || f.events[n-1].Kv.ModRevision < rev {
		return fmt.Errorf("%d events, then %v", n, f.err)
	}
	return nil
}
