package network

import (
	"math/rand/v2"
	"time"
)

// Link is what happens to packets on the way from one host to another. The zero value passes them on at once. Packets are in
// order unless they are reordered, as on a wire.
type Link struct {
	Cut       bool          // nothing arrives
	Loss      float64       // the share of packets that do not
	Duplicate float64       // the share that arrives twice
	Reorder   float64       // the share that overtakes those which are late
	Delay     time.Duration // how late packets are
	Jitter    time.Duration // by how much later some are
}

// maxWaiting is how many packets are on their way at most. More are lost, as in a router.
const maxWaiting = 4096

// packet is one that is late.
type packet struct {
	data []byte
	due  time.Time
}

// pass does to a packet what the link says. now gives it to the receiver, later after a while.
func (l Link) pass(data []byte, now func([]byte), later func(packet)) {
	if l.Cut || rand.Float64() < l.Loss {
		return
	}
	copies := 1
	if rand.Float64() < l.Duplicate {
		copies = 2
	}
	for range copies {
		if l.Delay+l.Jitter == 0 || rand.Float64() < l.Reorder {
			now(data)
			continue
		}
		late := l.Delay
		if l.Jitter > 0 {
			late += rand.N(l.Jitter)
		}
		later(packet{append([]byte(nil), data...), time.Now().Add(late)})
	}
}
