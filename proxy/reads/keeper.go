package reads

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"weir/cache"
	"weir/coalesce"
)

// Keeper is everything that a proxy keeps in memory to answer reads from.
//
// The idea: a range that is read again and again is worth a watch and its memory, because each read after that costs
// upstream nothing, or its part of one revision check that many share. Which ranges those are is seen in what upstream
// is asked (heat), and what they are worth in what they spare later (review). Both are in microseconds of upstream's
// work, so that a thousand gets and one long list can be compared.
//
// The method: reads find a hot range in the catalog and never wait for the Keeper. One goroutine, tend, decides what is
// loaded and dropped; loads are goroutines of their own, a few at a time.
//
// Rejected: a cache of answers that forgets what was least recently used. An answer holds for one revision only, and
// a single write into a list would void all of it.
//
// Locks are taken in this order: Keeper.mu, hot.mu or heat.mu, those of the hub. The hub holds none when it calls a hot
// range.
//
// All methods may be called concurrently.
type Keeper struct {
	cfg     Config
	up      Upstream
	log     *slog.Logger
	results *cache.Results
	catalog catalog
	heat    *heat
	pace    pace
	stats   stats
	away    atomic.Bool // upstream could not be asked when that was last needed

	staleness atomic.Int64 // a time.Duration, see SetMaxStaleness

	limit int          // bytes for all hot ranges
	held  atomic.Int64 // bytes that they take; of those that have ended none, though readers may still be with them

	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup // started by New and by tend
	poke   chan struct{}  // has an element when tend has work before its next turn

	mu       sync.Mutex // guards the fields below, the reviews of hot ranges, and changes of the catalog
	closed   bool
	hots     map[*hot]struct{} // loaded or being loaded
	loads    int               // under way
	counting bool              // upstream is being asked how many keys a range has
	fixed    []*fixedRange
}

// fixedRange is one that is to be kept whatever it costs.
type fixedRange struct {
	interval
	hot     *hot // nil while there is none
	setback setback
}

// Config says what is kept, and where it comes from. Upstream, Hub and Logger must be set.
type Config struct {
	Upstream Upstream
	// Hub has the watches that snapshots are fed from. The Keeper must be closed before it.
	Hub *coalesce.Hub
	// Fixed are prefixes of which all keys are always kept; "" is the whole key space.
	Fixed []string
	// Bytes bounds the memory of snapshots, of loads and of results. With 0 nothing is kept.
	Bytes int
	// MaxStaleness bounds the age of what serializable reads are given while upstream can be asked.
	MaxStaleness time.Duration
	// MaxKeys and MaxBytes bound the answer of a single read; 0 is no bound.
	MaxKeys, MaxBytes int64
	// Turn waits for the turn of ctx's client among all who have upstream asked, before it is asked for the client what is not in
	// memory any more. end ends the turn; the error is the client's. nil is a turn at once. It may be called concurrently.
	Turn   func(ctx context.Context) (end func(), err error)
	Logger *slog.Logger
}

// SetMaxStaleness replaces Config.MaxStaleness. It may be called concurrently.
func (k *Keeper) SetMaxStaleness(d time.Duration) { k.staleness.Store(int64(d)) }

// New starts to keep what is fixed, and what turns out to be worth it.
func New(cfg Config) (*Keeper, error) {
	switch {
	case cfg.Bytes < 0:
		return nil, fmt.Errorf("keep reads in memory: %d bytes is negative", cfg.Bytes)
	case cfg.Bytes == 0 && len(cfg.Fixed) > 0:
		return nil, errors.New("keep reads in memory: prefixes are to be kept, in no bytes at all")
	}
	forResults := cfg.Bytes / resultsPart
	results, err := cache.NewResults(forResults)
	if err != nil {
		return nil, fmt.Errorf("keep reads in memory: %w", err)
	}
	k := &Keeper{
		cfg: cfg, up: cfg.Upstream, log: cfg.Logger, results: results, limit: cfg.Bytes - forResults,
		heat: newHeat(), poke: make(chan struct{}, 1), hots: map[*hot]struct{}{},
	}
	k.SetMaxStaleness(cfg.MaxStaleness)
	k.ctx, k.cancel = context.WithCancel(context.Background())
	prefixes := slices.Sorted(slices.Values(cfg.Fixed))
	for i, p := range prefixes {
		if !slices.ContainsFunc(prefixes[:i], func(shorter string) bool { return strings.HasPrefix(p, shorter) }) {
			k.fixed = append(k.fixed, &fixedRange{interval: ofPrefix(p)})
		}
	}
	if cfg.Bytes > 0 {
		k.tasks.Go(k.tend)
	}
	return k, nil
}

// resultsPart is which part of the memory is for results: they only spare the work to join an answer again.
const resultsPart = 8

// Close drops everything, and waits for what the Keeper has started. Reads are forwarded from then on.
func (k *Keeper) Close() {
	k.mu.Lock()
	k.closed = true
	for h := range k.hots {
		k.dropNow(h, errClosed)
	}
	k.up.Keeps(0)
	k.mu.Unlock()
	k.cancel()
	k.tasks.Wait()
	k.results.Close()
}

// Why hot ranges are dropped, besides what the hub says.
var (
	errClosed   = errors.New("the proxy is closing")
	errEra      = errors.New("upstream is not what it was")
	errNoRoom   = errors.New("--cache-bytes has no room for it")
	errNotWorth = errors.New("to follow its changes costs more than to forward its reads")
	errUnused   = errors.New("it is not read any more")
	errWider    = errors.New("a wider range that contains it is kept")
	errUnshared = errors.New("reads and watches may no longer be answered from memory")
)

// Has tells whether all keys of [key, end), by etcd's conventions, are in memory. It takes no lock.
func (k *Keeper) Has(key, end []byte) bool { return k.find(key, end) != nil }

// find returns a hot range that has all keys of [key, end), by etcd's conventions, or nil. It takes no lock and no
// memory.
func (k *Keeper) find(key, end []byte) *hot { return k.catalog.find(key, end) }

// drop ends a hot range, if it has not ended.
func (k *Keeper) drop(h *hot, reason error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dropNow(h, reason)
}

// dropNow is called with k.mu held.
func (k *Keeper) dropNow(h *hot, reason error) {
	if !h.end(reason) {
		return
	}
	loaded := h.isLoaded()
	k.catalog.remove(h)
	delete(k.hots, h)
	k.stats.dropped(loaded, reason)
	k.setBack(h, reason)
	k.pokeTend()
	switch {
	case errors.Is(reason, errClosed):
		k.log.Debug("a range is not kept in memory any more", "range", h.interval.String(), "reason", reason)
	case loaded && h.fixed:
		k.log.Warn("a range that is to be kept in memory is not any more", "range", h.interval.String(), "reason", reason)
	case loaded:
		k.log.Info("a range is not kept in memory any more", "range", h.interval.String(), "reason", reason)
	case h.fixed:
		k.log.Warn("a range that is to be kept in memory cannot be", "range", h.interval.String(), "reason", reason)
	default:
		k.log.Debug("a range cannot be kept in memory", "range", h.interval.String(), "reason", reason)
	}
}

// setBack has a dropped range wait before it is loaded again, the longer the more often it had to. k.mu is held.
func (k *Keeper) setBack(h *hot, reason error) {
	now, first, longest := time.Now(), firstPause, longestPause
	switch {
	case errors.Is(reason, errNoRoom), errors.Is(reason, errNotWorth):
		first, longest = firstWorthPause, longestWorthPause
	case h.fixed:
		first, longest = firstFixedPause, longestFixedPause
	case errors.Is(reason, errClosed), errors.Is(reason, errEra), errors.Is(reason, errUnused), errors.Is(reason, errWider):
		return
	}
	if !h.fixed {
		k.heat.setBack(now, h.interval, first, longest)
		return
	}
	for _, f := range k.fixed {
		if f.hot == h {
			f.hot = nil
			f.setback.extend(now, first, longest)
		}
	}
}

// For how long a range is not loaded again after it was dropped: the first time, and at most.
const (
	firstPause        = time.Second // when a load or a watch has failed
	longestPause      = time.Minute
	firstWorthPause   = time.Minute // when it was not worth its cost, or its memory
	longestWorthPause = time.Hour
	firstFixedPause   = 200 * time.Millisecond // when it is fixed
	longestFixedPause = 10 * time.Second
)

// setback is for how long a range is not loaded. It doubles each time, and is forgotten when it has been over for as
// long as it was.
type setback struct {
	until time.Time
	pause time.Duration
}

func (s *setback) extend(now time.Time, first, longest time.Duration) {
	if s.isForgotten(now) {
		s.pause = 0
	}
	s.pause = min(max(2*s.pause, first), longest)
	s.until = now.Add(s.pause)
}

func (s *setback) isForgotten(now time.Time) bool { return now.Sub(s.until) > s.pause }

func (k *Keeper) pokeTend() {
	select {
	case k.poke <- struct{}{}:
	default:
	}
}
