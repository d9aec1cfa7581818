package cache

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

func TestFloorIsTheNewestRevisionToldInItsEra(t *testing.T) {
	var s Session
	want := func(era uint64, floor int64) {
		t.Helper()
		if got := s.Floor(era); got != floor {
			t.Errorf("the floor of era %d is %d, want %d", era, got, floor)
		}
	}
	want(0, 0)
	want(5, 0)
	s.Told(0, 100)
	want(0, 100)
	s.Told(0, 90)
	want(0, 100)
	s.Told(0, 101)
	want(0, 101)
	want(1, 0)

	s.Told(2, 7) // a later era starts anew
	want(2, 7)
	want(0, 0)
	want(3, 0)
	s.Told(1, 1000) // an older one is ignored
	want(2, 7)
	want(1, 0)
	s.Told(3, 0) // which tells nothing
	want(2, 7)
}

func TestNoSessionRemembersNothing(t *testing.T) {
	var s *Session
	s.Told(1, 5)
	if got := s.Floor(1); got != 0 {
		t.Errorf("the floor is %d", got)
	}
}

// Whoever has been told a revision never sees a lower floor in its era, nor does who has seen a floor.
func TestFloorNeverFallsWithinAnEra(t *testing.T) {
	const workers, each, eras = 8, 20_000, 50
	var s Session
	var era atomic.Uint64
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(w)))
			var in uint64
			var least int64
			for i := range each {
				if w == 0 && i%(each/eras) == 0 {
					era.Add(1)
				}
				if now := era.Load(); now != in {
					in, least = now, 0
				}
				if rnd.IntN(2) == 0 {
					rev := rnd.Int64N(int64(i) + 1)
					s.Told(in, rev)
					least = max(least, rev)
				}
				got := s.Floor(in)
				if era.Load() != in { // and s may have been told of the era after
					continue
				}
				if got < least {
					t.Errorf("the floor of era %d is %d, and has been %d", in, got, least)
					return
				}
				least = got
			}
		})
	}
	wg.Wait()
}

func BenchmarkSession(b *testing.B) {
	b.ReportAllocs()
	var s Session
	b.RunParallel(func(p *testing.PB) {
		var rev int64
		for p.Next() {
			rev++
			s.Told(1, rev)
			if s.Floor(1) < rev {
				b.Error("the floor fell")
			}
		}
	})
}
