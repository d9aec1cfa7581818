package lease

// The queues of a Lessor, by what a lease waits for in them.
const (
	expiries = iota
	checkpoints
	queues // how many there are
)

// absent is the index of a lease that is not in a queue.
const absent = -1

// queue is a binary heap of leases by the time at which each is to be looked at next: entries[0] is the first one.
//
// Not container/heap: with the times beside the pointers a move reads no lease, which halves its cost with a million leases,
// and nothing is boxed.
type queue struct {
	which   int // expiries or checkpoints
	entries []entry
}

type entry struct {
	due   instant // no later than the lease must be looked at, or when to name it again
	lease *lease
}

// reset empties the queue and makes room for n leases. Their index in it is for the caller to set.
func (q *queue) reset(n int) { q.entries = make([]entry, 0, n) }

func (q *queue) isEmpty() bool { return len(q.entries) == 0 }

// front is the first lease, and when it is to be looked at.
func (q *queue) front() (*lease, instant) { return q.entries[0].lease, q.entries[0].due }

// push adds a lease that is absent.
func (q *queue) push(le *lease, due instant) {
	q.entries = append(q.entries, entry{due, le})
	q.up(len(q.entries) - 1)
}

// remove takes out a lease, if it is there.
func (q *queue) remove(le *lease) {
	i, last := int(le.index[q.which]), len(q.entries)-1
	if i == absent {
		return
	}
	le.index[q.which] = absent
	moved := q.entries[last]
	q.entries[last] = entry{} // let go of the lease
	q.entries = q.entries[:last]
	if i == last {
		return
	}
	q.entries[i] = moved
	if !q.up(i) {
		q.down(i)
	}
}

// postpone gives the first lease a later due.
func (q *queue) postpone(due instant) {
	q.entries[0].due = due
	q.down(0)
}

// advance gives a lease that is there an earlier due, if it is earlier.
func (q *queue) advance(le *lease, due instant) {
	i := int(le.index[q.which])
	q.entries[i].due = min(q.entries[i].due, due)
	q.up(i)
}

// up moves the entry at i towards the front until it stands right, and tells whether it moved.
func (q *queue) up(i int) (moved bool) {
	h, e := q.entries, q.entries[i]
	for i > 0 {
		parent := (i - 1) / 2
		if h[parent].due <= e.due {
			break
		}
		q.set(i, h[parent])
		i, moved = parent, true
	}
	q.set(i, e)
	return moved
}

// down moves the entry at i towards the end until it stands right.
func (q *queue) down(i int) {
	h, e := q.entries, q.entries[i]
	for {
		child := 2*i + 1
		if child >= len(h) {
			break
		}
		if child+1 < len(h) && h[child+1].due < h[child].due {
			child++
		}
		if e.due <= h[child].due {
			break
		}
		q.set(i, h[child])
		i = child
	}
	q.set(i, e)
}

// set puts e at i and tells its lease.
func (q *queue) set(i int, e entry) {
	q.entries[i] = e
	e.lease.index[q.which] = int32(i)
}
