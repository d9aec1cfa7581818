package coretest

import (
	"container/heap"
	"time"
)

// clock is the cluster's time, and what is to happen in it. It jumps from one event to the next; two at the same time happen in the
// order in which they were planned.
type clock struct {
	now     time.Duration // since the cluster was made
	planned events
	count   uint64
}

type event struct {
	at    time.Duration
	order uint64
	do    func()
}

func (c *clock) after(d time.Duration, do func()) {
	c.count++
	heap.Push(&c.planned, event{c.now + d, c.count, do})
}

// next is what happens now, nil if that is later than a time.
func (c *clock) next(until time.Duration) func() {
	if len(c.planned) == 0 || c.planned[0].at > until {
		c.now = max(c.now, until)
		return nil
	}
	e := heap.Pop(&c.planned).(event)
	c.now = e.at
	return e.do
}

// events is a heap; see container/heap.
type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].order < e[j].order
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	(*e)[last] = event{}
	*e = (*e)[:last]
	return x
}
