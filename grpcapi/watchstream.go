package grpcapi

import (
	"errors"
	"net/http"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"weir/cache"
	"weir/coalesce"
	"weir/grpcapi/wire"
)

// watchStream sends the responses of one Watch RPC. It is the sink of its watches.
//
// Responses come from the hub's goroutines and from the RPC's own, and grpc allows one SendMsg at a time. Who finds
// nobody sending, sends; who finds the stream busy leaves its response in the queue, in order, for the sender in
// progress. So there is no goroutine and no channel to send for each stream, which would cost more than the sending.
//
// SendMsg hands a message to the transport, and blocks only when about 64 KiB of the stream have not been written
// yet. To never block in it, bytes in flight are counted, and at inflightLimit nobody sends any more. Then
//
//   - events are refused: their watchers fall behind, keep their revision and are brought up to date by the hub when
//     half of it has been written;
//   - the client's requests are no longer read and handled, so that answers to them cannot pile up;
//   - the few answers of others wait in the queue, and a goroutine is started for them when there is room.
//
// That bounds what a slow client can pin in memory to inflightLimit and one more response, and maxQueuedRequests and one
// more request; and see maxAllQueuedRequests.
type watchStream struct {
	service *watchService
	grpc    grpc.ServerStream
	hub     *coalesce.Stream
	visit   wire.Visit // nil without a Gate
	limit   int        // of bytes in flight
	over    chan error // has an element when the stream is ended from within
	nextID  int64      // of whoever handles requests

	namespace namespace // of the client; what is said of keys below is of upstream's

	session *cache.Session // of the client's connection, told each revision that a header states; nil if there is none
	era     uint64         // as of the stream's opening; a watch may be of a later one

	mu           sync.Mutex // guards the fields below
	changed      sync.Cond  // of mu: there is room, sending has become false or closed true, or a request has been handled
	user         string     // whom the client is; "" as long as no watch was permitted to somebody
	watches      watchSet
	watchBytes   int // of all watches
	announced    int // watches ever announced to the client
	requests     []watchRequest
	requestBytes int       // of requests, and of the one that is being handled
	first, last  *outgoing // the queue
	queued       int       // bytes in the queue
	inflight     int       // bytes given to the transport and not known to be written
	unmarked     int       // how many of them have no marker behind them yet
	taken        stall
	sending      bool // somebody is in SendMsg, and will send what is queued
	refused      bool // the hub waits for Drained
	handling     bool // there is a goroutine that handles requests
	closed       bool // nothing is sent any more
	stopTicking  func() bool
}

// inflightLimit leaves 16 KiB to grpc's 64, because one more response is sent when it is nearly reached.
const inflightLimit = 48 << 10

// frameHeader is what grpc puts before each message.
const frameHeader = 5

// newWatchStream has no visit where there is no Gate.
func newWatchStream(w *watchService, gs grpc.ServerStream, visit wire.Visit) *watchStream {
	s := &watchStream{
		service: w,
		grpc:    gs,
		visit:   visit,
		limit:   inflightLimit,
		over:    make(chan error, 1),
	}
	s.changed.L = &s.mu
	if visit != nil {
		s.namespace = namespace(visit.Namespace())
	}
	if w.cfg.era != nil {
		s.session, s.era = sessionOf(gs.Context()), w.cfg.era() // before the hub knows of the stream
	}
	s.hub = w.hub.NewStream(s)
	if gs.Context().Value(http.ServerContextKey) != nil {
		s.limit = 1 // net/http's transport blocks as soon as one message is unwritten
	} else if w.slow != nil {
		w.slow.add(s)
	}
	return s
}

// end has the RPC end with err, unless it is ending already. Nothing more is sent.
func (s *watchStream) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endNow(err)
}

// endNow is end with s.mu held.
func (s *watchStream) endNow(err error) {
	select {
	case s.over <- err:
	default:
	}
	s.closed = true
	s.changed.Broadcast()
}

// close ends all watches and waits for the sender in progress. A request that is being handled finds the stream closed.
func (s *watchStream) close() {
	if s.service.slow != nil {
		s.service.slow.remove(s)
	}
	s.hub.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.changed.Broadcast()
	s.service.watchBytes.Add(int64(-s.watchBytes))
	s.watchBytes, s.watches = 0, watchSet{}
	if s.stopTicking != nil {
		s.stopTicking()
	}
	for s.sending {
		s.changed.Wait()
	}
}

// headerNow is the header of a response that is not about events. Its revision is not below any that this stream
// has been sent.
func (s *watchStream) headerNow() wire.Header {
	h := s.service.header()
	h.Revision = max(h.Revision, s.service.hub.Revision())
	return h
}

// headerSince is the header of an answer to a request. Its revision is not below any that the client had been told of, on
// whatever connection to the same member, when it sent the request; if upstream cannot say now where it is, on this
// connection.
func (s *watchStream) headerSince(since coalesce.Arrival) wire.Header {
	h := s.service.header()
	h.Revision = max(h.Revision, s.service.hub.Now(s.grpc.Context(), since), s.session.Floor(s.era))
	return h
}

// Created is part of coalesce.Sink. The announcement is on its way before any event is.
func (s *watchStream) Created(w *coalesce.Watcher, now int64) {
	h := s.service.header()
	h.Revision = now
	s.mu.Lock()
	e, ok := s.watches.find(w)
	if !ok { // the stream is closed
		s.mu.Unlock()
		return
	}
	s.session.Told(e.era, now)
	s.announced++
	w.Open = true
	o := s.response(h, w.ID)
	o.head = wire.AppendWatchCreated(o.head)
	s.enqueue(o.add(nil, 0))
	revoked := s.endIfRevoked(w, h) // since it was permitted; from now on Recheck sees to it
	s.send()
	if revoked {
		s.hub.Cancel(w)
	}
}

// Ended is part of coalesce.Sink.
func (s *watchStream) Ended(err error) { s.end(err) }

// Deliver is part of coalesce.Sink.
func (s *watchStream) Deliver(w *coalesce.Watcher, m *coalesce.Message) bool {
	m, err := s.namespace.inside(m)
	if err != nil {
		s.end(err)
		return true
	}
	shared := s.service.shared(w, m)
	s.mu.Lock()
	e, ok := s.watches.find(w)
	switch {
	case s.closed || !ok:
		s.mu.Unlock()
		return true
	case !s.hasRoom():
		s.refused = true
		s.mu.Unlock()
		return false
	}
	s.session.Told(e.era, m.Revision)
	if shared != nil && !s.sending && s.first == nil {
		s.sending = true
		s.transmit(&shared.message, shared.size)
		s.sendQueue()
		s.mu.Unlock()
		return true
	}
	h := s.service.header()
	h.Revision = m.Revision
	body, size := m.Body()
	if o := s.response(h, w.ID); !w.Fragment || len(o.head)+size < s.service.cfg.maxResponseBytes {
		o.add(body, size)
		s.enqueue(o)
	} else {
		s.enqueueFragments(h, w.ID, m)
	}
	s.send()
	return true
}

// enqueueFragments splits m where etcd does: before the event with which a response would reach the limit.
func (s *watchStream) enqueueFragments(h wire.Header, id int64, m *coalesce.Message) {
	var prefix [maxEventPrefix]byte
	for events := m.Events; len(events) > 0; {
		o := s.response(h, id)
		size, n := len(o.head)+fragmentFlag, 0
		for n < len(events) {
			event := events[n].Size(m.PrevKV)
			size += len(wire.AppendEventPrefix(prefix[:0], event)) + event
			if n > 0 && size >= s.service.cfg.maxResponseBytes {
				break
			}
			n++
		}
		if n < len(events) {
			o.head = wire.AppendWatchFragment(o.head)
		}
		o.add(coalesce.EncodeEvents(events[:n], m.PrevKV))
		s.enqueue(o)
		events = events[n:]
	}
}

const (
	fragmentFlag   = 2 // bytes of the field fragment
	maxEventPrefix = 1 + 10
)

// Progress is part of coalesce.Sink.
func (s *watchStream) Progress(w *coalesce.Watcher, rev int64, watches int) bool {
	h := s.service.header()
	h.Revision = rev
	s.mu.Lock()
	id, era := int64(noWatchID), s.era
	if w == nil {
		if s.announced != watches {
			s.mu.Unlock()
			return false
		}
	} else {
		e, ok := s.watches.find(w)
		if !ok || !s.hasRoom() {
			s.mu.Unlock()
			return true // nobody waits for this one; the next will do
		}
		id, era = w.ID, e.era
	}
	s.session.Told(era, rev)
	s.enqueue(s.response(h, id).add(nil, 0))
	s.send()
	return true
}

// Canceled is part of coalesce.Sink. For a compacted watch etcd states no revision in the header, gives no reason,
// and goes on regarding the id as taken until the client cancels it.
func (s *watchStream) Canceled(w *coalesce.Watcher, reason error) {
	h := s.headerNow()
	s.mu.Lock()
	e, ok := s.watches.find(w)
	if !ok {
		s.mu.Unlock()
		return
	}
	var compacted *coalesce.CompactedError
	var o *outgoing
	if errors.As(reason, &compacted) && compacted.Reason == "" {
		h.Revision = 0
		w.Open = false
		o = s.response(h, w.ID)
		o.head = wire.AppendWatchCanceled(o.head, compacted.CompactRevision, "")
	} else {
		var from int64 // where the client can go on
		if compacted != nil {
			from = compacted.CompactRevision
		}
		s.forget(w.ID)
		s.session.Told(e.era, h.Revision)
		o = s.response(h, w.ID)
		o.head = wire.AppendWatchCanceled(o.head, from, reason.Error())
	}
	s.enqueue(o.add(nil, 0))
	s.send()
}

// post sends a response without events.
func (s *watchStream) post(head []byte) {
	o := &outgoing{stream: s, head: head}
	s.mu.Lock()
	s.enqueue(o.add(nil, 0))
	s.send()
}

// await waits until the stream is ready, which is called with s.mu held. It returns false when the stream has ended.
func (s *watchStream) await(ready func() bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.closed && !ready() {
		s.changed.Wait()
	}
	return !s.closed
}

// written is called by the transport, which must not be kept, when n bytes are no longer in flight.
func (s *watchStream) written(n int) {
	s.mu.Lock()
	s.inflight -= n
	s.taken.count++
	low := s.inflight+s.queued <= s.limit/2
	drained := low && s.refused
	if drained {
		s.refused = false
	}
	resume := s.first != nil && !s.sending && !s.closed && s.inflight <= s.limit/2
	if resume {
		s.sending = true
	}
	if low {
		s.changed.Broadcast()
	}
	s.mu.Unlock()

	if drained {
		s.hub.Drained()
	}
	if resume {
		go s.resume()
	}
}

// The functions below are called with s.mu held.

func (s *watchStream) hasRoom() bool { return s.inflight+s.queued < s.limit }

// forget takes a watch away and returns it, or the zero entry if there is none.
func (s *watchStream) forget(id int64) watchEntry {
	e := s.watches.remove(id)
	s.watchBytes -= e.bytes
	s.service.watchBytes.Add(int64(-e.bytes))
	if s.visit != nil && e.watcher != nil {
		s.visit.Unwatch()
	}
	return e
}

func (s *watchStream) enqueue(o *outgoing) {
	if s.last == nil {
		s.first = o
	} else {
		s.last.next = o
	}
	s.last = o
	s.queued += o.size
}

// send sends what is in the queue, unless somebody else is at it. It releases s.mu.
func (s *watchStream) send() {
	if !s.sending {
		s.sending = true
		s.sendQueue()
	}
	s.mu.Unlock()
}

// resume is send in a goroutine of its own, for which s.sending has been set.
func (s *watchStream) resume() {
	s.mu.Lock()
	s.sendQueue()
	s.mu.Unlock()
}

// sendQueue sends until the queue is empty or the limit is reached. It releases s.mu while it sends. After a
// limit's worth of others' responses it hands over to a goroutine, since its caller may serve other streams.
func (s *watchStream) sendQueue() {
	for sent := 0; s.first != nil && s.inflight < s.limit && !s.closed; {
		if sent >= s.limit {
			go s.resume()
			return
		}
		o := s.first
		if s.first = o.next; s.first == nil {
			s.last = nil
		}
		s.queued -= o.size
		sent += o.size
		s.transmit(&o.message, o.size)
	}
	s.sending = false
	s.changed.Broadcast()
}

// transmit gives a message to the transport. s.sending has been set. It releases s.mu meanwhile.
func (s *watchStream) transmit(message *mem.BufferSlice, size int) {
	s.inflight += size
	if s.unmarked += size; s.unmarked >= s.markStep() {
		marked := append(slices.Clip(*message), mem.NewBuffer(&s.service.marker, &mark{s, s.unmarked}))
		message, s.unmarked = &marked, 0
	}
	s.mu.Unlock()
	err := s.grpc.SendMsg(message)
	s.mu.Lock()
	if err != nil { // the RPC has ended, as its own goroutine will notice
		s.closed = true
	}
}

// markStep is after how many bytes in flight a marker is put. They cost more than a small response, and what is in
// flight need not be known exactly, unless it is to be known whether the client takes anything at all.
func (s *watchStream) markStep() int {
	if s.service.slow != nil {
		return 0
	}
	return s.limit / 8
}

// mark is the pool of an empty buffer at the end of a message: grpc gives the buffer back when it has written the
// message, and so tells how much is in flight. grpc does so only for buffers of more than 1 KiB capacity, hence the
// marker, which all share.
type mark struct {
	stream *watchStream
	bytes  int // that have been written when it has been
}

const markerCap = 2 << 10

// Get is part of mem.BufferPool. Nobody calls it.
func (m *mark) Get(int) *[]byte { return &m.stream.service.marker }

// Put is part of mem.BufferPool: what is before the marker has been written, or never will be.
func (m *mark) Put(*[]byte) { m.stream.written(m.bytes) }

// outgoing is one response on its way.
type outgoing struct {
	stream  *watchStream
	next    *outgoing // in the queue
	size    int       // as counted in flight
	message mem.BufferSlice

	// What message is made of, here to spare allocations.
	head    mem.SliceBuffer
	buffers [3]mem.Buffer
	room    [48]byte // for head
}

// response begins a response with a header and a watch id.
func (s *watchStream) response(h wire.Header, id int64) *outgoing {
	o := &outgoing{stream: s}
	o.head = wire.AppendWatchHead(o.room[:0], h, id)
	return o
}

// add ends a response with its events.
func (o *outgoing) add(body mem.BufferSlice, size int) *outgoing {
	o.size = frameHeader + len(o.head) + size
	if size > takenStep && o.stream.service.slow != nil {
		body = o.stream.inSteps(body)
	}
	o.message = append(append(o.buffers[:0], &o.head), body...)
	return o
}
