package coalesce

import (
	"slices"
	"testing"
)

// queueModel is what a pingQueue is to do: each client has its turn after all others that may have one, and so has each of a client's
// sinks among these. Who has less than his share comes first, and what others have beyond theirs takes no place from him.
type queueModel struct {
	places  pingPlaces
	owners  []pinger  // sinks, those of one client after another
	waiting [][]*ping // of owners
	out     []*ping
	clients modelTurns[*pingClient]
	sinks   map[*pingClient]*modelTurns[int]
}

// modelTurns are those who want turns, in order.
type modelTurns[T comparable] struct{ within, beyond []T }

func (r *modelTurns[T]) set(v T, wants, within bool) {
	r.within = inOrder(r.within, v, wants && within)
	r.beyond = inOrder(r.beyond, v, wants && !within)
}

// take has the first of a ring, which is within if that has any, take his turn.
func (r *modelTurns[T]) take() (v T) {
	ring := &r.within
	if len(*ring) == 0 {
		ring = &r.beyond
	}
	v = (*ring)[0]
	*ring = append((*ring)[1:], v)
	return v
}

func newQueueModel(clients, sinks int, places pingPlaces) *queueModel {
	m := &queueModel{
		places: places, owners: make([]pinger, sinks), waiting: make([][]*ping, sinks), sinks: map[*pingClient]*modelTurns[int]{},
	}
	all := make([]pingClient, clients)
	for i := range m.owners {
		m.owners[i].client = &all[i%clients]
		m.sinks[m.owners[i].client] = &modelTurns[int]{}
	}
	return m
}

// outOf is how many pings of a sink are out.
func (m *queueModel) outOf(sink *pinger) (n int) {
	for _, p := range m.out {
		if p.owner == sink {
			n++
		}
	}
	return n
}

// countOf is how many of a client count.
func (m *queueModel) countOf(c *pingClient) (n int) {
	for i := range m.owners {
		if sink := &m.owners[i]; sink.client == c {
			n += min(m.outOf(sink), m.places.ofSink)
		}
	}
	return n
}

// count is how many of all count.
func (m *queueModel) count() (n int) {
	for c := range m.sinks {
		n += min(m.countOf(c), m.places.ofClient)
	}
	return n
}

// settle brings the orders up to date with what has happened to a sink. Who comes into one comes last.
func (m *queueModel) settle(sink int) {
	c := m.owners[sink].client
	sinks := m.sinks[c]
	sinks.set(sink, len(m.waiting[sink]) > 0, m.outOf(&m.owners[sink]) < m.places.ofSink)
	m.clients.set(c, len(sinks.within)+len(sinks.beyond) > 0, len(sinks.within) > 0 && m.countOf(c) < m.places.ofClient)
}

// isEmpty is what pingQueue.isEmpty is to return.
func (m *queueModel) isEmpty() bool {
	if len(m.clients.within) > 0 {
		return m.count() >= m.places.all
	}
	return len(m.clients.beyond) == 0 || len(m.out) >= m.places.all
}

// inOrder is all with v in it or not.
func inOrder[T comparable](all []T, v T, in bool) []T {
	switch at := slices.Index(all, v); {
	case in && at < 0:
		return append(all, v)
	case !in && at >= 0:
		return slices.Delete(all, at, at+1)
	}
	return all
}

// take is what pingQueue.take is to return.
func (m *queueModel) take() *ping {
	if m.isEmpty() {
		return nil
	}
	sink := m.sinks[m.clients.take()].take()
	p := m.waiting[sink][0]
	m.waiting[sink] = m.waiting[sink][1:]
	m.out = append(m.out, p)
	m.settle(sink)
	return p
}

// sinkOf is the number of the sink of p.
func (m *queueModel) sinkOf(p *ping) (sink int) {
	for &m.owners[sink] != p.owner {
		sink++
	}
	return sink
}

func TestPingQueueGivesEachClientAndEachOfItsSinksTheirTurns(t *testing.T) {
	rnd := newTestRand(t)
	places := pingPlaces{all: 8, ofClient: 5, ofSink: 3}
	q, m := pingQueue{places: places}, newQueueModel(3, 7, places)
	beyond := 0
	for step := range 100_000 {
		i := rnd.IntN(len(m.owners))
		switch rnd.IntN(4) {
		case 0:
			p := newPing(int64(step), asker{owner: &m.owners[i], arrived: instant(step)})
			q.add(p)
			m.waiting[i] = append(m.waiting[i], p)
			m.settle(i)
		case 1:
			if got, want := q.take(), m.take(); got != want {
				t.Fatalf("step %d: took %+v, want %+v", step, got, want)
			}
			if q.out > places.all {
				beyond++
			}
		case 2:
			if len(m.out) > 0 {
				at := rnd.IntN(len(m.out))
				p := m.out[at]
				q.remove(p.line, p)
				m.out = slices.Delete(m.out, at, at+1)
				m.settle(m.sinkOf(p))
			}
		case 3:
			if n := len(m.waiting[i]); n > 0 && rnd.IntN(4) == 0 {
				at := rnd.IntN(n)
				q.remove(m.waiting[i][at].line, m.waiting[i][at])
				m.waiting[i] = slices.Delete(slices.Clone(m.waiting[i]), at, at+1)
				m.settle(i)
			}
		}
		n := 0
		for _, w := range m.waiting {
			n += len(w)
		}
		if q.n != n || q.isEmpty() != m.isEmpty() || q.out >= 2*places.all {
			t.Fatalf("step %d: %d wait, want %d; empty %v; %d are out", step, q.n, n, q.isEmpty(), q.out)
		}
	}
	if beyond == 0 {
		t.Error("nobody had places when others had taken all")
	}
}
