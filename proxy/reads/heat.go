package reads

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"weir/grpcapi/wire"
)

// heat is what forwarded reads say about which ranges are worth keeping.
//
// Each call leaves the microseconds that it has cost upstream as a score, for each range that it read and for a few wider
// ones: prefixes cut at a '/', and the whole key space. Scores halve every heatHalf. A range is ripe when its score is
// ripeAt times its price, which is what loading it would cost. Because both are in microseconds of upstream's work, a key
// that is read often, a long list that is read seldom, and a prefix of which every key is read once in a while all become
// ripe when keeping them pays.
//
// The price depends on the size of a range. Every answer has the number of keys in the range that was read; that of a
// prefix of which single keys are read is asked for when it matters (see uncounted). How large they are is taken from
// those that have been seen.
//
// What is remembered is bounded: of more than maxCandidates ranges those with the lowest scores are forgotten, and ranges
// with very long keys are not remembered at all. A sketch of counters for all ranges (as TinyLFU has it) would see those
// that are read seldom among millions, which are not worth keeping.
type heat struct {
	mu         sync.Mutex // guards the fields below
	candidates map[interval]*candidate
	setbacks   map[interval]*setback
	seen       size         // of KeyValues in answers, the later ones counting more
	ranked     []*candidate // of forget
}

// candidate is a range that may become worth keeping.
type candidate struct {
	interval
	score   decaying // microseconds; see heatHalf
	seen    size     // as heat.seen, of this range
	keys    float64  // in the range, or unknownKeys
	counted time.Time
	pause   time.Duration // until it may be counted again
}

const unknownKeys = -1

const (
	heatHalf      = 10 * time.Second
	ripeAt        = 3
	maxCandidates = 2048
	maxInterval   = 1 << 10 // bytes of both keys of a range
	maxPrefixes   = 3
	maxSetbacks   = 1024

	// countFrom is the score from which on it is worth a read to know how many keys a range has.
	countFrom = 2000
	// A count visits all keys of a range and keeps writers waiting meanwhile, so that it is asked for ever more seldom.
	firstCountPause   = time.Minute
	longestCountPause = time.Hour
)

func newHeat() *heat {
	return &heat{candidates: map[interval]*candidate{}, setbacks: map[interval]*setback{}}
}

// reading is one range that upstream has read for a call.
type reading struct {
	interval
	keys  float64 // in the range, or unknownKeys
	seen  size    // of those in the answer; nothing if that does not tell how large they are
	bytes float64 // of the answer
}

// readingOf is the reading for r, with an answer of so many bytes.
func readingOf(r *wire.RangeRequest, answer wire.RangeResponse, bytes int) reading {
	x := reading{interval: intervalOf(r.Key, r.RangeEnd), keys: float64(answer.Count), bytes: float64(bytes)}
	if !r.KeysOnly && !r.CountOnly && r.MinModRevision|r.MaxModRevision|r.MinCreateRevision|r.MaxCreateRevision == 0 {
		x.seen = size{keys: x.keys, bytes: x.bytes}
		if answer.More {
			x.seen.keys = float64(r.Limit)
		}
	}
	return x
}

// unseenReading is of a range of which nothing was answered.
func unseenReading(key, end []byte) reading {
	x := reading{interval: intervalOf(key, end), keys: unknownKeys}
	if x.isKey() {
		x.keys = 1
	}
	return x
}

// add counts a call that was forwarded. Its readings share what it has cost besides the bytes of their answers: each has its
// part in what would be spared if all of them were kept.
func (t *heat) add(now time.Time, call ...reading) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, x := range call {
		if x.to != "" && x.to <= x.from || len(x.from)+len(x.to) > maxInterval {
			continue
		}
		cost := work(x.bytes) - getWork + getWork/float64(len(call))
		t.seen.learn(x.seen)
		if c := t.heat(now, x.interval, cost, x.seen); x.keys != unknownKeys {
			c.keys = x.keys
		}
		for _, wider := range x.wider() {
			t.heat(now, wider, cost, x.seen)
		}
		if len(t.candidates) > maxCandidates {
			t.forget(now)
		}
	}
}

// heat is called with t.mu held.
func (t *heat) heat(now time.Time, i interval, cost float64, seen size) *candidate {
	c := t.candidates[i]
	if c == nil {
		c = &candidate{interval: i, keys: unknownKeys}
		t.candidates[i] = c
	}
	c.score.add(now, cost, heatHalf)
	c.seen.learn(seen)
	return c
}

// wider returns the ranges that contain i and are counted for it.
func (i interval) wider() []interval {
	wider := make([]interval, 0, maxPrefixes+1)
	for at := strings.LastIndexByte(i.from, '/'); at >= 0 && len(wider) < maxPrefixes; at = strings.LastIndexByte(i.from[:at], '/') {
		if p := ofPrefix(i.from[:at+1]); p != i && p.contains(i) {
			wider = append(wider, p)
		}
	}
	if i != everything {
		wider = append(wider, everything)
	}
	return wider
}

// forget forgets the quarter with the lowest scores. t.mu is held.
func (t *heat) forget(now time.Time) {
	for _, c := range t.candidates {
		t.ranked = append(t.ranked, c)
		c.score.add(now, 0, heatHalf)
	}
	slices.SortFunc(t.ranked, func(a, b *candidate) int { return cmp.Compare(a.score.sum, b.score.sum) })
	for _, c := range t.ranked[:len(t.ranked)/4] {
		delete(t.candidates, c.interval)
	}
	clear(t.ranked)
	t.ranked = t.ranked[:0]
}

// offer is a range that is worth loading.
type offer struct {
	interval
	size size
	rate float64 // microseconds of upstream's work that it would spare in a second
}

// ripe returns the ranges that are worth loading, the narrowest first.
func (t *heat) ripe(now time.Time) []offer {
	t.mu.Lock()
	defer t.mu.Unlock()
	var ripe []offer
	for _, c := range t.candidates {
		s := t.sizeOf(c)
		if c.keys != unknownKeys && c.score.value(now, heatHalf) >= ripeAt*s.price() && !t.isSetBack(now, c.interval) {
			ripe = append(ripe, offer{interval: c.interval, size: s, rate: c.score.rate(now, heatHalf)})
		}
	}
	slices.SortFunc(ripe, func(a, b offer) int {
		return cmp.Or(cmp.Compare(a.size.memory(), b.size.memory()), cmp.Compare(b.rate, a.rate))
	})
	return ripe
}

// sizeOf is called with t.mu held.
func (t *heat) sizeOf(c *candidate) size {
	keys := max(0, c.keys)
	if c.seen.keys > 0 {
		return size{keys: keys, bytes: keys * c.seen.perKey()}
	}
	return size{keys: keys, bytes: keys * t.seen.perKey()}
}

// uncounted returns a range of which the number of keys is to be asked for, if there is one, and takes it as asked for. It
// is that with the longest prefix, which is most likely to have few.
func (t *heat) uncounted(now time.Time) (i interval, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var best *candidate
	for _, c := range t.candidates {
		if (best == nil || len(best.from) < len(c.from)) && c.mayBeCounted(now) && !t.isSetBack(now, c.interval) {
			best = c
		}
	}
	if best == nil {
		return interval{}, false
	}
	best.counted = now
	best.pause = min(max(2*best.pause, firstCountPause), longestCountPause)
	return best.interval, true
}

// mayBeCounted tells whether its count is not known from its own reads, and is worth a read.
func (c *candidate) mayBeCounted(now time.Time) bool {
	if c.counted.IsZero() && c.keys != unknownKeys {
		return false
	}
	return c.score.value(now, heatHalf) >= countFrom && now.Sub(c.counted) >= c.pause
}

// counted tells how many keys a range has.
func (t *heat) counted(i interval, keys int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.candidates[i]; c != nil {
		c.keys = float64(keys)
	}
}

// measured tells how large a range is.
func (t *heat) measured(i interval, s size) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if c := t.candidates[i]; c != nil {
		c.keys, c.seen = s.keys, s
	}
}

// loaded forgets the scores of a range that is kept now, and of those within it.
func (t *heat) loaded(i interval) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for in := range t.candidates {
		if i.contains(in) {
			delete(t.candidates, in)
		}
	}
}

// setBack has a range not be ripe for a while.
func (t *heat) setBack(now time.Time, i interval, first, longest time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.setbacks[i]
	if s == nil {
		if len(t.setbacks) >= maxSetbacks {
			t.forgetSetbacks(now)
		}
		s = &setback{}
		t.setbacks[i] = s
	}
	s.extend(now, first, longest)
}

// forgetSetbacks forgets those that are over, or else the one that is over first. t.mu is held.
func (t *heat) forgetSetbacks(now time.Time) {
	var first interval
	soonest := time.Duration(math.MaxInt64)
	for i, s := range t.setbacks {
		if s.isForgotten(now) {
			delete(t.setbacks, i)
		} else if left := s.until.Sub(now); left < soonest {
			first, soonest = i, left
		}
	}
	if len(t.setbacks) >= maxSetbacks {
		delete(t.setbacks, first)
	}
}

// isSetBack is called with t.mu held.
func (t *heat) isSetBack(now time.Time, i interval) bool {
	s := t.setbacks[i]
	return s != nil && now.Before(s.until)
}

// len is how many ranges are remembered.
func (t *heat) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.candidates)
}
