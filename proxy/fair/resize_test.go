package fair

import (
	"context"
	"testing"
	"time"

	"weir/internal/bubble"
)

func TestSlotsBecomeMoreAndFewer(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := New[string](Config{Slots: 1, MaxQueuedBytes: 1 << 20, MaxQueued: 10})
		take := func() (Slot[string], bool) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			s, err := p.Acquire(ctx, "a", 1, 0)
			return s, err == nil
		}
		want := func(ok bool) (s Slot[string]) {
			t.Helper()
			s, got := take()
			if got != ok {
				t.Errorf("a slot of %d, %d are held: %v", p.Stats().Slots, p.Stats().InUse, got)
			}
			return s
		}
		first := want(true)
		want(false)
		waited := make(chan Slot[string])
		go func() {
			s, _ := take()
			waited <- s
		}()
		time.Sleep(time.Millisecond)
		p.Resize(3) // who waits is served
		second, third := <-waited, want(true)
		want(false)
		p.Resize(1)
		first.Release()
		want(false)
		second.Release()
		want(false)
		third.Release()
		last := want(true)
		last.Release()
		p.Resize(0)
		if got := p.Stats().Slots; got != 1 {
			t.Errorf("the bound is gone: %d", got)
		}
	})
}
