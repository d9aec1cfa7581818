package lease

// queue is a binary heap of leases by the time at which each is to be looked at next: queue[0] is the first one.
//
// Not container/heap: with the times beside the pointers a move reads no lease, which halves its cost with a million leases,
// and nothing is boxed.
type queue []entry

type entry struct {
	due   instant // at most lease.expiry, or when to name an expired lease again
	lease *lease
}

// reset empties the queue and makes room for n leases.
func (q *queue) reset(n int) { *q = make(queue, 0, n) }

// push adds a lease.
func (q *queue) push(le *lease, due instant) {
	*q = append(*q, entry{due, le})
	q.up(len(*q) - 1)
}

// remove takes out the entry at i.
func (q *queue) remove(i int) {
	old, last := *q, len(*q)-1
	moved := old[last]
	old[last] = entry{} // let go of the lease
	*q = old[:last]
	if i == last {
		return
	}
	old[i] = moved
	if !q.up(i) {
		q.down(i)
	}
}

// postpone gives the first lease a later due.
func (q *queue) postpone(due instant) {
	(*q)[0].due = due
	q.down(0)
}

// up moves the entry at i towards the front until it stands right, and tells whether it moved.
func (q *queue) up(i int) (moved bool) {
	h, e := *q, (*q)[i]
	for i > 0 {
		parent := (i - 1) / 2
		if h[parent].due <= e.due {
			break
		}
		h.set(i, h[parent])
		i, moved = parent, true
	}
	h.set(i, e)
	return moved
}

// down moves the entry at i towards the end until it stands right.
func (q *queue) down(i int) {
	h, e := *q, (*q)[i]
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
		h.set(i, h[child])
		i = child
	}
	h.set(i, e)
}

// set puts e at i and tells its lease.
func (q queue) set(i int, e entry) {
	q[i] = e
	e.lease.index = i
}
