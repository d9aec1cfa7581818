package coalesce

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

const (
	bigValues    = 400
	bigValueSize = 20 << 10
)

// writeBig writes 8 MiB below /a/.
func (s *store) writeBig() {
	s.Helper()
	for i := range bigValues {
		s.put(fmt.Sprintf("/a/%d", i%10), strings.Repeat("x", bigValueSize)+fmt.Sprint(i))
	}
}

// A client that does not read delays nobody, costs a bounded amount of memory, and loses nothing: when it reads again it
// is given every event.
func TestStalledClientCostsOnlyItself(t *testing.T) {
	at(t, []target.Kind{target.Etcd37, target.ProxyEtcd37, target.ProxyProxyEtcd37, target.ProxyCore}, func(s *site) {
		const stalled = 24
		st := s.store()
		shared := s.dialNarrow()
		live := s.open(s.Ctx, shared).create(prefix("/a/"), spec{key: "/a/3"})
		var (
			behind []*watch
			goOn   []func()
		)
		for i := range stalled {
			conn := shared // with the one that reads
			if i%2 == 0 {
				conn = s.dialNarrow()
			}
			on, receive := s.openStalled(s.Ctx, conn)
			sp := prefix("/a/")
			sp.prevKV = i%10 == 0
			behind = append(behind, on.ask(sp, spec{key: "/a/3"}, prefix("/quiet/"))...)
			goOn = append(goOn, receive)
		}
		before := s.memory()
		st.writeBig()
		live[0].awaitEvents(bigValues)
		// Each of them holds 8 MiB if nothing bounds it.
		if grown := s.memory() - before; len(s.Proxies) > 0 && grown > stalled*bigValueSize*bigValues/4 {
			s.Errorf("the proxy grew by %d MiB for %d clients that do not read", grown>>20, stalled)
		}
		for _, receive := range goOn {
			receive()
		}
		for _, w := range behind {
			w.stream.created([]*watch{w})
		}
		s.checkAll(append(behind, live...))
	}, "--watch-history-bytes=1048576")
}

// memory is that of the server that clients talk to.
func (s *site) memory() int64 {
	s.Helper()
	n, err := s.Front().Memory()
	s.Must(err)
	return n
}

func TestSlowClientTimeoutEndsOnlyStreamsThatDoNotRead(t *testing.T) {
	at(t, []target.Kind{target.ProxyEtcd37}, func(s *site) {
		st := s.store()
		conn := s.dialNarrow()
		live := s.open(s.Ctx, conn).create(prefix("/a/"))
		quiet := s.open(s.Ctx, conn).create(prefix("/a/quiet/"))
		slow, receive := s.openStalled(s.Ctx, conn)
		slow.ask(prefix("/a/"), prefix("/only the slow one/"))
		s.awaitUpstream(2, "for the two ranges")
		st.writeBig()
		live[0].awaitEvents(bigValues)
		s.awaitUpstream(1, "after the slow client's stream was ended")
		receive()
		// The code after which etcd's client begins its watches again.
		if err := slow.end(); status.Code(err) != codes.Unavailable {
			s.Errorf("the slow client's stream ended with %v", err)
		}
		st.put("/a/quiet/1", "1")
		s.checkAll(append(live, quiet...))
	}, "--slow-client-timeout=1s")
}

// The few events that wait for a client that does not read must not keep all that came with them in memory: not the
// transaction that a watched key was written in, and not the history that was read for another client.
func TestStalledSingleKeyWatchesDoNotKeepWholeTransactions(t *testing.T) {
	t.Parallel()
	at(t, []target.Kind{target.ProxyEtcd37, target.ProxyProxyEtcd37}, func(s *site) {
		const (
			stalled = 60 // streams, half of them from the past
			txns    = 40
			ops     = 128
			value   = 4 << 10
			bound   = 40 << 20 // 20 MiB are written; whole, what waits for each of them would take 14
		)
		st := s.store()
		all := targettest.Keys("/pods/", ops)
		first := st.revision() + 1
		heap, memory := s.Heap(), s.memory()
		conn := s.dialNarrow()
		live := s.open(s.Ctx, conn).create(prefix("/pods/"))
		var (
			behind []*watch
			goOn   []func()
		)
		stall := func(start int64) {
			for range stalled / 2 {
				on, receive := s.openStalled(s.Ctx, conn)
				behind = append(behind, on.ask(spec{key: all[len(behind)], start: start})...)
				goOn = append(goOn, receive)
			}
		}
		stall(first)
		for i := range txns {
			st.putAll(all, strings.Repeat("x", value)+fmt.Sprint(i))
		}
		stall(first)
		live[0].awaitEvents(txns * ops)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		most := 0
		for range 20 {
			<-tick.C
			most = max(most, s.Heap()-heap)
		}
		grown := s.memory() - memory
		s.Logf("the proxy holds %d MiB for clients that do not read, and has grown by %d MiB", most>>20, grown>>20)
		if most > bound || grown > 2*bound { // with garbage
			s.Error("that is too much")
		}
		for _, receive := range goOn {
			receive()
		}
		for _, w := range behind {
			w.stream.created([]*watch{w})
		}
		s.checkAll(append(behind, live...))
	}, "--watch-history-bytes=1048576", "--enable-pprof")
}

// What a client that does not read lacks may be compacted. It is told so when it reads again, after what it was given
// before, and only it is.
func TestStalledClientIsToldOfACompaction(t *testing.T) {
	t.Parallel()
	at(t, []target.Kind{target.Etcd37, target.ProxyEtcd37, target.ProxyCore, target.ProxyProxyCore}, func(s *site) {
		st := s.store()
		conn := s.dialNarrow()
		live := s.open(s.Ctx, conn).create(prefix("/a/"))
		slow, receive := s.openStalled(s.Ctx, conn)
		behind := slow.ask(prefix("/a/"))[0]
		truth := s.follow(s.Cluster.Members[0].Addr, 1)
		st.writeBig()
		live[0].awaitEvents(bigValues)
		h := truth.history(st.revision())
		compacted := st.revision() - 3
		st.compact(compacted)
		// Until it is known everywhere, what is in a ring may still be given.
		if len(s.Proxies) > 0 {
			s.Eventually(settleWithin, "the cancel of a watch from a compacted revision", func() error {
				sp := prefix("/a/")
				sp.start = compacted - 1
				w := s.open(s.Ctx, conn).create(sp)[0]
				defer w.stream.cancel()
				w.stream.await("an answer", func() bool { return w.canceled != nil || len(w.events) > 0 })
				if w.canceled == nil {
					return errors.New("it was served from a ring")
				}
				return nil
			})
		}
		receive()
		targettest.Want(s, "compact revision", behind.awaitCancel().CompactRevision, compacted)
		slow.check()
		for i, e := range h.of(behind.spec, behind.next)[:len(behind.events)] {
			if behind.events[i] != e {
				s.Fatalf("event %d is %v, not %v", i+1, behind.events[i], e)
			}
		}
		st.put("/a/1", "after the compaction")
		live[0].awaitEvents(bigValues + 1)
		live[0].stream.check()
	}, "--watch-history-bytes=1048576")
}

// Events larger than anything that gRPC takes by default.
func TestLargeEventsPass(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.Etcd37, target.ProxyEtcd37, target.ProxyProxyEtcd37} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, kind, targettest.SiteOptions{MemberArgs: []string{"--max-request-bytes=16777216"}, ProxyArgs: []string{smallRing}})
			st := s.store()
			withPrev, inFragments, fromPast := prefix("/a/"), prefix("/a/"), prefix("/a/")
			withPrev.prevKV, inFragments.prevKV, inFragments.fragment, fromPast.start = true, true, true, 1
			conn := s.dialNarrow()
			all := s.open(s.Ctx, conn).create(prefix("/a/"), withPrev, inFragments)
			for i := range 4 {
				st.put("/a/1", strings.Repeat(string(rune('a'+i)), 6<<20))
			}
			s.checkAll(append(all, s.open(s.Ctx, conn).create(fromPast)...))
		})
	}
}
