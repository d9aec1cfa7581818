package fair

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestWithoutABoundNothingWaits(t *testing.T) {
	p := newPool(0)
	for range 1000 {
		defer take(t, p, "a").Release()
	}
	if s := p.Stats(); s != (Stats{}) {
		t.Errorf("something was counted: %+v", s)
	}
}

func TestAFreeSlotCostsNoAllocation(t *testing.T) {
	p := newPool(2)
	take(t, p, "other")
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() {
		s, err := p.Acquire(ctx, "a", 1, 100)
		if err != nil {
			t.Fatal(err)
		}
		s.Release()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestASlotCannotBeGivenBackTwice(t *testing.T) {
	for what, hold := range map[string]func(p *Pool[string]) Slot[string]{
		"taken in passing": func(p *Pool[string]) Slot[string] { return take(t, p, "a") },
		"counted later": func(p *Pool[string]) Slot[string] {
			s := take(t, p, "a")
			p.Stats()
			return s
		},
		"counted from the first": func(p *Pool[string]) Slot[string] {
			if _, ok := p.enter("a", 1, 0); !ok {
				t.Error("no slot is free")
			}
			return Slot[string]{pool: p, who: "a"}
		},
	} {
		p := newPool(2)
		s := hold(p)
		s.Release()
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("one that was %s could", what)
				}
			}()
			s.Release()
		}()
		checkEmpty(t, p)
	}
}

func TestAcquireIsCancelledWithItsCaller(t *testing.T) {
	p := newPool(1)
	take(t, p, "a")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.Acquire(ctx, "b", 1, 0); status.Code(err) != codes.Canceled || errors.Is(err, p.full) {
		t.Errorf("got %v", err)
	}
	if s := p.Stats(); s.Accounts != 1 {
		t.Errorf("who left is remembered: %+v", s)
	}
}
