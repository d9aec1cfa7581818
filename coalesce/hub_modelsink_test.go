package coalesce

import (
	"bytes"
	"errors"
	"slices"

	"weir/grpcapi/wire"
)

// The methods of modelStream are what a client's stream does in the model; as a Sink it checks all that it is given.

func (s *modelStream) drain() {
	s.room = s.m.rnd.IntN(10)
	if s.refused {
		s.refused = false
		s.stream.Drained()
	}
}

func (s *modelStream) requestProgress() {
	if len(s.stream.watchers) > 0 && len(s.asked) < maxProgressRequests {
		s.asked = append(s.asked, s.m.head)
	}
	s.stream.RequestProgress(s.m.head)
}

// dropAsked is called when a watcher may have gone.
func (s *modelStream) dropAsked() {
	if len(s.stream.watchers) == 0 {
		s.dropped += len(s.asked)
		s.asked = nil
	}
}

func (s *modelStream) close() {
	s.closed = true
	for _, w := range s.watchers {
		w.over = true
	}
	s.stream.Close()
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

func (s *modelStream) Deliver(watcher *Watcher, msg *Message) bool {
	m := s.m
	m.meanwhile()
	w := s.find(watcher)
	if w.over {
		return true
	}
	if w.canceled != nil {
		m.t.Fatalf("watcher %d is sent events after its cancellation", w.ID)
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
	if !slices.EqualFunc(got, want, func(a, b wire.Event) bool { return bytes.Equal(a.Data, b.Data) && a.ModRev == b.ModRev }) {
		m.t.Fatalf("watcher %d of %v has %d events and gets %d more up to %d, want %d in all",
			w.ID, w.watch, len(w.got), len(msg.Events), msg.Revision, len(want))
	}
	if msg.PrevKV != w.watch.PrevKV {
		m.t.Fatalf("watcher %d: PrevKV is %v", w.ID, msg.PrevKV)
	}
	for i := range msg.Events {
		if e := &msg.Events[i]; msg.PrevKV && !bytes.Equal(e.Prev, m.prev(e.Key, e.ModRev)) {
			m.t.Fatalf("watcher %d: wrong previous value of %q at %d", w.ID, e.Key, e.ModRev)
		}
	}
	w.got, w.sentAt = got, s.notifies
	m.meanwhile()
	return true
}

func (s *modelStream) Progress(watcher *Watcher, rev int64, watches int) bool {
	m := s.m
	m.meanwhile()
	if s.closed {
		return true
	}
	if watcher != nil {
		if w := s.find(watcher); !w.over && w.canceled == nil {
			if !w.watch.ProgressNotify || s.notifies <= w.sentAt {
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
		if !w.over && w.canceled == nil {
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
	if rev < s.asked[0] || rev > m.head {
		m.t.Fatalf("progress %d was asked for at %d and is told at %d", rev, s.asked[0], m.head)
	}
	s.asked = s.asked[1:]
	return true
}

// check fails if w lacks something up to rev.
func (s *modelStream) check(w *modelWatcher, rev int64) {
	if want := s.m.wanted(w, rev); len(w.got) < len(want) {
		s.m.t.Fatalf("progress %d overtakes %d events of watcher %d", rev, len(want)-len(w.got), w.ID)
	}
	if w.watch.Start > rev+1 {
		s.m.t.Fatalf("progress %d is before the start of watcher %d at %d", rev, w.ID, w.watch.Start)
	}
}

func (s *modelStream) Canceled(watcher *Watcher, reason error) {
	s.m.meanwhile() // a progress told here would be taken for this watcher too
	w := s.find(watcher)
	if w.over {
		return
	}
	if w.canceled != nil {
		s.m.t.Fatalf("watcher %d is cancelled twice", w.ID)
	}
	w.canceled = reason
	var c *CompactedError
	if errors.As(reason, &c) {
		if c.CompactRevision > s.m.compacted || w.watch.Start >= c.CompactRevision {
			s.m.t.Fatalf("watcher %d from %d is cancelled for compact revision %d", w.ID, w.watch.Start, c.CompactRevision)
		}
	} else if !errors.Is(reason, ErrHubClosed) {
		s.m.t.Fatal(reason)
	}
}
