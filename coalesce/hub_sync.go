package coalesce

import (
	"context"
	"math"
	"slices"
)

// Syncing is asking the store, by way of the Feeder, where it is: afterwards the feeds of a stream are published up to
// a revision that was reached after the client asked. It may wait for a network, and is done by a goroutine of the
// stream, one at a time; in the hub of a store by nobody, as there an Arrival is such a revision already.

// advance takes what the stream has been asked for to its next stage, if it can. hub.mu is held.
func (h *Hub) advance(s *Stream) {
	switch {
	case s.syncing || !s.mustSync():
	case h.store == nil:
		s.syncing = true
		ctx, cancel := context.WithCancel(h.ctx)
		s.stopSync = cancel
		h.start(func() bool { return h.sync(ctx, s) })
	default:
		notify := s.notifies
		s.notifies, s.again = false, false
		if s.owed == 0 && s.come > 0 {
			s.synced, s.come = s.come, 0
			s.wanted = max(s.wanted, s.reach)
			if s.check {
				s.wanted = max(s.wanted, int64(s.since))
			}
			s.check, s.reach = false, 0
		}
		h.synced(s, notify)
	}
}

// mustSync tells whether feeds are to be synced. After one has failed its end is waited for, or it would fail again.
func (s *Stream) mustSync() bool {
	for i := range s.feeds {
		if s.feeds[i].syncedAt == syncFailed {
			return false
		}
	}
	return !s.closed && len(s.feeds) > 0 && (s.notifies || s.again || s.come > 0 && s.owed == 0)
}

// synced goes on when all feeds have been synced. hub.mu is held.
func (h *Hub) synced(s *Stream, notify bool) {
	if notify {
		for i := range s.feeds {
			if at := &s.feeds[i]; !at.notify {
				at.notify = true
				at.feed.notifying = append(at.feed.notifying, s)
				at.feed.poke()
			}
		}
	}
	s.owed, s.synced = s.owed+s.synced, 0
	h.ask(s)
}

// syncTask is one round of syncing a stream's feeds.
type syncTask struct {
	since         Arrival // Known if the store need not be asked
	reach         int64
	feeds         []*Feed
	known         int64 // the revision that the store was known to have reached before
	epoch         int
	again, notify bool
}

// sync syncs the feeds of a stream once. It returns false when there is nothing more to sync.
func (h *Hub) sync(ctx context.Context, s *Stream) bool {
	t, ok := h.takeSync(s)
	if !ok {
		return false
	}
	if t.again { // what is missing may have happened after the requests came
		t.since = h.feeder.Arrive()
	}
	reached := int64(math.MaxInt64)
	revs := make([]int64, len(t.feeds))
	for i, f := range t.feeds {
		rev, err := h.feeder.Sync(ctx, f, t.since, t.reach)
		if err != nil {
			revs[i] = syncFailed
			continue
		}
		if revs[i] = rev; t.again {
			revs[i] = max(rev, t.known)
		}
		reached = min(reached, rev)
	}

	h.mu.Lock()
	defer h.mu.Unlock()
	if ctx.Err() != nil {
		h.endSync(s)
		return false
	}
	if t.epoch != h.epoch { // these are revisions of another store
		s.again, s.notifies = s.again || t.again, s.notifies || t.notify
		return true
	}
	for i, f := range t.feeds {
		if at := s.on(f); at != nil {
			at.syncedAt = revs[i]
		}
	}
	if slices.Contains(revs, syncFailed) { // once more, when the watchers of that feed have gone
		s.come, s.synced = s.come+s.synced, 0
		s.check, s.reach = s.check || t.since != Known, max(s.reach, t.reach)
		s.again = s.again || t.again
	} else {
		h.reached = max(h.reached, reached)
		if s.synced > 0 {
			s.wanted = max(s.wanted, reached)
		}
	}
	h.synced(s, t.notify)
	return true
}

func (h *Hub) takeSync(s *Stream) (t syncTask, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !s.mustSync() {
		h.endSync(s)
		return t, false
	}
	t = syncTask{since: Known, known: h.knownRevision(), epoch: h.epoch, again: s.again, notify: s.notifies}
	for i := range s.feeds {
		t.feeds = append(t.feeds, s.feeds[i].feed)
	}
	check := s.notifies
	if s.owed == 0 {
		check = check || s.check
		t.reach = s.reach
		s.synced, s.come, s.check, s.reach = s.come, 0, false, 0
	}
	if check {
		t.since = s.since
	}
	s.again, s.notifies = false, false
	return t, true
}

func (h *Hub) endSync(s *Stream) {
	s.syncing = false
	s.stopSync()
	s.stopSync = nil
}

// askAgain takes all requests of a stream back to the first stage: the store was replaced, and what they wait for is
// a revision of the old one. hub.mu is held.
func (h *Hub) askAgain(s *Stream) {
	s.come += s.synced
	if !s.telling {
		s.come, s.owed = s.come+s.owed, 0
	}
	s.synced, s.wanted, s.again = 0, 0, false
	s.check, s.reach = s.come > 0, 0
	h.ask(s)
}
