package grpcapi

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"weir/coalesce"
)

// TestPongsComeInTheOrderOfPings answers random pings in any order, also if they are of one lease.
func TestPongsComeInTheOrderOfPings(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	var (
		o        pingOrder
		asked    uint64
		upstream []uint64
		got      []coalesce.Pong
	)
	answer := func(i int) {
		n := upstream[i]
		upstream = slices.Delete(upstream, i, i+1)
		var err error
		if got, err = o.answer(got, coalesce.Pong{ID: 7, Number: n, TTL: int64(n)}); err != nil {
			t.Fatal(err)
		}
	}
	for step := range 20_000 {
		if len(upstream) < 50 && rnd.IntN(2) == 0 && step < 19_000 {
			if n := o.ask(); n != asked {
				t.Fatalf("ping %d has the number %d", asked, n)
			}
			upstream = append(upstream, asked)
			asked++
		} else if len(upstream) > 0 {
			answer(rnd.IntN(len(upstream)))
		}
	}
	for len(upstream) > 0 {
		answer(0)
	}
	for i, p := range got {
		if p.TTL != int64(i) {
			t.Fatalf("pong %d is that of ping %d", i, p.TTL)
		}
	}
	if uint64(len(got)) != asked || len(o.ring) > 1000 {
		t.Errorf("%d of %d are answered, with places for %d", len(got), asked, len(o.ring))
	}
}

func TestFailureComesWhenAllBeforeItAreAnsweredAndNothingAfterIt(t *testing.T) {
	var o pingOrder
	for range 4 {
		o.ask()
	}
	why := errors.New("why")
	var got []coalesce.Pong
	for i, p := range []coalesce.Pong{{Number: 3}, {Number: 2, Err: why}, {Number: 1}, {Number: 0}} {
		var err error
		if got, err = o.answer(got, p); (err != nil) != (i == 3) || i == 3 && !errors.Is(err, why) {
			t.Errorf("after %+v: %v", p, err)
		}
	}
	if !slices.EqualFunc(got, []uint64{0, 1}, func(p coalesce.Pong, n uint64) bool { return p.Number == n }) {
		t.Errorf("got %v", got)
	}
}

func TestStreamWithoutPingsKeepsLittleRoom(t *testing.T) {
	var o pingOrder
	for range 2 * maxEmpty {
		o.ask()
	}
	for n := range uint64(2 * maxEmpty) {
		if _, err := o.answer(nil, coalesce.Pong{Number: n}); err != nil {
			t.Fatal(err)
		}
	}
	if len(o.ring) > maxEmpty {
		t.Errorf("there is room for %d pings", len(o.ring))
	}
	if n := o.ask(); n != 2*maxEmpty {
		t.Errorf("the next has number %d", n)
	}
}

// A stream that always has so many pings takes none of them elsewhere for each that comes, however many it has.
func TestPingsStayWhereTheyAreWhileAsManyComeAsAreAnswered(t *testing.T) {
	for _, n := range []uint64{1, 2, 511, 512, 847, 4000, maxOpenPings} {
		var o pingOrder
		places := map[uint64]*orderedPing{}
		ask := func() {
			number := o.ask()
			places[number] = o.at(number)
		}
		for range n {
			ask()
		}
		for number := range n { // it has grown
			places[number] = o.at(number)
		}
		for number := range 3 * n {
			if o.at(number) != places[number] {
				t.Fatalf("with %d pings, ping %d is somewhere else", n, number)
			}
			got, err := o.answer(nil, coalesce.Pong{Number: number})
			if err != nil || len(got) != 1 {
				t.Fatalf("got %v, %v", got, err)
			}
			delete(places, number)
			ask()
		}
		if len(o.ring) >= 2*int(n) {
			t.Errorf("there is room for %d of %d pings", len(o.ring), n)
		}
	}
}
