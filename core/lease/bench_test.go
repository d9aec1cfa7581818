package lease

import (
	"testing"
	"time"
)

const benchLeases = 1_000_000

func benchLessor(b *testing.B) (*Lessor, *fakeClock) {
	b.Helper()
	clock := newFakeClock()
	l := New(clock, 2)
	l.Promote(0)
	for id := int64(1); id <= benchLeases; id++ {
		if _, err := l.Grant(id, 60, 1); err != nil {
			b.Fatal(err)
		}
	}
	return l, clock
}

// BenchmarkRenew is one ping among a million leases.
func BenchmarkRenew(b *testing.B) {
	l, _ := benchLessor(b)
	id := int64(0)
	for b.Loop() {
		id = (id + 7919) % benchLeases
		if _, err := l.Renew(b.Context(), id+1); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRenewNow is a hundred pings among a million leases.
func BenchmarkRenewNow(b *testing.B) {
	l, _ := benchLessor(b)
	ids, ttls, id := make([]int64, 100), make([]int64, 100), int64(0)
	for b.Loop() {
		for i := range ids {
			id = (id + 7919) % benchLeases
			ids[i] = id + 1
		}
		l.RenewNow(ids, ttls)
	}
}

// BenchmarkSweepRenewed is what the lazy queue costs: a million leases that were all pinged since they were queued. It
// happens once per TTL.
func BenchmarkSweepRenewed(b *testing.B) {
	l, clock := benchLessor(b)
	for b.Loop() {
		b.StopTimer()
		clock.advance(30 * time.Second)
		for id := int64(1); id <= benchLeases; id++ {
			if _, err := l.Renew(b.Context(), id); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		if ids := expired(l, 10); len(ids) > 0 {
			b.Fatal("expired:", ids)
		}
	}
}

// BenchmarkGrantRevoke is the life of a lease with one key.
func BenchmarkGrantRevoke(b *testing.B) {
	l, _ := benchLessor(b)
	key := []byte("/registry/leases/some-node")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.Grant(-1, 30, 1); err != nil {
			b.Fatal(err)
		}
		if err := l.Attach(-1, key); err != nil {
			b.Fatal(err)
		}
		if err := l.Revoke(-1); err != nil {
			b.Fatal(err)
		}
	}
}
