package coalesce

// cohort is the waiting watchers of one group that lack the same revisions: they are read and encoded once. hub.mu
// guards it.
type cohort struct {
	cohortKey
	source       lag // where it is served from
	watchers     watcherList
	ahead, after *cohort
}

type cohortKey struct {
	group *group
	next  int64
}

// lag is where cohorts are served from. The two are queued and served apart: a Source may wait for a network, and the
// many that only need the ring do not wait for it.
type lag int

const (
	fromRing lag = iota
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

// enqueue puts w into its cohort, which goes to the end of its feed's queue if it is new, and sees to it that it is
// served.
func (h *Hub) enqueue(w *Watcher) {
	f := w.group.feed
	key := cohortKey{w.group, w.next}
	c := h.cohorts[key]
	if c == nil {
		c = &cohort{cohortKey: key, source: fromRing}
		if w.next < f.ring.oldest() {
			c.source = fromHistory
		}
		h.cohorts[key] = c
		f.waiting[c.source].push(c)
	}
	c.watchers.push(w)
	l := c.source
	h.lagging[l].push(f, l)
	if h.resyncing[l] < resyncers {
		h.resyncing[l]++
		h.start(func() bool { return h.resync(l) })
	}
}

// prune drops the cohort that w has been taken from, if it is empty.
func (h *Hub) prune(w *Watcher) {
	if c := h.cohorts[cohortKey{w.group, w.next}]; c.watchers.first == nil {
		h.drop(c)
	}
}

func (h *Hub) drop(c *cohort) {
	delete(h.cohorts, c.cohortKey)
	c.group.feed.waiting[c.source].drop(c)
}
