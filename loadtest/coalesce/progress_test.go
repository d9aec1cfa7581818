package coalesce

import (
	"fmt"
	"sync"
	"testing"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// Each request is answered, with a revision not below what was acknowledged to anybody before it was sent: this is what
// a Kubernetes API server builds consistent lists on.
func TestRequestProgressAdvancesOnAQuietRange(t *testing.T) {
	t.Parallel()
	at(t, everywhere, func(s *site) {
		st := s.store()
		on := s.open(s.Ctx, s.dial())
		quiet := on.create(prefix("/quiet/"), spec{key: "/quiet/1"}, spec{key: "/also/quiet"})
		for i := range 30 {
			rev := st.put("/busy", fmt.Sprint(i))
			on.requestProgress()
			on.await(fmt.Sprintf("the answer %d to a request for progress", i+1), func() bool { return on.answers > i })
			if quiet[0].floor < rev {
				s.Errorf("progress states %d after %d was acknowledged", quiet[0].floor, rev)
			}
		}
		rev := st.put("/quiet/1", "an event at last")
		on.requestProgress()
		on.await("progress", func() bool { return on.progress >= rev })
		targettest.Want(s, "events before the progress that includes them", len(quiet[0].events)+len(quiet[1].events), 2)
		on.check()
	})
}

// Requests of many streams at the same time share what is asked upstream.
func TestRequestsForProgressShareOneUpstream(t *testing.T) {
	at(t, etcds[:1], func(s *site) {
		const streams, rounds = 200, 10
		st := s.store()
		all := s.openMany(10, streams/10)
		for _, on := range all {
			on.create(prefix("/quiet/"))
		}
		before := s.Metric(`grpc_server_msg_received_total{grpc_method="Watch",`)
		for i := range rounds {
			rev := st.put("/busy", fmt.Sprint(i))
			for _, on := range all {
				on.requestProgress()
			}
			for _, on := range all {
				on.await("progress", func() bool { return on.progress >= rev })
			}
		}
		if got := s.Metric(`grpc_server_msg_received_total{grpc_method="Watch",`) - before; got > streams*rounds/10 {
			s.Errorf("%d requests upstream for %d of clients", got, streams*rounds)
		}
	})
}

// The streams check each answer against the events that follow it.
func TestProgressIsNeverAheadOfEvents(t *testing.T) {
	at(t, everywhere, func(s *site) {
		r, st := targettest.Random(s, *seed), s.store()
		truth := s.follow(s.Cluster.Members[0].Addr, 1)
		first, err := st.write(s.Ctx, r, 150)
		s.Must(err)
		var streams []*stream
		var all []*watch
		conn := s.dial()
		for range 12 {
			on := s.open(s.Ctx, conn)
			streams = append(streams, on)
			for range 5 {
				sp := randomSpec(r, 1, first)
				sp.start = min(sp.start, first) // a member is silent before the future has come
				all = append(all, on.ask(sp)...)
			}
		}
		var asking sync.WaitGroup
		done := make(chan struct{})
		for _, on := range streams {
			asking.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-done:
						return
					default:
					}
					if on.grpc.Send(progressRequest) != nil {
						return
					}
					// The next one when this one is answered, or after more events.
					seen := on.seen()
					_ = on.wait(s.Ctx, func() bool { return on.answers > n || on.seenLocked() > seen+3 || isClosed(done) })
				}
			})
		}
		last, err := st.write(s.Ctx, r, 250)
		s.Must(err)
		last = max(last, st.put("/a/00", "the last one"))
		close(done)
		for _, on := range streams {
			on.catchUp(last)
		}
		asking.Wait()
		h := truth.history(last)
		for _, w := range all {
			h.check(w)
		}
	})
}

// Who asked for it is told of progress by itself, others are not; and what it states is true like an answer.
func TestProgressNotifyIsPeriodicAndOnlyForThoseWhoAsked(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.Etcd37, target.ProxyEtcd37, target.ProxyCore, target.ProxyProxyCore} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			every := []string{"--watch-progress-notify-interval=200ms"}
			c := targettest.SiteOptions{ProxyArgs: every}
			if kind.Proxies() == 0 {
				c.MemberArgs = every
			}
			s := newSite(t, kind, c)
			st := s.store()
			asked, also := prefix("/quiet/"), spec{key: "/quiet/1"}
			asked.progressNotify, also.progressNotify = true, true
			on := s.open(s.Ctx, s.dial())
			all := on.create(asked, prefix("/quiet/"), also, prefix("/busy/"))
			for i := range 5 {
				rev := st.put("/busy/1", fmt.Sprint(i))
				on.await("progress of two watches", func() bool { return all[0].floor >= rev && all[2].floor >= rev })
			}
			s.checkAll(all) // which requests progress for the whole stream
			targettest.Want(s, "progress told to a watch that did not ask", all[1].progresses+all[3].progresses, 0)
		})
	}
}

// isClosed tells whether a channel on which nothing is sent is closed.
func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
