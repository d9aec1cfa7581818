package coalesce

import (
	"context"
	"errors"
	"math"
	"sync/atomic"
)

// Sink is one client's stream of messages. Its methods must not wait for the client. They are called without locks
// held, for one watcher by one goroutine at a time, for different watchers concurrently. They may call the Stream's
// methods.
type Sink interface {
	// Created tells, once and before anything else about w, that the watch is accepted; now is the revision to state.
	Created(w *Watcher, now int64)
	// Deliver takes m for w, or returns false when the client has not yet taken enough of what it was sent. Then
	// nothing of m was taken, and the Sink calls Stream.Drained as soon as there is room again. A watcher that
	// was ended while the call was on its way is for the Sink to recognise; it takes m and drops it.
	Deliver(w *Watcher, m *Message) bool
	// Progress tells that everything up to rev has been delivered: to the watcher w, or, when w is nil, to every
	// watcher of the stream, of which there have ever been `watches`. If the Sink has announced more to its client,
	// the client would take rev to hold for those as well: then it returns false and is asked again.
	Progress(w *Watcher, rev int64, watches int) bool
	// Canceled tells that w is ended by the hub: with a *CompactedError, ErrHubClosed, the reason of Feed.Close or
	// Hub.Reset, or an error of Source. Nothing more is delivered to w. The Sink ignores it for a watcher that it has
	// cancelled itself.
	Canceled(w *Watcher, reason error)
	// Ended tells, once, that the stream is over, of which what comes after it is to be ignored.
	Ended(err error)
	// Recheck has the Sink end those of its watchers that may not go on; see Hub.Recheck. What is delivered to them after it
	// has returned does not reach the client.
	Recheck()
}

// Stream is the watchers of one client's stream. All methods may be called concurrently, and none of them but Watch
// waits for a client, for history or for a network.
type Stream struct {
	hub    *Hub
	sink   Sink
	number uint64 // in the order in which streams were opened

	drained atomic.Uint32 // calls of Drained

	// Guarded by hub.mu.
	watchers []*Watcher
	feeds    []streamFeed   // that they are on
	watches  int            // watchers that have ever come
	behind   int            // watchers that may lack what live ones have been sent
	served   [2]int         // watchers that take part in resyncing, by where they are served from
	window   int            // how many of them may be served from merged history
	full     bool           // the Sink refused a message and has not drained since
	held     [2]watcherList // watchers that wait until hasRoom, by where they will be served from
	early    watcherList    // live watchers that may start after the progress that is told next
	progress
	place  int32 // where it is in hub.streams
	closed bool
	reason error // why it is
}

// streamWindow is how many watchers of one stream take part in resyncing at a time, from the ring and from history
// each. More would only be refused when the stream is full again, over and over, and keep the resyncers from other
// streams.
//
// Where history is merged a round takes long, however many it is for: a client that resumes all its watches on one
// stream would wait for a hundred rounds. There a stream has as many as are read for together, until it refuses: it
// then has half as many, and one more for each message that it takes, which comes to about twice as many as it takes
// between two refusals. (TCP's congestion window is the model, RFC 5681; what is refused is read again, so that
// shrinking to the least would cost more rounds than it saves.)
const streamWindow = 64

// ErrStreamClosed is why a watch is refused on a stream that was closed.
var ErrStreamClosed = errors.New("watch stream is closed")

// errFeedClosed has Watch look for another feed.
var errFeedClosed = errors.New("watch feed is closed")

// NewStream registers a client's stream. It must be closed.
func (h *Hub) NewStream(sink Sink) *Stream {
	s := &Stream{hub: h, sink: sink, window: h.round}
	h.mu.Lock()
	defer h.mu.Unlock()
	s.place = int32(len(h.streams))
	h.streams = append(h.streams, s)
	h.opened++
	s.number = h.opened
	return s
}

// Watch starts w, which must be new: it waits until the Feeder has a feed for it. `since` is the moment at which the
// client's request arrived. Without a start the watch is from the revision after now, as Sink.Created is told.
//
// An error is why the watch is refused (the Feeder's reason, ctx's error, ErrStreamClosed, ErrHubClosed or the error
// of Hub.End; context.Canceled if w was cancelled meanwhile), and Sink.Created was not called. Otherwise it was, and
// whatever happens to the watch then is told to the Sink, perhaps before Watch returns: events, and that it starts
// below the compact revision.
func (s *Stream) Watch(ctx context.Context, w *Watcher, o Watch, since Arrival) error {
	find := s.hub.feeder.Find
	f, now, err := find(ctx, o, since)
	epoch := 0
	for ; err == nil; f, now, err = find(ctx, o, since) {
		if epoch, err = s.admit(w, f, now); !errors.Is(err, errFeedClosed) {
			break
		}
	}
	if err != nil {
		return err
	}
	fromNow := o.Start == 0
	if fromNow {
		o.Start = now + 1
	}
	s.sink.Created(w, now)
	for err = s.join(w, f, o, fromNow, epoch); errors.Is(err, errFeedClosed); err = s.join(w, f, o, fromNow, epoch) {
		if f, _, err = find(ctx, o, since); err != nil {
			break
		}
	}
	if err != nil {
		s.sink.Canceled(w, err)
		s.pass(w)
	}
	return nil
}

// admit tells whether w may be started on f, and how often the store has been replaced until now.
func (s *Stream) admit(w *Watcher, f *Feed, now int64) (epoch int, err error) {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case w.state == ended:
		return 0, context.Canceled
	case s.closed:
		return 0, s.reason
	case h.closed:
		return 0, ErrHubClosed
	case f.closed != nil:
		return 0, errFeedClosed
	}
	h.reached = max(h.reached, now)
	return h.epoch, nil
}

// join starts w on f, or returns why it cannot be. Nothing is wrong if its client has left already. A watch from now is
// not refused because its start was compacted meanwhile: f may still have it, and if not, that is found out when the
// watcher is resynced.
func (s *Stream) join(w *Watcher, f *Feed, o Watch, fromNow bool, epoch int) error {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case w.state == ended || s.closed:
		s.watches++
		h.ask(s)
		return nil
	case h.closed:
		return ErrHubClosed
	case epoch != h.epoch:
		return h.reset
	case !fromNow && o.Start < h.compacted:
		return &CompactedError{CompactRevision: h.compacted}
	case f.closed != nil:
		return errFeedClosed
	}
	s.watches++
	w.stream = s
	w.notify = o.ProgressNotify
	w.next = o.Start
	w.member = int32(len(s.watchers))
	s.watchers = append(s.watchers, w)
	f.add(w, f.group(o.Key, o.End, options{noPut: o.NoPut, noDelete: o.NoDelete, prevKV: o.PrevKV}))
	h.place(w)
	return nil
}

// pass counts a watcher that was announced to the client, and cancelled before it came. Until now no progress was told
// that the client could have taken for it.
func (s *Stream) pass(w *Watcher) {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	w.state = ended
	s.watches++
	h.ask(s)
}

// Cancel ends w, if it has not ended. A delivery that is under way is not waited for. A Watch that still waits is
// refused; its ctx must be ended too, or it goes on waiting.
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
// sent everything up to one same revision, which the store had reached at `since`, when the client's request arrived,
// or later. A watcher that starts in the future has been from one revision before its start on. Without watchers there
// is no answer.
func (s *Stream) RequestProgress(since Arrival) {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(s.watchers) == 0 || s.pending() >= maxProgressRequests {
		return
	}
	s.come++
	s.check = true
	// The request may have come before it is handled here. Watchers that are there by now start no later than after what
	// has been published, or are in s.early.
	s.wanted = max(s.wanted, h.newest.Load())
	s.since = max(s.since, since)
	s.again = s.again || s.waitsFor != nil // a watcher that starts in the future may do so now
	h.advance(s)
}

// Await is RequestProgress of who knows that the store has reached rev, and wants to be told when every watcher has been
// sent everything up to there. Several calls may be answered together.
func (s *Stream) Await(rev int64) {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(s.watchers) == 0 {
		return
	}
	if s.come == 0 {
		s.come = 1
	}
	s.reach = max(s.reach, rev)
	h.reached = max(h.reached, rev)
	h.advance(s)
}

// Delivered is up to where every watcher of the stream has been sent everything, as far as that is known without asking: a
// lower bound, 0 if a watcher is behind or there is none.
func (s *Stream) Delivered() int64 {
	s.hub.mu.Lock()
	defer s.hub.mu.Unlock()
	if s.behind > 0 || len(s.feeds) == 0 {
		return 0
	}
	rev := int64(math.MaxInt64)
	for i := range s.feeds {
		rev = min(rev, s.feeds[i].feed.delivered)
	}
	return rev
}

// NotifyProgress asks for Sink.Progress of each watcher that wants progress notifications, is up to date, and has
// been sent no events since the last call. The stream's feeds are synced first.
func (s *Stream) NotifyProgress() {
	since := s.hub.feeder.Arrive()
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(s.watchers) == 0 {
		return
	}
	s.notifies = true
	s.since = max(s.since, since)
	h.advance(s)
}

// Close ends all watchers. Deliveries that are under way are not waited for. A Watch that waits is for its caller to
// end, by its ctx.
func (s *Stream) Close() {
	for !s.closeSome() {
	}
}

// closeSome ends a few watchers, so that the lock is not held for long when there are a hundred thousand.
func (s *Stream) closeSome() (done bool) {
	h := s.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if !s.closed {
		s.closed, s.reason = true, ErrStreamClosed
		last := len(h.streams) - 1
		moved := h.streams[last]
		h.streams[s.place], moved.place = moved, s.place
		h.streams[last] = nil
		h.streams = h.streams[:last]
	}
	if s.stopSync != nil {
		s.stopSync()
	}
	for range h.few {
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
	count(&s.served[w.source], w.state.isServed(), to.isServed())
	w.state = to
}

func (s *Stream) remove(w *Watcher) {
	last := len(s.watchers) - 1
	moved := s.watchers[last]
	s.watchers[w.member], moved.member = moved, w.member
	s.watchers[last] = nil
	s.watchers = s.watchers[:last]
	if last == 0 {
		s.forgetProgress()
	}
}
