package coalesce

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// A small ring has watchers from the past read what is older upstream, and laggards too.
const smallRing = "--watch-history-bytes=65536"

func TestEveryWatcherSeesEveryEventOnceAndInOrder(t *testing.T) {
	t.Run("", func(t *testing.T) { at(t, everywhere, everyEventOnce) })
	t.Run("small ring", func(t *testing.T) {
		at(t, []target.Kind{target.ProxyEtcd37, target.ProxyProxyCore}, everyEventOnce, smallRing)
	})
	t.Run("fixed feed", func(t *testing.T) {
		at(t, []target.Kind{target.ProxyEtcd37, target.ProxyProxyEtcd37}, everyEventOnce, "--feed=")
	})
}

// Watches of all kinds are created before, while and after a load runs, then compared with the store's history.
func everyEventOnce(s *site) {
	const (
		streams = 16
		watches = 6 // of a stream, in each of two rounds
		writers = 3
	)
	r, st := targettest.Random(s, *seed), s.store()
	truth := s.follow(s.Cluster.Members[0].Addr, 1)
	first, err := st.write(s.Ctx, r, 400)
	s.Must(err)
	oldest := first - 300
	st.compact(oldest - 1) // so that what was before the oldest revision is known too

	var all []*stream
	for i := range streams {
		if i%4 == 0 || i < 2 {
			all = append(all, s.open(s.Ctx, s.dial()))
		} else {
			all = append(all, s.open(s.Ctx, s.dialAgain()))
		}
	}
	var created []*watch
	for _, w := range all {
		for range watches {
			created = append(created, w.ask(randomSpec(r, oldest, first))...)
		}
	}

	var wg sync.WaitGroup
	errs := make([]error, writers)
	for i := range writers {
		own := rand.New(rand.NewPCG(r.Uint64(), 0))
		wg.Go(func() { _, errs[i] = st.write(s.Ctx, own, 120) })
	}
	for _, w := range all {
		for range watches {
			created = append(created, w.ask(randomSpec(r, oldest, st.revision()))...)
		}
	}
	wg.Wait()
	for _, err := range errs {
		s.Must(err)
	}
	// Watches from the future must have begun, or a member answers no request for progress.
	_, err = st.write(s.Ctx, r, 60)
	s.Must(err)
	last := st.put("/a/00", "the last one")

	h := truth.history(last)
	for _, w := range all {
		w.catchUp(last)
	}
	events := 0
	for _, w := range created {
		h.check(w)
		events += len(w.events)
	}
	s.Logf("%d watches saw %d events of a history of %d", len(created), events, len(h))
}

// As many watches from the past as there are keys, each on one key that the ring does not have, all on one stream.
func TestThousandsOfSingleKeyWatchesCatchUp(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.ProxyEtcd37, target.ProxyProxyEtcd37} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			catchUpSingleKeys(newSite(t, kind, targettest.SiteOptions{ProxyArgs: []string{smallRing}}))
		})
	}
}

func catchUpSingleKeys(s *site) {
	const (
		n      = 5000
		perTxn = 100 // etcd takes 128
	)
	st := s.store()
	all := targettest.Keys("/registry/pods/", n)
	first := st.revision() + 1
	for i := 0; i < n; i += perTxn {
		st.putAll(all[i:i+perTxn], fmt.Sprint(i))
	}
	var specs []spec
	for _, key := range all {
		specs = append(specs, spec{key: key, start: first})
	}
	on := s.open(s.Ctx, s.dial())
	watches := on.create(specs...)
	for i, w := range watches {
		targettest.Want(s, fmt.Sprintf("revision seen by %v", w.spec), w.awaitEvents(1)[0].kv.mod, first+int64(i/perTxn))
	}
	last := st.putAll(all[:perTxn], "again")
	on.catchUp(last)
	for i, w := range watches {
		if got := w.awaitEvents(1); len(got) != 1 && i >= perTxn || len(got) != 2 && i < perTxn {
			s.Fatalf("%v has seen %v", w.spec, got)
		}
	}
	on.check()
}
