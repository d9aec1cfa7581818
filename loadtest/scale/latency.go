package scale

import "math"

// queue is a server seen as one queue: batches come at random, and each takes it equally long. All cores are taken to share the work of
// a batch, but for what one goroutine does.
//
// That is the M/D/1 queue, whose mean wait is the formula of Pollaczek and Khinchine (L. Kleinrock, Queueing Systems, volume 1,
// 1975, section 5.6). It stands for writers who know nothing of each other; the load of the checks comes at a steady pace, and waits
// less.
type queue struct {
	took float64 // milliseconds, for a batch, until the last watcher was sent it
	busy float64 // part of the time; from 1 on the wait has no end
}

// wait is the mean time that a batch waits for those before it.
func (q queue) wait() float64 {
	if q.busy >= 1 {
		return math.Inf(1)
	}
	return q.took * q.busy / (2 * (1 - q.busy))
}

// wait99 is what 99 in 100 batches wait at most. Of those that wait at all, which a part of busy does, the wait is taken to be
// exponentially distributed, as it is when the queue is long.
func (q queue) wait99() float64 {
	const tail = 0.01
	if q.busy <= tail {
		return 0
	}
	return q.wait() / q.busy * math.Log(q.busy/tail)
}

// p50 and p99 are what the server adds to the latency of an event: the wait, and until the watcher's turn comes.
func (q queue) p50() float64 { return q.wait() + 0.50*q.took }
func (q queue) p99() float64 { return q.wait99() + 0.99*q.took }
