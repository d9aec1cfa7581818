package fair

import (
	"context"
	"fmt"
	"testing"
)

func BenchmarkAFreeSlot(b *testing.B) {
	p := newPool(64)
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		s, err := p.Acquire(ctx, "a", 1, 100)
		if err != nil {
			b.Fatal(err)
		}
		s.Release()
	}
}

func BenchmarkAFreeSlotOfManyAccounts(b *testing.B) {
	p := newPool(64)
	var names []string
	for i := range 1000 {
		names = append(names, fmt.Sprint("account-", i))
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			name := names[i%len(names)]
			s, err := p.Acquire(context.Background(), name, 1, 100)
			if err != nil {
				b.Fatal(err)
			}
			s.Release()
		}
	})
}

// What it costs to choose who is next, without waking him.
func BenchmarkNextOfMany(b *testing.B) {
	for _, accounts := range []int{1, 10, 1000, 10_000} {
		b.Run(fmt.Sprint(accounts), func(b *testing.B) {
			const slots = 64
			p := newPool(slots)
			for i := range slots {
				if _, err := p.Acquire(b.Context(), fmt.Sprint(i%accounts), 1, 0); err != nil {
					b.Fatal(err)
				}
			}
			for i := range max(accounts, 100) {
				p.enter(fmt.Sprint(i%accounts), 1, 0)
			}
			b.ReportAllocs()
			for b.Loop() {
				p.mu.Lock()
				p.advance()
				a := p.next()
				w := a.queue.first
				p.dequeue(w)
				p.grant(a)
				a.settle(p.now)
				a.inUse-- // as if the call had ended
				a.queue.push(w)
				p.stats.Queued++
				p.stats.QueuedBytes += w.bytes
				if a.index < 0 {
					p.waiting.add(a)
				}
				p.mu.Unlock()
			}
		})
	}
}
