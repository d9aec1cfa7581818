package coalesce

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"weir/grpcapi/wire"
)

// modelStream is what a client's stream does in the model; as a Sink it checks all that it is given.
type modelStream struct {
	m        *model
	stream   *Stream
	watchers []*modelWatcher
	created  int
	room     int  // deliveries until it refuses
	refused  bool // it owes Drained
	closed   bool
	ending   bool    // Ended is to come
	told     int64   // the last progress of the stream
	stale    bool    // the progress that is being told is of a store that was replaced
	asked    []int64 // RequestProgress calls not answered: the revision at the time
	dropped  int     // RequestProgress calls that need no answer, because no watcher was left
}

type modelWatcher struct {
	Watcher
	watch    Watch
	created  bool
	fromNow  bool // asked for no start
	store    int  // of which it was created
	got      []wire.Event
	progress int64 // that it was last notified of
	over     bool  // cancelled or closed by the test, or refused
	canceled error
}

func (m *model) stream() *modelStream {
	if len(m.streams) == 0 || len(m.streams) < 4 && m.rnd.IntN(8) == 0 {
		s := &modelStream{m: m, room: m.rnd.IntN(10)}
		s.stream = m.hub.NewStream(s)
		m.streams = append(m.streams, s)
	}
	if s := m.streams[m.rnd.IntN(len(m.streams))]; !s.closed && !s.ending {
		return s
	}
	return nil
}

func (m *model) create() {
	s := m.stream()
	if s == nil {
		return
	}
	w := &modelWatcher{}
	m.nextID++
	r := m.aRange()
	w.ID = m.nextID
	w.watch = Watch{
		Key: r.Key, End: r.End, PrevKV: r.PrevKV, Start: max(1, m.head+1+m.rnd.Int64N(25)-20),
		NoPut: m.rnd.IntN(5) == 0, NoDelete: m.rnd.IntN(5) == 0, ProgressNotify: m.rnd.IntN(2) == 0,
	}
	if m.rnd.IntN(2) == 0 {
		w.watch.Start, w.fromNow = 0, true
	}
	s.watchers = append(s.watchers, w)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if m.rnd.IntN(30) == 0 {
		cancel()
	}
	since, store := m.Arrive(), m.store
	m.meanwhile()
	err := s.stream.Watch(ctx, &w.Watcher, w.watchAsked(m.reached(since), store), since)
	switch {
	case err == nil && !w.created:
		m.t.Fatalf("watcher %d was not created and not refused", w.ID)
	case err == nil:
		return
	case w.created:
		m.t.Fatalf("watcher %d was created and refused: %v", w.ID, err)
	}
	known := w.over && errors.Is(err, context.Canceled) || ctx.Err() != nil && errors.Is(err, ctx.Err()) ||
		(s.closed || s.ending) && (errors.Is(err, ErrStreamClosed) || errors.Is(err, errModelEnd))
	if !known && !errors.Is(err, errModelRefused) {
		m.t.Fatalf("watcher %d is refused: %v", w.ID, err)
	}
	w.over = true
}

// watchAsked remembers what Created is to be checked against.
func (w *modelWatcher) watchAsked(head int64, store int) Watch {
	w.progress, w.store = -head, store
	return w.watch
}

// Created is part of Sink.
func (s *modelStream) Created(watcher *Watcher, now int64) {
	m := s.m
	w := s.find(watcher)
	if w.created {
		m.t.Fatalf("watcher %d is created twice", w.ID)
	}
	since := -w.progress
	w.progress, w.created = 0, true
	if w.watch.Start == 0 {
		if w.store == m.store && (now < since || now > m.head) {
			m.t.Fatalf("watcher %d arrived at %d and is created at %d of %d", w.ID, since, now, m.head)
		}
		w.watch.Start = now + 1
	}
	w.store = m.store
	s.created++
	m.meanwhile()
}

func (s *modelStream) drain() {
	s.room = s.m.rnd.IntN(10)
	if s.refused {
		s.refused = false
		s.stream.Drained()
	}
}

func (s *modelStream) requestProgress() {
	if len(s.stream.watchers) > 0 {
		s.asked = append(s.asked, s.m.head)
	}
	s.stream.RequestProgress(s.m.Arrive())
}

// await asks for what is known to be there. It shares the answer of a request that has just come.
func (s *modelStream) await() {
	switch {
	case len(s.stream.watchers) == 0:
	case s.stream.come == 0:
		s.asked = append(s.asked, s.m.head)
	case len(s.asked) > 0:
		s.asked[len(s.asked)-1] = s.m.head
	}
	s.stream.Await(s.m.head)
}

func (s *modelStream) close() {
	s.endAll()
	s.stream.Close()
}

func (s *modelStream) endAll() {
	s.closed = true
	for _, w := range s.watchers {
		w.over = true
	}
}

// Recheck is part of Sink. Nobody calls it.
func (s *modelStream) Recheck() {}

// Ended is part of Sink.
func (s *modelStream) Ended(err error) {
	if !s.ending || !errors.Is(err, errModelEnd) {
		s.m.t.Fatalf("stream ended: %v", err)
	}
	s.ending = false
	s.endAll()
	s.m.meanwhile()
}

func (s *modelStream) find(w *Watcher) *modelWatcher {
	for _, mw := range s.watchers {
		if &mw.Watcher == w {
			return mw
		}
	}
	s.m.t.Fatalf("a watcher that its stream does not have")
	return nil
}

// Deliver is part of Sink.
func (s *modelStream) Deliver(watcher *Watcher, msg *Message) bool {
	m := s.m
	m.meanwhile()
	w := s.find(watcher)
	if w.over || w.created && w.store != m.store && w.canceled == nil {
		return true
	}
	if !w.created || w.canceled != nil {
		m.t.Fatalf("watcher %d is sent events before its creation or after its cancellation", w.ID)
	}
	if s.room <= 0 {
		s.refused = true
		defer m.meanwhile()
		return false
	}
	s.room--
	want := m.wanted(w, msg.Revision)
	got := append(slices.Clone(w.got), msg.Events...)
	if len(msg.Events) == 0 || msg.Revision > m.head {
		m.t.Fatalf("watcher %d is sent %d events up to %d of %d", w.ID, len(msg.Events), msg.Revision, m.head)
	}
	if !slices.EqualFunc(got, want, isSameEvent) {
		m.t.Fatalf("watcher %d of %v has %d events and gets %d more up to %d, want %d in all",
			w.ID, w.watch, len(w.got), len(msg.Events), msg.Revision, len(want))
	}
	if msg.PrevKV != w.watch.PrevKV {
		m.t.Fatalf("watcher %d: PrevKV is %v", w.ID, msg.PrevKV)
	}
	for i := range msg.Events {
		if e := &msg.Events[i]; msg.PrevKV && !bytes.Equal(e.Prev, prevIn(m.history, e.Key, e.ModRev)) {
			m.t.Fatalf("watcher %d: wrong previous value of %q at %d", w.ID, e.Key, e.ModRev)
		}
	}
	w.got = got
	m.meanwhile()
	return true
}

// Progress is part of Sink.
func (s *modelStream) Progress(watcher *Watcher, rev int64, watches int) bool {
	m := s.m
	m.meanwhile()
	if s.closed || s.ending {
		return true
	}
	if watcher != nil {
		if w := s.find(watcher); !w.over && w.canceled == nil && w.store == m.store {
			if !w.watch.ProgressNotify {
				m.t.Fatalf("watcher %d is notified of progress it did not want", w.ID)
			}
			s.check(w, rev)
			w.progress = rev
		}
		return true
	}
	if watches != s.created {
		return false
	}
	for _, w := range s.watchers {
		if w.created && !w.over && w.canceled == nil {
			s.check(w, rev)
		}
	}
	if s.dropped > 0 && (len(s.asked) == 0 || rev < s.asked[0]) {
		s.dropped--
		return true
	}
	if len(s.asked) == 0 {
		m.t.Fatalf("progress that nobody asked for")
	}
	if rev < s.asked[0] || rev > m.highest {
		m.t.Fatalf("progress %d was asked for at %d and is told at %d", rev, s.asked[0], m.head)
	}
	if rev < s.told {
		m.t.Fatalf("progress %d after %d", rev, s.told)
	}
	if !s.stale {
		s.told = rev
	}
	s.asked = s.asked[1:]
	return true
}

// checkDelivered fails if a watcher lacks something of what the stream says has been delivered.
func (s *modelStream) checkDelivered() {
	rev := s.stream.Delivered()
	if rev > s.m.highest {
		s.m.t.Fatalf("%d is delivered of %d", rev, s.m.highest)
	}
	for _, w := range s.watchers {
		if w.created && !w.over && w.canceled == nil && w.group != nil && w.state != ended && w.watch.Start <= rev+1 {
			s.check(w, rev)
		}
	}
}

// check fails if w lacks something up to rev.
func (s *modelStream) check(w *modelWatcher, rev int64) {
	if w.store != s.m.store {
		return // it will be cancelled
	}
	if want := s.m.wanted(w, rev); len(w.got) < len(want) {
		s.m.t.Fatalf("progress %d overtakes %d events of watcher %d", rev, len(want)-len(w.got), w.ID)
	}
	if w.watch.Start > rev+1 {
		s.m.t.Fatalf("progress %d is before the start of watcher %d at %d", rev, w.ID, w.watch.Start)
	}
}

// checkLost fails if w, which is cancelled as compacted, was on a feed that has what it lacks, or asked for no start and
// was on none. A watcher that was moved may have been read for at another feed.
func (s *modelStream) checkLost(w *modelWatcher) {
	switch {
	case w.store != s.m.store:
	case w.group == nil && w.fromNow:
		s.m.t.Fatalf("watcher %d from now, which was %d, is cancelled as compacted before it came", w.ID, w.watch.Start-1)
	case w.group == nil:
	case w.next >= w.group.feed.Oldest() && !s.m.modelOf(w.group.feed).movedTo:
		s.m.t.Fatalf("watcher %d lacks what is from %d on, which its feed has, and is cancelled as compacted", w.ID, w.next)
	}
}

// Canceled is part of Sink.
func (s *modelStream) Canceled(watcher *Watcher, reason error) {
	m := s.m
	m.meanwhile() // a progress told here would be taken for this watcher too
	w := s.find(watcher)
	if w.over {
		return
	}
	if !w.created || w.canceled != nil {
		m.t.Fatalf("watcher %d is cancelled before its creation or twice", w.ID)
	}
	w.canceled = reason
	var c *CompactedError
	switch {
	case errors.As(reason, &c):
		if w.store == m.store && (c.CompactRevision > m.compacted || w.watch.Start >= c.CompactRevision) {
			m.t.Fatalf("watcher %d from %d is cancelled for compact revision %d", w.ID, w.watch.Start, c.CompactRevision)
		}
		s.checkLost(w)
	case errors.Is(reason, errModelReset):
		if w.store == m.store {
			m.t.Fatalf("watcher %d is cancelled because its store was replaced, which was not", w.ID)
		}
	case errors.Is(reason, ErrHubClosed):
		if !m.hub.closed {
			m.t.Fatal(reason)
		}
	case !errors.Is(reason, errModelFeed) && !errors.Is(reason, errModelHistory) && !errors.Is(reason, errModelRefused):
		m.t.Fatal(reason)
	}
	m.meanwhile()
}
