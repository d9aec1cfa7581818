package coalesce

import (
	"fmt"
	"testing"
	"time"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// Watches that are asked for while upstream is away wait for it, and begin then: from now on means after all that was
// acknowledged before they were asked for. Clients that do not wait so long leave nothing behind.
func TestWatchesAskedForWhileUpstreamIsAwayBeginWhenItIsBack(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.ProxyEtcd37, target.ProxyEtcd35, target.ProxyCore, target.ProxyProxyEtcd37} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, kind, targettest.SiteOptions{RelayWay: true, ProxyArgs: []string{"--enable-pprof"}})
			whileAway(s)
		})
	}
}

func whileAway(s *site) {
	st := s.store()
	conn := s.dial()
	st.put("/a/1", "before")
	there := s.open(s.Ctx, conn).create(prefix("/a/"))
	there[0].stream.catchUp(st.revision())
	goroutines := s.goroutines()

	s.Way.Cut()
	before := st.put("/a/1", "while upstream is away")
	fromPast := prefix("/a/")
	fromPast.start = 1
	specs := []spec{prefix("/a/"), prefix("/b/"), {key: "/a/1", prevKV: true}, fromPast, {key: "/c", start: before + 5}}
	var waits, leaves, cancelled []*watch
	for range 5 {
		waits = append(waits, s.open(s.Ctx, conn).ask(specs...)...)
		for range 5 {
			leaves = append(leaves, s.open(s.Ctx, conn).ask(specs...)...)
		}
	}
	closeStreams(leaves)
	for range 5 { // each is cancelled while it is waited for
		on := s.open(s.Ctx, conn)
		cancelled = append(cancelled, on.ask(spec{key: "/a/1", id: 7})...)
		on.send(cancelRequest(7))
	}
	for _, w := range leaves {
		_ = w.stream.end()
	}
	s.Eventually(settleWithin, "the end of what clients did not wait for", func() error {
		// Each stream that waits has two: its RPC's, and one for its requests.
		if n := s.goroutines(); n > goroutines+2*10+20 {
			return fmt.Errorf("%d goroutines, %d before", n, goroutines)
		}
		return nil
	})
	begun := time.Now()
	s.Way.Mend()
	for _, w := range waits {
		w.stream.created([]*watch{w})
		if w.spec.start == 0 && w.next <= before {
			s.Errorf("%v begins at %d, but %d was acknowledged before it was asked for", w.spec, w.next, before)
		}
	}
	for _, w := range cancelled {
		w.awaitCancel()
		w.stream.check()
	}
	s.Logf("they began %v after upstream was back", time.Since(begun))
	for range 10 {
		st.put("/a/1", "after")
		st.put("/b/1", "after")
		st.put("/c", "after")
	}
	s.checkAll(append(waits, there...))
}
