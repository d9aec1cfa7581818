package fair

import "container/heap"

// account is what the pool knows of those who hold slots or wait for them. The pool's lock guards it.
type account[ID comparable] struct {
	who    ID
	weight int
	inUse  int
	tag    float64 // up to when the pool's clock showed at
	at     float64
	queue  queue[ID]
	index  int // in byTag; -1 while nothing waits
}

// settle charges a for the slots that it held until now.
func (a *account[ID]) settle(now float64) {
	a.tag += float64(a.inUse) * (now - a.at) / float64(a.weight)
	a.at = now
}

// below tells whether a holds less than its share of the slots, when weights is that of all accounts.
func (a *account[ID]) below(slots, weights int) bool {
	return int64(a.inUse)*int64(weights) < int64(slots)*int64(a.weight)
}

// byTag is the accounts for which something waits, as a heap with the lowest tag first.
type byTag[ID comparable] []*account[ID]

func (h byTag[ID]) Len() int           { return len(h) }
func (h byTag[ID]) Less(i, j int) bool { return h[i].tag < h[j].tag }

func (h byTag[ID]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push is part of heap.Interface.
func (h *byTag[ID]) Push(x any) {
	a := x.(*account[ID])
	a.index = len(*h)
	*h = append(*h, a)
}

// Pop is part of heap.Interface.
func (h *byTag[ID]) Pop() any {
	old := *h
	a := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	a.index = -1
	return a
}

func (h *byTag[ID]) add(a *account[ID])    { heap.Push(h, a) }
func (h *byTag[ID]) remove(a *account[ID]) { heap.Remove(h, a.index) }
func (h *byTag[ID]) fix(a *account[ID])    { heap.Fix(h, a.index) }
