package coalesce

import (
	"fmt"
	"testing"
	"time"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// While upstream is away it compacts what the feeds have not seen. Those watches are cancelled with the compact
// revision; those that begin later go on.
func TestCompactionWhileUpstreamIsAway(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.ProxyEtcd37, target.ProxyEtcd35, target.ProxyCore, target.ProxyProxyEtcd37, target.ProxyProxyCore} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, kind, targettest.SiteOptions{RelayWay: true})
			compactionWhileAway(s)
		})
	}
}

func compactionWhileAway(s *site) {
	st := s.store()
	var newest int64
	for i := range 10 {
		newest = st.put("/a/1", fmt.Sprint(i))
	}
	conn := s.dial()
	on := s.open(s.Ctx, conn)
	fromPast := prefix("/a/")
	fromPast.start = 1
	behind := on.create(prefix("/a/"), spec{key: "/a/1"}, fromPast)
	behind = append(behind, s.open(s.Ctx, conn).create(prefix("/a/"), prefix("/b/"))...)
	const missed = 50
	fromFuture := prefix("/a/")
	fromFuture.start = newest + missed + 1
	later := s.open(s.Ctx, conn).create(fromFuture)
	newest = st.put("/a/1", "seen by all") // and the future is one nearer
	on.catchUp(newest)

	// What has been seen may go: nobody notices.
	s.Way.Cut()
	st.compact(newest)
	s.Way.Mend()
	newest = st.put("/a/1", "after the first compaction")
	on.catchUp(newest)
	targettest.Want(s, "events", len(behind[0].events), 2)

	s.Way.Cut()
	for i := range missed {
		newest = st.put("/a/1", fmt.Sprint("missed ", i))
	}
	compacted := newest - 10
	st.compact(compacted)
	s.Way.Mend()
	for _, w := range behind {
		got := w.awaitCancel()
		targettest.Want(s, fmt.Sprintf("compact revision for %v", w.spec), got.CompactRevision, compacted)
		w.stream.check()
	}

	// The feeds take new watches, and those that lost nothing go on.
	fresh := s.open(s.Ctx, conn).create(prefix("/a/"))
	fromCompacted := prefix("/a/")
	fromCompacted.start = compacted
	past := s.open(s.Ctx, conn).create(fromCompacted)
	newest = st.put("/a/1", "after the second compaction")
	h := s.historySince(compacted)
	for _, w := range append(append(later, fresh...), past...) {
		w.stream.catchUp(newest)
		h.check(w)
	}
}

// allWell is for how long nothing happens after a compaction: ample time to find out that it took nothing away.
const allWell = 3 * time.Second

// A watch without events lacks nothing of what is compacted while all is well. It must not be taken for one that does
// when the member restarts.
func TestQuietWatchGoesOnAfterACompactionAndARestart(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.ProxyEtcd37, target.ProxyEtcd35, target.ProxyCore, target.ProxyProxyEtcd37} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			quiet(newSite(t, kind, targettest.SiteOptions{}))
		})
	}
}

func quiet(s *site) {
	st, conn := s.store(), s.dial()
	silent := s.open(s.Ctx, conn).create(prefix("/quiet/"), spec{key: "/quiet/1"})
	for i := range 100 {
		st.put("/busy/1", fmt.Sprint(i))
	}
	st.compact(st.revision() - 10)
	<-time.After(allWell) // nobody asks for progress, which would show how far the watches are
	m := s.Cluster.Members[0]
	s.Must(m.Kill())
	s.Must(m.Restart())
	s.Must(m.WaitReady(s.Ctx, target.Serves(s.Endpoint())))
	last := st.put("/quiet/1", "at last")
	for _, w := range silent {
		targettest.Want(s, fmt.Sprintf("revision seen by %v", w.spec), w.awaitEvents(1)[0].kv.mod, last)
		w.stream.check()
	}
}
