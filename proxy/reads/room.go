package reads

import (
	"cmp"
	"slices"
	"time"
)

// The memory of hot ranges is divided as follows. What is kept of their newest state, and what loads take, comes first.
// Past states have what is left, but not more than a part of all. When memory is short past states go first, and then
// the ranges that spare the least for each byte; fixed ones only when nothing else is left.

// historyPart is which part of all memory past states may take.
const historyPart = 4

// claim is memory that is wanted.
type claim struct {
	bytes, ranges int
	worth         float64 // ranges may go for it that are worth less than half of that
	pressing      bool    // fixed ones as well
	by            *hot    // for which it is, if that is being loaded already
}

// worth is what the range spares for each byte of memory, in microseconds a second.
func (r *review) worth(now time.Time) float64 {
	return r.gain.rate(now, worthHalf) / float64(max(1, r.guess))
}

// takes is the memory that is counted for the hot range now.
func (h *hot) takes() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.bytes
}

// makeRoom makes room for what is claimed, or drops nothing and returns false. k.mu is held.
func (k *Keeper) makeRoom(now time.Time, c claim) bool {
	short, places := int(k.held.Load())+c.bytes-k.limit, len(k.hots)+c.ranges-maxHots
	if !c.pressing {
		short += k.promised(c.by)
	}
	if short <= 0 && places <= 0 {
		return true
	}
	short -= k.historyBytes()
	mayGo := k.lessWorth(now, c)
	n := 0
	for ; n < len(mayGo) && (short > 0 || places > 0); n++ {
		short -= mayGo[n].review.guess
		places--
	}
	if short > 0 || places > 0 {
		return false
	}
	for _, h := range mayGo[:n] {
		k.dropNow(h, errNoRoom)
	}
	k.divideHistory(c.bytes)
	return true
}

// promised is what the loads under way are still expected to take, but for one. k.mu is held.
func (k *Keeper) promised(but *hot) (bytes int) {
	for h := range k.hots {
		if h != but && !h.isLoaded() {
			bytes += max(0, h.review.guess-h.takes())
		}
	}
	return bytes
}

// historyBytes is what past states take. k.mu is held.
func (k *Keeper) historyBytes() (bytes int) {
	for h := range k.hots {
		if h.isLoaded() {
			bytes += h.snap.HistoryBytes()
		}
	}
	return bytes
}

// lessWorth returns the ranges that may go for a claim, in the order in which they go. k.mu is held.
func (k *Keeper) lessWorth(now time.Time, c claim) (mayGo []*hot) {
	for h := range k.hots {
		if !h.isLoaded() {
			continue
		}
		h.review.guess = h.snap.Bytes() - h.snap.HistoryBytes()
		if h.fixed && c.pressing || !h.fixed && 2*h.review.worth(now) < c.worth {
			mayGo = append(mayGo, h)
		}
	}
	slices.SortFunc(mayGo, func(a, b *hot) int {
		switch {
		case a.fixed && !b.fixed:
			return 1
		case b.fixed && !a.fixed:
			return -1
		}
		return cmp.Compare(a.review.worth(now), b.review.worth(now))
	})
	return mayGo
}

// divideHistory divides the memory that past states may take, but for what is to be left free: those that take less than
// their share leave the rest to the others. k.mu is held.
func (k *Keeper) divideHistory(free int) {
	left, loaded := k.limit-free-k.promised(nil), 0
	for h := range k.hots {
		left -= h.takes()
		if h.isLoaded() {
			left += h.snap.HistoryBytes()
			loaded++
		}
	}
	if loaded == 0 {
		return
	}
	left = max(0, min(left, k.limit/historyPart))
	share, many := left/loaded, 0
	for h := range k.hots {
		if h.isLoaded() {
			if n := h.snap.HistoryBytes(); n <= share {
				left -= n
			} else {
				many++
			}
		}
	}
	for h := range k.hots {
		if h.isLoaded() {
			h.keepHistory(left / max(1, many))
		}
	}
}

// keepHistory bounds the memory of past states. keeper.mu is held.
func (h *hot) keepHistory(bytes int) {
	if bytes == h.review.history {
		return
	}
	h.review.history = bytes
	h.mu.Lock()
	defer h.mu.Unlock()
	h.snap.SetHistoryBytes(bytes)
	h.count()
}
