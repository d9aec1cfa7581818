package coalesce

import "math"

// maxProgressRequests bounds the answers that a stream owes to RequestProgress. etcd, too, drops those that it
// cannot store, and stores 128.
const maxProgressRequests = 128

// progress is what a stream's client wants to know: up to where everything has been delivered.
//
// A request goes through three stages. It comes; all feeds of the stream are synced, which tells the revision that the
// answer must have reached; and then the watchers are waited for. In each stage requests are together, and those that
// come do not join the stage ahead of them: a client that asks all the time would never be answered. hub.mu guards it.
type progress struct {
	come   int     // requests that have come
	since  Arrival // of the last of them
	check  bool    // one of them wants the store to be asked where it is
	reach  int64   // and one knows that it has come this far
	synced int     // requests for which feeds are being synced
	owed   int     // requests that have been
	wanted int64   // the revision that the answer to these must have reached; it does not fall

	telling  bool // what is owed, just now
	again    bool // feeds must be synced again for what is owed
	notifies bool // feeds must be synced for NotifyProgress
	syncing  bool // somebody does
	stopSync func()

	waitsFor *Feed // has the stream in feed.asking
	askingAt int32 // where
}

// streamFeed is a feed that watchers of a stream are on.
type streamFeed struct {
	feed     *Feed
	watchers int32
	notify   bool  // is in feed.notifying
	syncedAt int64 // up to where nothing is gained by syncing it again, or syncFailed
}

// syncFailed is of a feed that will be closed.
const syncFailed = math.MaxInt64

// answer is one call of Sink.Progress.
type answer struct {
	stream  *Stream
	watcher *Watcher // nil for the whole stream
	rev     int64
	watches int
	times   int
}

// The functions below are called with hub.mu held.

// pending is how many requests have not been answered.
func (s *Stream) pending() int { return s.come + s.synced + s.owed }

// knownRevision is one that the store has reached.
func (h *Hub) knownRevision() int64 { return max(h.reached, h.newest.Load()) }

// ask looks at a stream of which progress is owed, whenever something of it has changed: either a feed is waited for,
// and its broadcaster looks again at the end of its turn; or nothing is, and a broadcaster tells it. While watchers are
// behind it waits for them, who are placed some day.
func (h *Hub) ask(s *Stream) {
	if s.owed == 0 || s.telling || s.behind > 0 {
		s.waitFor(nil)
		h.advance(s)
		return
	}
	by, target, _ := s.blocked()
	switch {
	case by == nil:
		s.waitFor(s.feeds[0].feed)
		s.feeds[0].feed.poke()
	case h.store == nil && by.feed.ring.revision() < target && by.syncedAt < target && target <= h.knownRevision():
		// A watcher has come to a feed that was not synced for it, or from one that was ahead.
		s.waitFor(nil)
		s.again = true
		h.advance(s)
	default:
		s.waitFor(by.feed)
	}
}

// blocked returns the feed that has not delivered what must have been before the stream's progress can be told, and
// up to which revision; or nil, and the progress.
//
// A client takes progress as the revision to resume from. So it must not be told one from before a watcher's start, or
// that watcher would be sent what is before its start: those that may start later are in s.early until it is sure.
func (s *Stream) blocked() (by *streamFeed, target, rev int64) {
	rev = math.MaxInt64
	for i := range s.feeds {
		rev = min(rev, s.feeds[i].feed.delivered)
	}
	for w := s.early.first; w != nil && w.next <= rev+1; w = s.early.first {
		s.wanted = max(s.wanted, w.next-1) // rev is less again when a watcher comes to a feed that lags
		w.unlist()
	}
	target = s.wanted
	if w := s.early.first; w != nil {
		target = max(target, w.next-1)
	}
	for i := range s.feeds {
		if s.feeds[i].feed.delivered < target {
			return &s.feeds[i], target, rev
		}
	}
	return nil, target, rev
}

// waitFor puts the stream into the list of the feed that it waits for, and out of the one that it was in.
func (s *Stream) waitFor(f *Feed) {
	if s.waitsFor == f {
		return
	}
	if old := s.waitsFor; old != nil {
		last := len(old.asking) - 1
		moved := old.asking[last]
		old.asking[s.askingAt], moved.askingAt = moved, s.askingAt
		old.asking[last] = nil
		old.asking = old.asking[:last]
	}
	if s.waitsFor = f; f != nil {
		s.askingAt = int32(len(f.asking))
		f.asking = append(f.asking, s)
	}
}

// forgetProgress drops all requests: the stream has no watchers.
func (s *Stream) forgetProgress() {
	s.come, s.synced, s.owed, s.again, s.notifies = 0, 0, 0, false, false
	s.check, s.reach = false, 0
	s.waitFor(nil)
}

// on returns the stream's entry of a feed, or nil.
func (s *Stream) on(f *Feed) *streamFeed {
	for i := range s.feeds {
		if s.feeds[i].feed == f {
			return &s.feeds[i]
		}
	}
	return nil
}

func (s *Stream) countOn(f *Feed) {
	at := s.on(f)
	if at == nil {
		s.feeds = append(s.feeds, streamFeed{feed: f})
		at = &s.feeds[len(s.feeds)-1]
	}
	at.watchers++
}

func (s *Stream) countOff(f *Feed) {
	at := s.on(f)
	if at.watchers--; at.watchers > 0 {
		return
	}
	last := len(s.feeds) - 1
	*at = s.feeds[last]
	s.feeds[last] = streamFeed{}
	s.feeds = s.feeds[:last]
	if last == 0 {
		s.feeds = nil
	}
}

// answer collects what c can tell at the end of a turn, when all live watchers of the feed have been given everything
// up to its position: anything told now is told in order.
func (c *broadcaster) answer() {
	h, f := c.hub, c.feed
	for _, s := range f.notifying {
		c.notify(s)
	}
	clear(f.notifying)
	f.notifying = f.notifying[:0]

	c.streams = append(c.streams[:0], f.asking...)
	for _, s := range c.streams {
		if by, _, rev := s.blocked(); by == nil && s.behind == 0 {
			c.answers = append(c.answers, answer{stream: s, rev: rev, watches: s.watches, times: s.owed})
			s.telling, s.wanted = true, rev
		}
		h.ask(s)
	}
	clear(c.streams)
}

// notify collects the notifications of one stream's watchers.
func (c *broadcaster) notify(s *Stream) {
	f := c.feed
	at := s.on(f)
	if at == nil || !at.notify {
		return
	}
	at.notify = false
	for _, w := range s.watchers {
		if w.notify && w.group.feed == f && w.state == live && w.next <= f.delivered+1 {
			if !w.busy {
				c.answers = append(c.answers, answer{stream: s, watcher: w, rev: f.delivered})
			}
			w.busy = false
		}
	}
}

// tell gives the answers. h.mu is not held.
func (c *broadcaster) tell() {
	for _, a := range c.answers {
		if a.watcher != nil {
			a.stream.sink.Progress(a.watcher, a.rev, 0)
			continue
		}
		for a.times > 0 && a.stream.sink.Progress(nil, a.rev, a.watches) {
			a.times--
		}
		c.hub.told(a)
	}
	clear(c.answers)
	c.answers = c.answers[:0]
}

// told goes on after a stream's progress was told, or was not let through by the sink. It is tried again when the watch
// that the sink has announced arrives here, from the first stage on. h.mu is not held.
func (h *Hub) told(a answer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := a.stream
	s.telling = false
	if s.owed > 0 { // else its watchers have gone meanwhile
		s.come += a.times
		s.check = s.check || a.times > 0
	}
	s.owed = 0
	if a.times == 0 || s.watches != a.watches {
		h.ask(s)
	}
}
