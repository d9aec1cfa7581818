package coalesce

// pingClient is a client that has pings here. Its sinks have the client's turns among them. Keepalives.mu guards it.
type pingClient struct {
	key   any // PingSink.Client
	sinks int // that have pings here
	open  int // pings that have no answer
	lines [pingQueues]clientLine
}

// pinger is a sink that has pings here. Keepalives.mu guards it.
type pinger struct {
	sink   PingSink
	client *pingClient
	open   int // its pings that have no answer, those included that it shares
	held   int // pings in its lines
	lines  [pingQueues]pingLine
}

// pingQueues is how many queues there are: of each lane, and of the look-ups.
const pingQueues = pingLanes + 1

// clientLine is the sinks of one client in one queue.
type clientLine struct {
	sinks nextTurns[pingLine] // whose pings wait
	out   int                 // pings of theirs that were taken, no more than pingPlaces.ofSink counted of each
	n     int                 // that wait
	turn  turn[clientLine]
}

// pingLine is the pings of one sink in one queue: those that wait, and those that were taken and are not done with.
type pingLine struct {
	queue   *pingQueue
	owner   *pinger
	waiting pingList // by arrival
	out     int      // pings that were taken
	turn    turn[pingLine]
}

// pingQueue gives each client its turn, one ping at a time, and each sink of a client those of the client. So who has many pings has
// them wait behind one another, and not before those of others, on however many streams; and many who are taken for one client,
// because they come from one address, are not at the mercy of each other. A ping that is shared is its first sink's, unless it would be
// the next one of another client. Keepalives.mu guards it.
//
// Pings that are out take places. A client has a share of these, and a sink a share of the client's. What nobody else wants of the
// places they may have too, but that does not count: who has less than his share finds places left, as if nobody had more. So no more
// are out than twice as many as there are places, and no place is empty while a ping waits. Rejected: shares that are bounds, which
// leave half of the places empty where all clients are one; and to have who wants his share wait until a place that was lent is given
// back, which for leases that have expired takes as long as nobody revokes them.
type pingQueue struct {
	index   int // of its lines
	places  pingPlaces
	clients nextTurns[clientLine] // whose pings wait
	out     int                   // pings that were taken
	counted int                   // of them, no more than places.ofClient of each client
	n       int                   // pings that wait
	trouble error                 // what they may be waiting for
}

// pingPlaces are the places for pings that are out: all, and the shares of a client and of a sink. That of a sink is smaller where one
// may be out for long, so that one sink leaves some to the others of its client.
type pingPlaces struct{ all, ofClient, ofSink int }

// isEmpty tells whether nobody may have a turn.
func (q *pingQueue) isEmpty() bool { return q.next() == nil }

// next is the ring of the clients who have the next turns; nil if nobody may have one.
func (q *pingQueue) next() *turns[clientLine] {
	switch {
	case q.clients.within.first != nil && q.counted < q.places.all:
		return &q.clients.within
	case q.clients.beyond.first != nil && q.out < q.places.all:
		return &q.clients.beyond
	}
	return nil
}

// add puts p into the line of its sink.
func (q *pingQueue) add(p *ping) {
	l := &p.owner.lines[q.index]
	l.queue, l.owner = q, p.owner
	l.waiting.add(p)
	p.line = l
	p.owner.held++
	q.clientLine(l).n++
	q.n++
	q.settle(l)
}

// isFree tells whether a ping of a client would be its next one, at the client's next turn.
func (q *pingQueue) isFree(c *pingClient) bool {
	l := &c.lines[q.index]
	return l.n == 0 && l.out < q.places.ofSink
}

// take returns the ping of the sink whose turn it is, which is then out; nil if there is none.
func (q *pingQueue) take() *ping {
	next := q.next()
	if next == nil {
		return nil
	}
	c := next.take()
	l := c.sinks.take()
	p := l.waiting.pop()
	p.out = true
	q.count(l, 1)
	c.n--
	q.n--
	q.settle(l)
	return p
}

// remove takes a ping of l away that waits, or is out.
func (q *pingQueue) remove(l *pingLine, p *ping) {
	if p.out {
		q.count(l, -1)
	} else {
		l.waiting.remove(p)
		q.clientLine(l).n--
		q.n--
	}
	p.line, p.out = nil, false
	q.settle(l)
}

// count counts one more ping of l that is out, or with -1 one less.
func (q *pingQueue) count(l *pingLine, more int) {
	c := q.clientLine(l)
	ofSink, ofClient := min(l.out, q.places.ofSink), min(c.out, q.places.ofClient)
	l.out += more
	q.out += more
	c.out += min(l.out, q.places.ofSink) - ofSink
	q.counted += min(c.out, q.places.ofClient) - ofClient
}

// settle gives the sink of l, and its client, the turns that they may have.
func (q *pingQueue) settle(l *pingLine) {
	c := q.clientLine(l)
	c.sinks.set(&l.turn, l, l.waiting.n > 0, l.out < q.places.ofSink)
	q.clients.set(&c.turn, c, c.n > 0, c.sinks.within.first != nil && c.out < q.places.ofClient)
}

// clientLine is that of the client of l's sink.
func (q *pingQueue) clientLine(l *pingLine) *clientLine { return &l.owner.client.lines[q.index] }

// nextTurns are those who want turns: those who have less than their share, who come first, and the others.
type nextTurns[T any] struct{ within, beyond turns[T] }

// take returns whose turn it is; nil if there is nobody.
func (r *nextTurns[T]) take() *T {
	if r.within.first != nil {
		return r.within.take()
	}
	return r.beyond.take()
}

// set has t, which is of somebody, in the ring where it belongs, if it wants turns. The turn of who comes into a ring comes last.
func (r *nextTurns[T]) set(t *turn[T], of *T, wants, within bool) {
	r.within.set(t, of, wants && within)
	r.beyond.set(t, of, wants && !within)
}

// turns is a ring of those who have their turns one after another. The zero value is empty.
type turns[T any] struct{ first *turn[T] }

// turn is somebody's place in a ring. The zero value is in none.
type turn[T any] struct {
	of         *T
	ring       *turns[T]
	next, prev *turn[T]
}

// take returns whose turn it is, whose next one comes last; nil if there is nobody.
func (r *turns[T]) take() *T {
	if r.first == nil {
		return nil
	}
	of := r.first.of
	r.first = r.first.next
	return of
}

// set has t, which is of somebody, in r, and in no other ring; or not in r.
func (r *turns[T]) set(t *turn[T], of *T, in bool) {
	switch isIn := t.ring == r; {
	case in == isIn:
	case in:
		t.leave()
		if *t = (turn[T]{of, r, t, t}); r.first == nil {
			r.first = t
			return
		}
		t.next, t.prev = r.first, r.first.prev
		t.prev.next, t.next.prev = t, t
	default:
		t.leave()
	}
}

// leave takes t out of the ring that it is in.
func (t *turn[T]) leave() {
	r := t.ring
	switch {
	case r == nil:
		return
	case t.next == t:
		r.first = nil
	case r.first == t:
		r.first = t.next
	}
	t.prev.next, t.next.prev = t.next, t.prev
	*t = turn[T]{}
}

// client returns that of a sink, and nil if it has no pings. k.mu is held.
func (k *Keepalives) client(s PingSink) *pingClient {
	if p := k.pingers[s]; p != nil {
		return p.client
	}
	return k.clients[clientKey(s)]
}

func clientKey(s PingSink) any {
	if key := s.Client(); key != nil {
		return key
	}
	return s
}

// pinger returns what is noted of a sink, if need be from now on. k.mu is held.
func (k *Keepalives) pinger(s PingSink) *pinger {
	if p := k.pingers[s]; p != nil {
		return p
	}
	key := clientKey(s)
	c := k.clients[key]
	if c == nil {
		c = k.spareClients.get()
		c.key = key
		k.clients[key] = c
	}
	c.sinks++
	p := k.sparePingers.get()
	p.sink, p.client = s, c
	k.pingers[s] = p
	return p
}

// leave takes p out of the queue that it is in, or was taken from, if there is one. k.mu is held.
func (k *Keepalives) leave(p *ping) {
	if p.line == nil {
		return
	}
	l := p.line
	l.queue.remove(l, p)
	l.owner.held--
	k.forget(l.owner)
}

// forget forgets p, if it has no pings. k.mu is held.
func (k *Keepalives) forget(p *pinger) {
	if p.open > 0 || p.held > 0 {
		return
	}
	delete(k.pingers, p.sink)
	c := p.client
	k.sparePingers.put(p)
	if c.sinks--; c.sinks == 0 {
		delete(k.clients, c.key)
		k.spareClients.put(c)
	}
}

// spares are what is kept to be used again: few sinks have pings at any time, and each for a moment.
type spares[T any] []*T

// maxSpare bounds each kind of them.
const maxSpare = 64

func (s *spares[T]) get() *T {
	last := len(*s) - 1
	if last < 0 {
		return new(T)
	}
	v := (*s)[last]
	*s = (*s)[:last]
	return v
}

func (s *spares[T]) put(v *T) {
	var none T
	*v = none
	if len(*s) < maxSpare {
		*s = append(*s, v)
	}
}
