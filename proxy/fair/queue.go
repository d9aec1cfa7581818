package fair

// queue is the calls of one account that wait, in the order in which they came.
type queue[ID comparable] struct {
	first, last *waiter[ID]
	calls       int
	bytes       int64
}

// waiter is one call that waits.
type waiter[ID comparable] struct {
	account    *account[ID]
	bytes      int64
	granted    chan struct{} // closed with the slot given
	next, prev *waiter[ID]
}

func (q *queue[ID]) push(w *waiter[ID]) {
	w.prev = q.last
	if q.last == nil {
		q.first = w
	} else {
		q.last.next = w
	}
	q.last = w
	q.calls++
	q.bytes += w.bytes
}

func (q *queue[ID]) remove(w *waiter[ID]) {
	if w.prev == nil {
		q.first = w.next
	} else {
		w.prev.next = w.next
	}
	if w.next == nil {
		q.last = w.prev
	} else {
		w.next.prev = w.prev
	}
	w.next, w.prev = nil, nil
	q.calls--
	q.bytes -= w.bytes
}
