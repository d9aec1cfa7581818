package coalesce

import (
	"sync/atomic"
)

// Sink is one client's stream of messages. Its methods must not wait for the client. They are called without locks
// held, for one watcher by one goroutine at a time, for different watchers concurrently. They may call the Stream's
// methods.
type Sink interface {
	// Deliver takes m for w, or returns false when the client has not yet taken enough of what it was sent. Then
	// nothing of m was taken, and the Sink calls Stream.Drained as soon as there is room again. A watcher that
	// was ended while the call was on its way is for the Sink to recognise; it takes m and drops it.
	Deliver(w *Watcher, m *Message) bool
	// Progress tells that everything up to rev has been delivered: to the watcher w, or, when w is nil, to every
	// watcher of the stream, of which there have ever been `watches`. If the Sink has announced more to its client,
	// the client would take rev to hold for those as well: then it returns false and is asked again.
	Progress(w *Watcher, rev int64, watches int) bool
	// Canceled tells that w is ended by the hub: with a *CompactedError, ErrHubClosed or an error of Source. Nothing
	// more is delivered to w. The Sink ignores it for a watcher that it has cancelled itself.
	Canceled(w *Watcher, reason error)
}

// Stream is the watchers of one client's stream. All methods may be called concurrently, and none of them waits
// for a client or for history.
type Stream struct {
	hub  *Hub
	sink Sink

	drained atomic.Uint32 // calls of Drained

	// Guarded by hub.mu.
	watchers []*Watcher
	watches  int         // calls of Watch
	behind   int         // watchers that may lack what live ones have been sent
	served   int         // watchers that take part in resyncing
	full     bool        // the Sink refused a message and has not drained since
	held     watcherList // watchers that wait for room; if there are any, the stream is full or served == streamWindow
	early    watcherList // live watchers whose next revision was in the future when they became live
	asking   bool        // is in hub.asking
	requests int         // of RequestProgress, not yet answered
	wanted   int64       // the revision that the answer must have reached
	notify   bool        // NotifyProgress was called
	closed   bool
}

// streamWindow is how many watchers of one stream take part in resyncing at a time. More would only be refused when the
// stream is full again, over and over, and keep the resyncers from other streams.
const streamWindow = 64

// maxProgressRequests bounds the answers that a stream owes to RequestProgress. etcd, too, drops those that it
// cannot store, and stores 128.
const maxProgressRequests = 128

// NewStream registers a client's stream. It must be closed.
func (h *Hub) NewStream(sink Sink) *Stream {
	s := &Stream{hub: h, sink: sink}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.streams[s] = struct{}{}
	return s
}

// Watch starts w, which must be new. Events may be delivered before it returns. A watcher that starts below the
// compact revision is cancelled at once, by Sink.Canceled before Watch returns.
func (s *Stream) Watch(w *Watcher, o Watch) {
	reason := s.watch(w, o)
	if reason == nil {
		return
	}
	s.sink.Canceled(w, reason)
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	s.watches++ // only now: until then no progress is told that the Sink's client could take for this watch
	h.ask(s)
}

// watch returns why w cannot be started, if it cannot.
func (s *Stream) watch(w *Watcher, o Watch) error {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case s.closed:
		return nil
	case h.closed:
		return ErrHubClosed
	case o.Start < h.compacted:
		return &CompactedError{CompactRevision: h.compacted}
	}
	s.watches++
	w.stream = s
	w.group = h.index.group(o.Key, o.End, options{noPut: o.NoPut, noDelete: o.NoDelete, prevKV: o.PrevKV})
	w.group.size++
	w.notify = o.ProgressNotify
	w.next = o.Start
	w.member = int32(len(s.watchers))
	s.watchers = append(s.watchers, w)
	h.place(w)
	return nil
}

// Cancel ends w, if it has not ended. A delivery that is under way is not waited for.
func (s *Stream) Cancel(w *Watcher) {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	s.hub.end(w)
}

// Drained tells that the Sink has room again after Deliver returned false.
func (s *Stream) Drained() {
	s.drained.Add(1)
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	s.full = false
	h.release(s)
}

// RequestProgress asks for Sink.Progress of the whole stream, once for every call, as soon as every watcher has been
// sent everything up to one same revision, which is at least rev and the newest that is published now. A watcher that
// starts in the future has been from one revision before its start on. Without watchers there is no answer.
func (s *Stream) RequestProgress(rev int64) {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(s.watchers) == 0 {
		return
	}
	s.requests = min(s.requests+1, maxProgressRequests)
	s.wanted = max(s.wanted, rev, h.ring.revision())
	h.ask(s)
}

// NotifyProgress asks for Sink.Progress of each watcher that wants progress notifications, is up to date, and has
// been sent no events since the last call.
func (s *Stream) NotifyProgress() {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	s.notify = true
	h.ask(s)
}

// Close ends all watchers. Deliveries that are under way are not waited for.
func (s *Stream) Close() {
	for !s.closeSome() {
	}
}

// closeSome ends a few watchers, so that the lock is not held for long when there are a hundred thousand.
func (s *Stream) closeSome() (done bool) {
	const few = 256
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	s.closed = true
	delete(h.streams, s)
	for range few {
		if len(s.watchers) == 0 {
			return true
		}
		h.end(s.watchers[len(s.watchers)-1])
	}
	return false
}

// The functions below are called with hub.mu held.

// enter changes the state of w and counts it.
func (s *Stream) enter(w *Watcher, to state) {
	count := func(n *int, was, is bool) {
		switch {
		case is && !was:
			*n++
		case was && !is:
			*n--
		}
	}
	count(&s.behind, w.state.isBehind(), to.isBehind())
	count(&s.served, w.state.isServed(), to.isServed())
	w.state = to
}

func (s *Stream) remove(w *Watcher) {
	last := len(s.watchers) - 1
	moved := s.watchers[last]
	s.watchers[w.member], moved.member = moved, w.member
	s.watchers[last] = nil
	s.watchers = s.watchers[:last]
	if last == 0 {
		s.requests = 0
	}
}

// reached tells whether all watchers have been sent everything up to rev, which is what the broadcaster has
// delivered. A watcher that starts in the future is not counted as such: a client takes progress as the revision to
// resume from, and would be sent what is before its start.
func (s *Stream) reached(rev int64) bool {
	for s.early.first != nil && s.early.first.next <= rev+1 { // each is passed once, not at every turn
		s.early.first.unlist()
	}
	return s.behind == 0 && s.early.first == nil
}
