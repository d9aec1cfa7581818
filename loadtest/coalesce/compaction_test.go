package coalesce

import (
	"fmt"
	"testing"
	"time"

	"weir/loadtest/proc"
	"weir/loadtest/target"
)

// While upstream is away it compacts what the feeds have not seen. Those watches are cancelled with the compact
// revision; those that begin later go on.
func TestCompactionWhileUpstreamIsAway(t *testing.T) {
	t.Parallel()
	for _, p := range []place{{proc.Etcd37, 1}, {proc.Etcd35, 1}, {proc.Core, 1}, {proc.Etcd37, 2}, {proc.Core, 2}} {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, place{p.member, 0}, config{})
			r := s.relayTo(s.cluster.Members[0].Addr)
			s.place = p
			s.startProxies([]string{r.addr}, nil)
			compactionWhileAway(s, r)
		})
	}
}

func compactionWhileAway(s *site, r *relay) {
	st := s.store()
	var newest int64
	for i := range 10 {
		newest = st.put("/a/1", fmt.Sprint(i))
	}
	conn := s.dial()
	on := s.open(s.ctx, conn)
	fromPast := prefix("/a/")
	fromPast.start = 1
	behind := on.create(prefix("/a/"), spec{key: "/a/1"}, fromPast)
	behind = append(behind, s.open(s.ctx, conn).create(prefix("/a/"), prefix("/b/"))...)
	const missed = 50
	fromFuture := prefix("/a/")
	fromFuture.start = newest + missed + 1
	later := s.open(s.ctx, conn).create(fromFuture)
	newest = st.put("/a/1", "seen by all") // and the future is one nearer
	on.catchUp(newest)

	// What has been seen may go: nobody notices.
	r.cut()
	st.compact(newest)
	r.mend()
	newest = st.put("/a/1", "after the first compaction")
	on.catchUp(newest)
	want(s, "events", len(behind[0].events), 2)

	r.cut()
	for i := range missed {
		newest = st.put("/a/1", fmt.Sprint("missed ", i))
	}
	compacted := newest - 10
	st.compact(compacted)
	r.mend()
	for _, w := range behind {
		got := w.awaitCancel()
		want(s, fmt.Sprintf("compact revision for %v", w.spec), got.CompactRevision, compacted)
		w.stream.check()
	}

	// The feeds take new watches, and those that lost nothing go on.
	fresh := s.open(s.ctx, conn).create(prefix("/a/"))
	fromCompacted := prefix("/a/")
	fromCompacted.start = compacted
	past := s.open(s.ctx, conn).create(fromCompacted)
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
	for _, p := range []place{{proc.Etcd37, 1}, {proc.Etcd35, 1}, {proc.Core, 1}, {proc.Etcd37, 2}} {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			quiet(newSite(t, p, config{}))
		})
	}
}

func quiet(s *site) {
	st, conn := s.store(), s.dial()
	silent := s.open(s.ctx, conn).create(prefix("/quiet/"), spec{key: "/quiet/1"})
	for i := range 100 {
		st.put("/busy/1", fmt.Sprint(i))
	}
	st.compact(st.revision() - 10)
	<-time.After(allWell) // nobody asks for progress, which would show how far the watches are
	m := s.cluster.Members[0]
	s.must(m.Kill())
	s.must(m.Restart())
	s.must(m.WaitReady(s.ctx, target.Serves(s.endpoint())))
	last := st.put("/quiet/1", "at last")
	for _, w := range silent {
		want(s, fmt.Sprintf("revision seen by %v", w.spec), w.awaitEvents(1)[0].kv.mod, last)
		w.stream.check()
	}
}
