package reads

import (
	"context"
	"math"
	"time"

	"weir/grpcapi/wire"
)

const (
	// tendInterval is between two looks at all hot ranges. Compaction is honoured within a second: half of that is
	// upstream's to be asked.
	tendInterval = 250 * time.Millisecond
	// maxHots bounds the hot ranges, those that are being loaded too. Ranges without a common prefix have an upstream watch
	// each, and from a thousand on proxy/feed merges watches into ever wider ones: about half are left to clients.
	maxHots = 512
)

// tend decides what is loaded and what is dropped. It is one goroutine, and waits for nothing.
func (k *Keeper) tend() {
	ticks := time.NewTicker(tendInterval)
	defer ticks.Stop()
	for {
		k.turn(time.Now())
		select {
		case <-k.poke:
		case <-ticks.C:
		case <-k.ctx.Done():
			return
		}
	}
}

func (k *Keeper) turn(now time.Time) {
	standing := k.up.Standing()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return
	}
	oldest := k.reviewAll(now, standing.Era)
	k.makeRoom(now, claim{worth: math.Inf(1), pressing: true})
	k.divideHistory(0)
	if standing.Shared && standing.Connected {
		k.launchFixed(now, standing.Era)
		k.launchRipe(now, standing.Era)
		k.countKeys(now)
	}
	k.up.Keeps(oldest)
}

// review is what a hot range has been worth lately. Keeper.mu guards it.
type review struct {
	guess   int       // memory that it is expected to take when it is loaded
	began   time.Time // when it was loaded; zero before
	used    time.Time // when it was last seen to be used
	spared  int64     // hot.spared and hot.events as of the last look
	events  int64
	gain    decaying // microseconds of upstream's work spared; see worthHalf
	cost    decaying // and what it took to follow the changes
	history int      // bytes that past states may take
}

const (
	worthHalf   = 30 * time.Second
	worthAfter  = time.Minute // from when on it is judged
	unusedAfter = 5 * time.Minute
)

// look takes the counts as of now, and tells why the range is to be dropped, if it is.
func (r *review) look(now time.Time, spared, events int64) error {
	if spared > r.spared {
		r.used = now
	}
	r.gain.add(now, float64(spared-r.spared), worthHalf)
	r.cost.add(now, eventWork*float64(events-r.events), worthHalf)
	r.spared, r.events = spared, events
	switch {
	case now.Sub(r.used) >= unusedAfter:
		return errUnused
	case now.Sub(r.began) >= worthAfter && r.gain.sum < r.cost.sum:
		return errNotWorth
	}
	return nil
}

// reviewAll looks at each hot range, and returns the oldest revision that can be read from one, or 0 if there is none.
// k.mu is held.
func (k *Keeper) reviewAll(now time.Time, era uint64) (oldest int64) {
	compacted := k.up.Compacted()
	for h := range k.hots {
		if h.era != era {
			k.dropNow(h, errEra)
			continue
		}
		if !h.isLoaded() {
			continue
		}
		if why := h.review.look(now, h.spared.Load(), h.events.Load()); why != nil && !h.fixed {
			k.dropNow(h, why)
			continue
		}
		h.follow()
		h.forget(compacted)
		// Also one that is the newest which the range knows: the store may be far ahead of a quiet range.
		if from := h.snap.Oldest(); oldest == 0 || from < oldest {
			oldest = from
		}
	}
	return oldest
}

// isLoaded is called with keeper.mu held.
func (h *hot) isLoaded() bool { return !h.review.began.IsZero() }

// launchFixed loads fixed ranges that are not there. k.mu is held.
func (k *Keeper) launchFixed(now time.Time, era uint64) {
	for _, f := range k.fixed {
		if f.hot == nil && k.loads < maxLoads && !now.Before(f.setback.until) {
			f.hot = k.launch(f.interval, era, true, size{}, decaying{})
		}
	}
}

// launchRipe loads ranges that are worth it. k.mu is held.
func (k *Keeper) launchRipe(now time.Time, era uint64) {
	if k.loads >= maxLoads {
		return
	}
	for _, o := range k.heat.ripe(now) {
		switch {
		case k.loads >= maxLoads:
			return
		case k.isKept(o.interval):
		case k.makeRoom(now, claim{bytes: o.size.memory(), worth: o.rate / float64(max(1, o.size.memory())), ranges: 1}):
			gain := decaying{sum: o.rate * worthHalf.Seconds() / math.Ln2, at: now}
			k.launch(o.interval, era, false, o.size, gain)
		default:
			k.heat.setBack(now, o.interval, firstWorthPause, longestWorthPause)
		}
	}
}

// isKept tells whether a range that contains i is kept or being loaded. k.mu is held.
func (k *Keeper) isKept(i interval) bool {
	for h := range k.hots {
		if h.contains(i) {
			return true
		}
	}
	return false
}

// countKeys has upstream asked how many keys a range has. k.mu is held.
func (k *Keeper) countKeys(now time.Time) {
	if k.counting {
		return
	}
	i, ok := k.heat.uncounted(now)
	if !ok {
		return
	}
	k.counting = true
	k.tasks.Go(func() {
		err := k.countKeysOf(i)
		k.log.Debug("counted the keys of a range", "range", i.String(), "error", err)
		k.mu.Lock()
		defer k.mu.Unlock()
		k.counting = false
		k.pokeTend()
	})
}

func (k *Keeper) countKeysOf(i interval) error {
	ctx, cancel := context.WithTimeout(k.ctx, callPatience)
	defer cancel()
	span := i.span()
	raw, err := k.up.Range(ctx, &wire.RangeRequest{Key: span.Key, RangeEnd: span.End, Serializable: true, CountOnly: true})
	if err != nil {
		return err
	}
	var resp wire.RangeResponse
	if err := resp.Unmarshal(raw, nil); err != nil {
		return err
	}
	k.heat.counted(i, resp.Count)
	return nil
}
