package coalesce

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// A watch from now on has nothing that was acknowledged anywhere before it was asked for, and all that is written after
// it was created.
func TestNowIsAfterWhatWasAcknowledgedBefore(t *testing.T) {
	t.Parallel()
	at(t, somewhere, func(s *site) {
		const rounds = 60
		st := s.store()
		truth := s.follow(s.Cluster.Members[0].Addr, 1)
		shared := s.open(s.Ctx, s.dialAgain())
		var all []*watch
		for i := range rounds {
			before := st.put("/a/1", fmt.Sprint("before ", i))
			on := shared
			if i%3 == 0 {
				on = s.open(s.Ctx, s.dialAgain())
			}
			sp := []spec{prefix("/a/"), {key: "/a/1"}, everything}[i%3]
			sp.prevKV = i%5 == 0
			w := on.create(sp)[0]
			if w.next <= before {
				s.Errorf("%v begins at %d, but %d was acknowledged before it was asked for", sp, w.next, before)
			}
			if after := st.put("/a/1", fmt.Sprint("after ", i)); w.next > after {
				s.Errorf("%v begins at %d, but was created before %d was written", sp, w.next, after)
			}
			all = append(all, w)
		}
		h := truth.history(st.revision())
		for _, w := range all {
			w.awaitEvents(len(h.of(w.spec, w.next)))
			h.check(w)
		}
	})
}

// The same when the watch is created while a feed is already there, and busy with writes that go on.
func TestNowIsExactUnderLoad(t *testing.T) {
	t.Parallel()
	at(t, somewhere, func(s *site) {
		const rounds = 100
		st, other := s.store(), s.store()
		truth := s.follow(s.Cluster.Members[0].Addr, 1)
		on := s.open(s.Ctx, s.dial())
		all := on.create(everything)
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			r := targettest.Random(s, *seed)
			for {
				select {
				case <-stop:
					return
				default:
					if _, err := other.writeOne(s.Ctx, r); err != nil {
						s.Error(err)
						return
					}
				}
			}
		}()
		func() {
			defer func() {
				close(stop)
				<-stopped
			}()
			for i := range rounds {
				before := st.put("/a/00", fmt.Sprint(i))
				w := on.create(prefix(loadPrefixes[i%len(loadPrefixes)]))[0]
				if w.next <= before {
					s.Errorf("%v begins at %d, but %d was acknowledged before it was asked for", w.spec, w.next, before)
				}
				all = append(all, w)
			}
		}()
		last := st.put("/a/00", "the last one")
		on.catchUp(last)
		h := truth.history(last)
		for _, w := range all {
			h.check(w)
		}
	})
}

// A watch from the past begins there, be it in the ring of a feed, older than the ring, or before there was any feed.
func TestPastIsCompleteFromTheRingAndFromUpstream(t *testing.T) {
	t.Parallel()
	at(t, somewhere, func(s *site) {
		const before, during = 200, 400
		st := s.store()
		for i := range before {
			st.put(fmt.Sprintf("/a/%d", i%7), fmt.Sprint("before any feed ", i))
		}
		conn := s.dial()
		all := s.open(s.Ctx, conn).create(prefix("/a/"))
		var newest int64
		for i := range during {
			newest = st.put(fmt.Sprintf("/a/%d", i%7), fmt.Sprint("into the ring ", i))
		}
		all[0].awaitEvents(during)
		on := s.open(s.Ctx, conn)
		for i := range int64(60) {
			sp := []spec{prefix("/a/"), {key: "/a/3"}, {key: "/a/", end: "/a/4"}}[i%3]
			sp.start = newest - i*10 // from the newest to the first of all
			all = append(all, on.ask(sp)...)
			if i%4 == 0 {
				st.put("/a/3", fmt.Sprint("while they catch up ", i))
			}
		}
		on.created(all[1:])
		s.checkAll(all)
	}, "--watch-history-bytes=16384")
}

func TestCompactedStartIsCancelledWithTheCompactRevision(t *testing.T) {
	t.Parallel()
	at(t, append(somewhere, target.ProxyEtcd35), func(s *site) {
		st := s.store()
		var revs []int64
		for i := range 20 {
			revs = append(revs, st.put("/a/1", fmt.Sprint(i)))
		}
		st.compact(revs[10])
		conn := s.dial()
		goesOn := s.open(s.Ctx, conn).create(prefix("/a/"))
		fromCompacted := func(start int64) error {
			sp := prefix("/a/")
			sp.start = start
			w := s.open(s.Ctx, conn).create(sp)[0]
			defer w.stream.cancel()
			// Until a proxy knows of the compaction it may have, and give, what it has in its ring: all of it.
			w.stream.await("an answer", func() bool { return w.canceled != nil || len(w.events) > 0 })
			if w.canceled == nil {
				s.historyFrom(w, start)
				return errors.New("it was served from a ring")
			}
			targettest.Want(s, "events of a watch from a compacted revision", len(w.events), 0)
			targettest.Want(s, "compact revision", w.canceled.CompactRevision, s.compacted(start))
			return nil
		}
		s.Must(fromCompacted(revs[0]))
		s.Must(fromCompacted(revs[9]))

		// From the compact revision on everything is there.
		sp := prefix("/a/")
		sp.start = revs[10]
		from := s.open(s.Ctx, conn).create(sp)
		from[0].awaitEvents(10)

		// What is compacted while a feed holds it.
		for i := range 20 {
			revs = append(revs, st.put("/a/1", fmt.Sprint("more ", i)))
		}
		goesOn[0].awaitEvents(20)
		st.compact(revs[35])
		s.Eventually(settleWithin, "the cancel of a watch from a revision compacted just now", func() error { return fromCompacted(revs[25]) })
		s.Must(fromCompacted(revs[25]))
		st.put("/a/1", "after the compaction")
		goesOn[0].awaitEvents(21)
		goesOn[0].stream.check()
	})
}

func TestFutureStartDeliversNothingBefore(t *testing.T) {
	t.Parallel()
	at(t, somewhere, func(s *site) {
		st := s.store()
		now := st.put("/a/1", "now")
		conn := s.dial()
		other := s.open(s.Ctx, conn)
		quiet := other.create(prefix("/quiet/"))[0]
		var all []*watch
		for i := range int64(10) {
			sp := prefix("/a/")
			sp.start = now + 1 + i*3
			all = append(all, s.open(s.Ctx, conn).create(sp)...)
		}
		for range 40 {
			rev := st.put("/a/1", "later")
			// A watch from the future keeps nobody else from learning that time goes on.
			other.requestProgress()
			other.await(fmt.Sprintf("progress to %d beside watches from the future", rev), func() bool { return quiet.floor >= rev })
		}
		h := s.historySince(1)
		for _, w := range all {
			w.awaitEvents(len(h.of(w.spec, w.next)))
			h.check(w)
		}
	})
}

// A watch far in the future keeps nothing upstream busy and waits; its cancel is answered.
func TestFarFutureStartWaits(t *testing.T) {
	t.Parallel()
	at(t, somewhere, func(s *site) {
		st := s.store()
		sp := prefix("/a/")
		sp.start = 1 << 60
		on := s.open(s.Ctx, s.dial())
		far := on.create(sp)[0]
		near := on.create(prefix("/a/"))[0]
		for range 10 {
			st.put("/a/1", "x")
		}
		near.awaitEvents(10)
		on.cancelWatch(far)
		far.awaitCancel()
		targettest.Want(s, "events from the far future", len(far.events), 0)
		on.check()
		if len(s.Proxies) > 0 && s.Kind.Member() != "weir-core" {
			on.cancel()
			s.awaitUpstream(0, "after the client is gone")
		}
	})
}

// compacted is the compact revision that a member states to a watch from a revision.
func (s *site) compacted(start int64) int64 {
	s.Helper()
	sp := everything
	sp.start = start
	w := s.open(s.Ctx, s.dialTo(s.Cluster.Members[0].Addr)).create(sp)[0]
	defer w.stream.cancel()
	return w.awaitCancel().CompactRevision
}

// historyFrom checks that a watch from the ring sees all from its start on. What the store itself has forgotten is known
// to be one put of the same key each revision.
func (s *site) historyFrom(w *watch, start int64) {
	s.Helper()
	n := int(s.store().revision() - start + 1)
	for i, e := range w.awaitEvents(n) {
		targettest.Want(s, "revision", e.kv.mod, start+int64(i))
	}
	w.stream.check()
}

// waitBound is within what a waiting client is answered, when the machine is busy.
const waitBound = 20 * time.Second
