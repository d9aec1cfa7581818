package fair

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync/atomic"
)

// Slot is one that is held, to be given back once. The zero Slot is none.
type Slot[ID comparable] struct {
	pool *Pool[ID]
	who  ID
	cell *cell[ID] // nil if it was counted from the first
}

// Release gives the slot back, to who waits for it if somebody does.
func (s Slot[ID]) Release() {
	switch {
	case s.pool == nil:
	case s.cell != nil && s.cell.state.CompareAndSwap(held, free):
		s.pool.giveBack()
	default:
		s.pool.releaseCounted(s)
	}
}

// cell says who holds a slot that was taken in passing, while nobody waited: no account is touched then, and no lock. When
// somebody begins to wait the slot is counted for its account, and the cell says only that.
type cell[ID comparable] struct {
	state  atomic.Uint32
	taken  atomic.Uint64 // times
	who    ID            // who and weight belong to whoever has claimed the cell; who sees it held may read them
	weight int
	_      [64]byte // another one's cell is changed by another processor
}

// States of a cell.
const (
	free    uint32 = iota
	claimed        // for an instant, and then held or free
	held
	counted // for its account
)

const (
	// maxCells bounds the memory of a pool. Slots that find no cell are counted at once.
	maxCells = 1024
	// cellTries is how many cells a call looks at. There are twice as many as slots, so that it finds one at once.
	cellTries = 8
)

// cellsFor is how many cells there are for so many slots: a power of two.
func cellsFor(slots int) int {
	n := 2
	for n < maxCells && n < 2*slots {
		n *= 2
	}
	return n
}

// pass takes a slot in passing. It returns nil if none is free, or somebody waits, or there is no cell.
func (p *Pool[ID]) pass(who ID, weight int) *cell[ID] {
	if p.crowded.Load() {
		return nil
	}
	c := p.claim()
	if c == nil {
		return nil
	}
	// Now, because who begins to wait says so first, and then looks at all cells: either that is seen here, or this there.
	if p.crowded.Load() || !p.reserve() {
		c.state.Store(free)
		return nil
	}
	c.who, c.weight = who, weight
	c.taken.Add(1)
	c.state.Store(held)
	return c
}

// claim returns a cell that was free, or nil.
func (p *Pool[ID]) claim() *cell[ID] {
	at := rand.Uint32() // others look for one at the same time
	for range cellTries {
		c := &p.cells[at&uint32(len(p.cells)-1)]
		if c.state.CompareAndSwap(free, claimed) {
			return c
		}
		at++
	}
	return nil
}

// reserve makes one more slot one that is held, if one is free.
func (p *Pool[ID]) reserve() bool {
	for n := p.inUse.Load(); n < p.slots.Load(); n = p.inUse.Load() {
		if p.inUse.CompareAndSwap(n, n+1) {
			return true
		}
	}
	return false
}

// giveBack makes a slot free that was held in passing.
func (p *Pool[ID]) giveBack() {
	p.inUse.Add(-1)
	if !p.crowded.Load() { // who begins to wait says so, and then looks whether a slot is free
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.advance()
	p.serve()
}

// releaseCounted gives back a slot that is counted for its account.
func (p *Pool[ID]) releaseCounted(s Slot[ID]) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.accounts[s.who]
	if s.cell != nil && !s.cell.state.CompareAndSwap(counted, free) || a == nil || a.inUse == 0 {
		panic(fmt.Sprintf("fair: %v holds no such slot", s.who))
	}
	p.advance()
	p.release(a)
}

// countHeld counts all slots that were taken in passing for their accounts, as if all had been taken at once, now. p.mu is held.
func (p *Pool[ID]) countHeld() {
	virtual := p.virtual
	for i := range p.cells {
		c := &p.cells[i]
		for c.state.Load() == claimed {
			runtime.Gosched()
		}
		if c.state.CompareAndSwap(held, counted) {
			a := p.account(c.who, c.weight)
			a.inUse++
			virtual = max(virtual, a.tag)
		}
	}
	p.virtual = virtual
}
