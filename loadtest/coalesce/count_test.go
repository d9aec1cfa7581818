package coalesce

import (
	"flag"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

var many = flag.Int("many", 10_000, "watchers of the tests that create many")

// etcds is a proxy over each version of etcd, and one over a proxy. A core does not count its watchers.
var etcds = []target.Kind{target.ProxyEtcd37, target.ProxyEtcd36, target.ProxyEtcd35, target.ProxyProxyEtcd37}

// many is how many watchers to create at a site. One site shows what many cost; that the others do the same shows with a tenth.
func (s *site) many() int {
	if s.Kind == etcds[0] {
		return *many
	}
	return *many / 10
}

// openMany opens connections, and streams on each.
func (s *site) openMany(conns, streamsPerConn int) []*stream {
	s.Helper()
	var all []*stream
	for range conns {
		conn := s.dial()
		for range streamsPerConn {
			all = append(all, s.open(s.Ctx, conn))
		}
	}
	return all
}

// createMany creates watches, dealt to the streams in turn, and waits for all of them.
func createMany(streams []*stream, n int, nth func(i int) spec) []*watch {
	var all []*watch
	for i := range n {
		all = append(all, streams[i%len(streams)].ask(nth(i))...)
	}
	for _, w := range all {
		w.stream.created([]*watch{w})
	}
	return all
}

func TestIdenticalWatchersAreOneUpstream(t *testing.T) {
	at(t, etcds, func(s *site) {
		n := s.many()
		st := s.store()
		var all []*watch
		peak := s.peak(func() {
			// Half of the connections have one stream of many watches, half many streams of one or two.
			streams := append(s.openMany(50, 1), s.openMany(50, 20)...)
			all = createMany(streams, n, func(int) spec { return prefix("/a/") })
		})
		targettest.Want(s, "watchers upstream at the highest", peak, 1)
		targettest.Want(s, "watchers upstream", s.upstreamWatchers(), 1)
		for range 3 {
			st.put("/a/1", "x")
			st.put("/b/1", "not watched")
		}
		h := s.historySince(1)
		for _, w := range all {
			w.awaitEvents(3)
			h.check(w)
		}
		closeStreams(all)
		s.awaitUpstream(0, "after all clients are gone")
	})
}

// closeStreams ends the streams of watches.
func closeStreams(all []*watch) {
	for _, w := range all {
		w.stream.cancel()
	}
}

// historySince is all that has happened up to now, read at a member.
func (s *site) historySince(rev int64) history {
	s.Helper()
	w := s.follow(s.Cluster.Members[0].Addr, rev)
	h := w.history(s.store().revision())
	w.stream.cancel()
	return h
}

func TestContainedRangesShareOneUpstream(t *testing.T) {
	inner := []spec{
		prefix("/a/b/"), {key: "/a/b/1"}, {key: "/a/b", end: "/a/c"}, {key: "/a/x"}, prefix("/a/b/c/d/"), {key: "/a/", end: "/a/b/1"},
		prefix("/a/"),
	}
	at(t, etcds[:1], func(s *site) {
		st := s.store()
		conn := s.dial()
		outer := s.open(s.Ctx, conn).create(prefix("/a/"))
		targettest.Want(s, "watchers upstream of the wide range", s.upstreamWatchers(), 1)
		watches := s.open(s.Ctx, conn).create(inner...)
		targettest.Want(s, "watchers upstream when others are contained", s.upstreamWatchers(), 1)
		for _, key := range []string{"/a/b/1", "/a/x", "/a/b/c/d/e", "/a", "/a0", "/a/b/1"} {
			st.put(key, "1")
		}
		s.checkAll(append(watches, outer...))
		closeStreams(outer) // the others stay, wherever they are served from
		st.put("/a/b/1", "2")
		s.checkAll(watches)
		closeStreams(watches)
		s.awaitUpstream(0, "after all clients are gone")

		// The other way round the narrow ones come together at the wide one.
		watches = s.open(s.Ctx, conn).create(inner...)
		s.awaitUpstream(1, "after the wide range came last")
		st.put("/a/b/1", "3")
		s.checkAll(watches)
	})
}

// checkAll waits until the streams of watches have caught up with the store, and compares them with its history.
func (s *site) checkAll(watches []*watch) {
	s.Helper()
	st := s.store()
	last := st.put("/zz", "the last one")
	h := s.historySince(1)
	for _, w := range watches {
		w.stream.catchUp(last)
	}
	for _, w := range watches {
		h.check(w)
	}
}

func TestSingleKeyWatchersBelowAPrefixAreAHandfulUpstream(t *testing.T) {
	const handful, highest = 16, 64
	at(t, etcds, func(s *site) {
		n := s.many()
		watched := targettest.Keys("/registry/pods/default/pod-", n)
		var all []*watch
		peak := s.peak(func() {
			all = createMany(s.openMany(100, 1), n, func(i int) spec { return spec{key: watched[i]} })
		})
		s.Logf("%d watchers upstream at the highest, %d at the end", peak, s.upstreamWatchers())
		if peak > highest {
			s.Errorf("%d watchers upstream while %d were created, want at most %d", peak, n, highest)
		}
		if got := s.upstreamWatchers(); got > handful {
			s.Errorf("%d watchers upstream for %d below one prefix, want at most %d", got, n, handful)
		}
		st := s.store()
		for i := 0; i < n; i += max(1, n/100) {
			st.put(watched[i], "1")
		}
		s.checkAll(all)
		closeStreams(all)
		s.awaitUpstream(0, "after all clients are gone")
	})
}

func TestDistinctPrefixesHaveAtMostOneWatcherEach(t *testing.T) {
	at(t, etcds[:1], func(s *site) {
		const prefixes = 20
		var all []*watch
		peak := s.peak(func() {
			all = createMany(s.openMany(10, 2), 1000, func(i int) spec { return prefix(fmt.Sprintf("/%c/", 'a'+i%prefixes)) })
		})
		if peak > prefixes {
			s.Errorf("%d watchers upstream for %d prefixes", peak, prefixes)
		}
		st := s.store()
		for i := range prefixes {
			st.put(fmt.Sprintf("/%c/1", 'a'+i), "1")
		}
		s.checkAll(all)
	})
}

func TestPrevKVWatchersShareTheirOwnUpstream(t *testing.T) {
	at(t, etcds[:1], func(s *site) {
		st := s.store()
		st.put("/a/1", "before")
		plain, withPrev := prefix("/a/"), prefix("/a/")
		withPrev.prevKV = true
		all := createMany(s.openMany(10, 1), 200, func(i int) spec {
			if i < 100 {
				return plain
			}
			return withPrev
		})
		if got := s.upstreamWatchers(); got > 2 {
			s.Errorf("%d watchers upstream, want at most one without and one with previous values", got)
		}
		st.put("/a/1", "after")
		st.remove("/a/1", "")
		s.checkAll(all)
		closeStreams(all)
		s.awaitUpstream(0, "after all clients are gone")

		// Whoever wants no previous values is served by a feed that has them.
		all = s.open(s.Ctx, s.dial()).create(withPrev, plain, spec{key: "/a/1"})
		targettest.Want(s, "watchers upstream", s.upstreamWatchers(), 1)
		st.put("/a/1", "once more")
		s.checkAll(all)
	})
}

func TestFixedFeedMirrorsTheWholeKeySpaceWithOneWatch(t *testing.T) {
	at(t, []target.Kind{target.ProxyEtcd37, target.ProxyProxyEtcd37}, func(s *site) {
		s.awaitUpstream(1, "without any client")
		all := createMany(s.openMany(10, 1), 500, func(i int) spec {
			return []spec{{key: fmt.Sprintf("/k/%d", i)}, prefix(fmt.Sprintf("/p/%d/", i)), everything, {key: "/a", end: "/q"}}[i%4]
		})
		targettest.Want(s, "watchers upstream", s.upstreamWatchers(), 1)
		st := s.store()
		for i := range 40 {
			st.put(fmt.Sprintf("/k/%d", i), "1")
			st.put(fmt.Sprintf("/p/%d/x", i), "1")
		}
		s.checkAll(all)
		closeStreams(all)
		s.awaitUpstream(1, "after all clients are gone")
	}, "--feed=")
}

func TestFixedFeedsByPrefix(t *testing.T) {
	at(t, []target.Kind{target.ProxyEtcd37}, func(s *site) {
		s.awaitUpstream(2, "without any client")
		conn := s.dial()
		inside := s.open(s.Ctx, conn).create(prefix("/a/"), prefix("/b/"), spec{key: "/a/1"}, prefix("/b/x/"))
		targettest.Want(s, "watchers upstream for what the fixed feeds have", s.upstreamWatchers(), 2)
		outside := s.open(s.Ctx, conn).create(prefix("/c/"))
		targettest.Want(s, "watchers upstream with one that they have not", s.upstreamWatchers(), 3)
		st := s.store()
		for _, key := range []string{"/a/1", "/b/x/1", "/c/1"} {
			st.put(key, "1")
		}
		s.checkAll(append(inside, outside...))
		closeStreams(append(inside, outside...))
		s.awaitUpstream(2, "after all clients are gone")
	}, "--feed=/a/", "--feed=/b/")
}

// Upstream, the watches of all clients share few streams.
func TestUpstreamWatchesShareFewStreams(t *testing.T) {
	at(t, etcds[:1], func(s *site) {
		before := s.Metric(streamsMetric)
		var conns []*grpc.ClientConn
		for range 10 {
			conns = append(conns, s.dial())
		}
		for i := range 200 {
			s.open(s.Ctx, conns[i%len(conns)]).create(prefix(fmt.Sprintf("/%c/", 'a'+i%10)))
		}
		if got := s.Metric(streamsMetric) - before; got > 12 {
			s.Errorf("200 client streams began %d streams upstream", got)
		}
	})
}

// One watch over a prefix saves watches and costs events that nobody wants. When these are too many it is given up, for
// watches that do not bring them.
func TestWidenedFeedIsDividedWhenItCostsTooMuch(t *testing.T) {
	at(t, etcds[:1], func(s *site) {
		const size, batch = 50 << 10, 20
		st := s.store()
		watched := targettest.Keys("/p/watched-", 40)
		var specs []spec
		for _, k := range watched {
			specs = append(specs, spec{key: k})
		}
		all := s.open(s.Ctx, s.dial()).create(specs...)
		few := s.upstreamWatchers()
		if few > 16 {
			s.Fatalf("%d watchers upstream for %d below one prefix", few, len(watched))
		}
		value := strings.Repeat("x", size)
		s.Eventually(waitBound, "an end of the events that nobody wants", func() error {
			before := s.Metric(sentMetric)
			for i := range batch {
				st.put(fmt.Sprintf("/p/unwanted-%d", i), value)
			}
			st.put(watched[7], "wanted")
			if sent := s.Metric(sentMetric) - before; sent > batch*size/2 {
				return fmt.Errorf("%d bytes were sent for %d bytes that nobody wants", sent, batch*size)
			}
			return nil
		})
		s.Logf("%d watchers upstream before, %d after", few, s.upstreamWatchers())
		s.checkAll(all)
	})
}
