package coalesce

import (
	"math/rand/v2"
	"sync"
	"testing"

	"weir/loadtest/proc"
)

// A small ring has watchers from the past read what is older upstream, and laggards too.
const smallRing = "--watch-history-bytes=65536"

func TestEveryWatcherSeesEveryEventOnceAndInOrder(t *testing.T) {
	t.Run("", func(t *testing.T) { at(t, everywhere, everyEventOnce) })
	t.Run("small ring", func(t *testing.T) {
		at(t, []place{{proc.Etcd37, 1}, {proc.Core, 2}}, everyEventOnce, smallRing)
	})
	t.Run("fixed feed", func(t *testing.T) {
		at(t, []place{{proc.Etcd37, 1}, {proc.Etcd37, 2}}, everyEventOnce, "--feed=")
	})
}

// Watches of all kinds are created before, while and after a load runs, then compared with the store's history.
func everyEventOnce(s *site) {
	const (
		streams = 16
		watches = 6 // of a stream, in each of two rounds
		writers = 3
	)
	r, st := s.random(), s.store()
	truth := s.follow(s.cluster.Members[0].Addr, 1)
	first, err := st.write(s.ctx, r, 400)
	s.must(err)
	oldest := first - 300
	st.compact(oldest - 1) // so that what was before the oldest revision is known too

	var all []*stream
	for i := range streams {
		if i%4 == 0 || i < 2 {
			all = append(all, s.open(s.ctx, s.dial()))
		} else {
			all = append(all, s.open(s.ctx, s.dialAgain()))
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
		wg.Go(func() { _, errs[i] = st.write(s.ctx, own, 120) })
	}
	for _, w := range all {
		for range watches {
			created = append(created, w.ask(randomSpec(r, oldest, st.revision()))...)
		}
	}
	wg.Wait()
	for _, err := range errs {
		s.must(err)
	}
	// Watches from the future must have begun, or a member answers no request for progress.
	_, err = st.write(s.ctx, r, 60)
	s.must(err)
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
