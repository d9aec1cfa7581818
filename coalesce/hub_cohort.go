package coalesce

// cohort is the waiting watchers of one group that lack the same revisions: they are read and encoded once. hub.mu
// guards it.
type cohort struct {
	cohortKey
	watchers     watcherList
	ahead, after *cohort
}

type cohortKey struct {
	group  *group
	next   int64
	source lag
}

// lag is where cohorts are served from. The two are counted, held, queued and served apart: a Source may wait for a
// network, and the many that only need the ring do not wait for it.
type lag uint8

const (
	fromRing lag = iota // also those who lack what is compacted: to cancel them takes no Source
	fromHistory
)

// cohortList is the queue of a feed's cohorts. Each is served a chunk in its turn, so that those with much to read do
// not keep the others waiting.
type cohortList struct{ first, last *cohort }

func (q *cohortList) push(c *cohort) {
	if c.ahead = q.last; q.last == nil {
		q.first = c
	} else {
		q.last.after = c
	}
	q.last = c
}

func (q *cohortList) drop(c *cohort) {
	if c.ahead == nil {
		q.first = c.after
	} else {
		c.ahead.after = c.after
	}
	if c.after == nil {
		q.last = c.ahead
	} else {
		c.after.ahead = c.ahead
	}
}

// feedQueue is the queue of feeds that have cohorts waiting. Feeds take turns as well.
type feedQueue struct{ first, last *Feed }

func (q *feedQueue) push(f *Feed, l lag) {
	if f.lagging[l] {
		return
	}
	f.lagging[l] = true
	if q.last == nil {
		q.first = f
	} else {
		q.last.nextLag[l] = f
	}
	q.last = f
}

// pop returns nil if there is none.
func (q *feedQueue) pop(l lag) *Feed {
	f := q.first
	if f == nil {
		return nil
	}
	if q.first = f.nextLag[l]; q.first == nil {
		q.last = nil
	}
	f.lagging[l], f.nextLag[l] = false, nil
	return f
}

// resyncers is how many goroutines bring watchers up to date that are not live, for each place where they are served
// from. They are few, because each may hold a chunk of history and keep a processor busy, and more than one, because
// each may wait for a disk or a network.
const resyncers = 4

// The functions below are called with h.mu held.

// lagOf tells where a watcher of f is served from whose next revision is `next`.
func (h *Hub) lagOf(f *Feed, next int64) lag {
	if next >= f.ring.oldest() || h.isLost(f, next) {
		return fromRing
	}
	return fromHistory
}

// isLost tells whether the Source could only say that `next` is compacted. Of a closed feed nothing is known: the
// store may have been replaced.
func (h *Hub) isLost(f *Feed, next int64) bool {
	return next < h.compacted && f.closed == nil && next < f.ring.oldest()
}

// enqueue puts w into its cohort, which goes to the end of its feed's queue if it is new, and sees to it that it is
// served.
func (h *Hub) enqueue(w *Watcher) {
	f, l := w.group.feed, w.source
	key := w.cohort()
	c := h.cohorts[key]
	if c == nil {
		c = &cohort{cohortKey: key}
		h.cohorts[key] = c
		f.waiting[l].push(c)
	}
	c.watchers.push(w)
	h.lagging[l].push(f, l)
	if h.resyncing[l] < resyncers {
		h.resyncing[l]++
		h.start(func() bool { return h.resync(l) })
	}
}

// cohort is the key of the cohort that a waiting watcher is in.
func (w *Watcher) cohort() cohortKey {
	return cohortKey{group: w.group, next: w.next, source: w.source}
}

// prune drops the cohort that w has been taken from, if it is empty.
func (h *Hub) prune(w *Watcher) {
	if c := h.cohorts[w.cohort()]; c.watchers.first == nil {
		h.drop(c)
	}
}

func (h *Hub) drop(c *cohort) {
	delete(h.cohorts, c.cohortKey)
	c.group.feed.waiting[c.source].drop(c)
}
