package reads

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"weir/cache"
	"weir/coalesce"
	"weir/grpcapi/wire"
)

// load makes the snapshot of a hot range.
//
// First the watch is opened, from now on. Then the range is read: the first page linearizably, so that it is of a
// revision that is not before the start of the watch; the others pinned to that revision, from the same member and without
// consensus. Events that come meanwhile are pending. Those up to the revision are in the pages already, and the others
// are applied when the last page has come. So no event is missed and none is applied twice, however slow the reading is.
//
// The other way round, to read first and to watch from the next revision on, was rejected: an upstream watch that starts
// in the past or in the future keeps all others of its stream from being told progress.
type load struct {
	keeper *Keeper
	hot    *hot
	loader *cache.Loader
	rev    int64  // of all pages; 0 before the first
	next   []byte // where the next page begins
	limit  int64  // of the page before
	read   size
	total  size // what there is to read, as far as known
}

const (
	pageBytes = 4 << 20 // about, of an answer
	pageShare = 8       // and at most this part of the memory there is
	firstPage = 16      // keys, if nothing is known of their size
	maxPage   = 10_000  // keys: the size of the last ones need not be that of the next
	growPage  = 8       // times as many keys as the page before has a page at most
	maxLoads  = 2       // at a time

	callPatience = 10 * time.Second
)

var (
	errOtherCluster = errors.New("upstream answers for another cluster")
	errBehindWatch  = errors.New("upstream answers from before the watch")
	errNoKeys       = errors.New("upstream says that there are more keys, and sends none")
)

// launch starts to load a range. gain is what it is expected to spare. k.mu is held.
func (k *Keeper) launch(i interval, era uint64, fixed bool, guess size, gain decaying) *hot {
	ctx, cancel := context.WithCancelCause(k.ctx)
	h := &hot{
		interval: i, span: i.span(), era: era, fixed: fixed, keeper: k,
		gone: make(chan struct{}), cancel: cancel,
		review: review{guess: guess.memory(), gain: gain},
	}
	h.stream = k.cfg.Hub.NewStream(h)
	k.hots[h] = struct{}{}
	k.loads++
	k.stats.loads.Add(1)
	l := &load{keeper: k, hot: h, loader: cache.NewLoader(), total: guess}
	k.tasks.Go(func() {
		if err := l.run(ctx); err != nil {
			if l.rev > 0 { // or it would look as small as before
				k.heat.measured(i, l.total)
			}
			k.drop(h, fmt.Errorf("load it: %w", err))
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		k.loads--
		k.pokeTend()
	})
	return h
}

func (l *load) run(ctx context.Context) error {
	if err := l.watch(ctx); err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	for more := true; more; {
		var err error
		if more, err = l.page(ctx); err != nil {
			return fmt.Errorf("read: %w", err)
		}
	}
	return l.finish()
}

// watch opens the watch, which has been created when it returns.
func (l *load) watch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	hub, span := l.keeper.cfg.Hub, l.hot.span
	return l.hot.stream.Watch(ctx, &l.hot.watcher, coalesce.Watch{Key: span.Key, End: span.End}, hub.Arrive())
}

// page reads the next page, and tells whether there are more.
func (l *load) page(ctx context.Context) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	l.limit = l.nextLimit()
	if !l.hasRoom() {
		return false, errNoRoom
	}
	r := wire.RangeRequest{Key: l.hot.span.Key, RangeEnd: l.hot.span.End, Limit: l.limit}
	if l.rev > 0 {
		r.Key, r.Revision, r.Serializable = l.next, l.rev, true
	}
	raw, err := l.keeper.up.Range(ctx, &r)
	if err != nil {
		return false, err
	}
	if !l.hot.countLoading(l.loader.Bytes() + len(raw)) {
		return false, errNoRoom
	}
	resp, err := l.add(raw)
	switch {
	case err != nil:
		return false, err
	case resp.Header.ClusterID != l.keeper.up.Header().ClusterID:
		return false, errOtherCluster
	case resp.Header.Revision < l.hot.since:
		return false, errBehindWatch
	}
	if l.rev == 0 {
		l.rev, l.total.keys = resp.Header.Revision, float64(resp.Count)
	}
	l.total.bytes = l.total.keys * l.read.perKey()
	if !l.hot.countLoading(l.loader.Bytes()) {
		return false, errNoRoom
	}
	return resp.More, nil
}

// nextLimit is how many keys the next page is to have.
func (l *load) nextLimit() int64 {
	if l.total.keys == 0 {
		return firstPage
	}
	bytes := float64(min(pageBytes, l.keeper.limit/pageShare))
	return max(1, min(int64(bytes/l.total.perKey()), growPage*max(l.limit, firstPage), maxPage))
}

// hasRoom tells whether there is room for the next page, and for all of the range as far as its size is known. If need
// be, ranges go that are worth less.
func (l *load) hasRoom() bool {
	k, now := l.keeper, time.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	l.hot.review.guess = l.total.memory()
	c := claim{
		by:    l.hot,
		bytes: max(0, l.total.memory()-l.hot.takes()) + int(float64(l.limit)*l.total.perKey()),
		worth: l.hot.review.worth(now),
	}
	if l.hot.fixed {
		c.worth = math.Inf(1)
	}
	return k.makeRoom(now, c)
}

// add gives the KeyValues of an answer to the loader.
func (l *load) add(raw wire.Raw) (resp wire.RangeResponse, err error) {
	var last []byte
	err = resp.Unmarshal(raw, func(kv []byte) error {
		last = kv
		l.read.keys++
		l.read.bytes += float64(len(kv))
		return l.loader.Add(kv)
	})
	switch {
	case err != nil:
		return resp, err
	case last == nil && resp.More:
		return resp, errNoKeys
	case last == nil:
		return resp, nil
	}
	var kv wire.KeyValue
	err = kv.Unmarshal(last)
	l.next = append(bytes.Clone(kv.Key), 0)
	return resp, err
}

// finish applies what is pending, and lets reads find the range.
func (l *load) finish() error {
	k, h := l.keeper, l.hot
	snap := l.loader.Snapshot(l.rev, 0)
	l.loader = nil
	for {
		pending, err := h.takePending(snap)
		if err != nil {
			return err
		}
		if pending == nil {
			break
		}
		for _, r := range pending {
			if r.rev <= l.rev {
				continue
			}
			if err := snap.Apply(r.rev, r.events); err != nil {
				return err
			}
		}
	}
	return k.publish(h)
}

// takePending returns the events that have come since the last call, for the loader to apply to snap. When there are
// none it returns nil: from then on they are applied as they come. They are applied without the lock, because there can be
// many, and who delivers the next ones must not wait.
func (h *hot) takePending(snap *cache.Snapshot) ([]revision, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.reason != nil {
		return nil, h.reason
	}
	pending := h.pending
	h.pending, h.pendingBytes = nil, 0
	h.loading = snap.Bytes()
	for _, r := range pending {
		h.loading += r.bytes
	}
	if len(pending) == 0 {
		h.snap, h.loaded, h.loading = snap, true, 0
	}
	h.count()
	return pending, nil
}

// countLoading counts what the load takes, besides what is pending. It tells whether there is room.
func (h *hot) countLoading(bytes int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.loading = bytes
	return h.count()
}

// publish lets reads find a range that is loaded.
func (k *Keeper) publish(h *hot) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch _, kept := k.hots[h]; {
	case !kept:
		return errDropped // it has ended meanwhile
	case k.up.Standing().Era != h.era:
		return errEra
	case !h.fixed && k.find(h.span.Key, h.span.End) != nil:
		return errWider
	}
	now := time.Now()
	h.review.began, h.review.used = now, now
	for _, narrower := range k.catalog.add(h) {
		k.dropNow(narrower, errWider)
	}
	k.heat.loaded(h.interval)
	k.divideHistory(0)
	k.log.Info("a range is kept in memory", "range", h.interval.String(), "keys", h.snap.Keys(), "bytes", h.snap.Bytes(), "revision", h.snap.Revision())
	return nil
}
