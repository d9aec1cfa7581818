package feed

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// session is the upstream Watch RPC that all feeds share.
//
// A feed that has been open before goes on from the revision that it has reached, which is sent again and dropped: a
// watch from the revision after it would start in the future when nothing has happened, and then etcd answers no
// RequestProgress on the whole stream. A new feed starts "now", at what `created` states.
//
// Progress. etcd answers RequestProgress only when all watches of the stream are synced, and then the revision
// holds for all. Two things keep that true here. Progress is requested only when all feeds that go on have been
// created, because until then an answer may be older than the watch. And a feed that has to go on from
// somewhere else ends the session, instead of starting a second watch on it. A feed that starts now cannot be hurt:
// an answer from before its time is not above the revision that it starts from.
type session struct {
	set    *Set
	member Member
	under  Regime // that it was opened under
	stream WatchStream
	ctx    context.Context // ends with the session
	cancel context.CancelCauseFunc
	wake   chan struct{} // has an element when the sender has work

	// Guarded by set.mu. feeds is empty when the session ends.
	queue    [][]byte        // requests to be sent
	creating []*feed         // whose `created` has not come, in the order of requests, which is that of answers
	resuming int             // how many of them had been open before
	feeds    map[int64]*feed // by the id of their watch, until it is ended
	lastID   int64
	wanted   int64     // progress up to there is waited for
	told     int64     // the last progress that held for all feeds
	asked    bool      // a request for it has been sent and not been answered
	short    bool      // the last answer was not enough
	answered time.Time // when that came

	response wire.WatchResponse // of the goroutine that receives
}

const (
	// progressRetry is after how long without an answer progress is requested again: etcd drops requests.
	progressRetry = 100 * time.Millisecond
	// progressPause is between an answer and the next request, which is sent when the answer was not enough.
	progressPause = 2 * time.Millisecond
	// callTimeout is how long a member may take to answer a read.
	callTimeout = 3 * time.Second
)

// errResume ends a session so that the next one resumes.
var errResume = errors.New("a feed has to go on from another revision")

// serveSession runs until ctx ends or the stream does, and returns why.
func (s *Set) serveSession(ctx context.Context, m Member, under Regime) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := m.Watch(ctx, false)
	if err != nil {
		return fmt.Errorf("open watch stream: %w", err)
	}
	x := &session{
		set: s, member: m, under: under, stream: stream, ctx: ctx, cancel: cancel,
		wake:  make(chan struct{}, 1),
		feeds: map[int64]*feed{},
	}
	s.mu.Lock()
	s.session = x
	s.tellStanding()
	for f := range s.feeds {
		if f.id = 0; f.out != nil && !f.lost {
			x.resume(f)
		}
	}
	for f := range s.feeds {
		if f.out == nil {
			x.create(f)
		}
	}
	feeds := len(s.feeds)
	s.tellChange()
	s.mu.Unlock()
	s.log.Info("watches are fed from a member", "endpoint", m.String(), "feeds", feeds, "watches", s.watchers())

	s.tasks.start(func() { x.send(ctx) })
	s.tasks.start(func() { s.probeAlways(ctx, x) })
	s.tasks.start(func() { s.seekQuorum(ctx, x) })
	for err == nil {
		err = x.receive()
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	cancel(err)                                       // before others are told, so that nothing more is sent
	if under == Open && errors.Is(err, errIdentity) { // the next session would find out, but may be late
		s.unshare(errAuthOn)
	}
	if s.ctx.Err() == nil {
		s.log.Warn("watches are not fed until there is a member again", "endpoint", m.String(), "watches", s.watchers(), "reason", err)
	}
	s.mu.Lock()
	if s.session == x {
		s.session = nil
		s.tellStanding()
	}
	s.tellChange()
	s.mu.Unlock()
	s.cursors.closeAll() // they are of the session
	return err
}

// The functions below are called with set.mu held.

// create starts the watch of a feed that has not been open.
func (x *session) create(f *feed) {
	x.request(f, 0)
}

// resume starts the watch of a feed that has been open.
func (x *session) resume(f *feed) {
	reached := f.out.Revision()
	f.events = startAfter(reached)
	x.resuming++
	x.request(f, max(reached, min(reached+1, x.set.compacted)))
}

func (x *session) request(f *feed, start int64) {
	x.lastID++
	f.id = x.lastID
	x.creating = append(x.creating, f)
	x.feeds[f.id] = f
	x.push(wire.AppendWatchCreate(nil, wire.WatchCreate{
		Key: f.span.Key, End: f.span.End, PrevKV: f.span.PrevKV,
		StartRevision: start, Fragment: true, WatchID: f.id,
	}))
}

// end ends the watch of a feed, if it has one.
func (x *session) end(f *feed) {
	if x.feeds[f.id] != f {
		return
	}
	delete(x.feeds, f.id)
	x.push(wire.AppendWatchCancel(nil, f.id))
}

// wantProgress has progress requested until all feeds have reached rev.
func (x *session) wantProgress(rev int64) {
	if rev > x.wanted {
		x.wanted = rev
		if x.lacksProgress() {
			x.wakeSender()
		}
	}
}

func (x *session) lacksProgress() bool { return x.wanted > x.told }

func (x *session) push(req []byte) {
	x.queue = append(x.queue, req)
	x.wakeSender()
}

func (x *session) wakeSender() {
	select {
	case x.wake <- struct{}{}:
	default:
	}
}

// send sends what is queued, and requests progress. It is a goroutine of its own because Send may wait for the
// network.
func (x *session) send(ctx context.Context) {
	retry := time.NewTimer(progressRetry)
	defer retry.Stop()
	for {
		unanswered := false
		select {
		case <-x.wake:
		case <-retry.C:
			unanswered = true
		case <-ctx.Done():
			return
		}
		s := x.set
		s.mu.Lock()
		if unanswered {
			x.asked = false // also if there is no feed to ask for now, but later
		}
		queue := x.queue
		x.queue = nil
		pause := time.Duration(0)
		if x.short {
			pause = progressPause - time.Since(x.answered)
		}
		switch {
		case !x.lacksProgress() || x.resuming > 0 || len(x.feeds) == 0 || x.asked:
		case pause > 0:
			retry.Reset(pause)
		default:
			x.asked = true
			queue = append(queue, wire.AppendWatchProgressRequest(nil))
			retry.Reset(progressRetry)
		}
		s.mu.Unlock()
		for _, req := range queue {
			if err := x.stream.Send(req); err != nil {
				x.cancel(fmt.Errorf("send watch request: %w", err))
				return
			}
		}
	}
}

// allWatches is the watch id of a progress notification that is for the whole stream.
const allWatches = -1

// receive takes one response.
func (x *session) receive() error {
	raw, err := x.stream.Recv()
	if err != nil {
		return fmt.Errorf("receive watch response: %w", err)
	}
	r := &x.response
	if err := r.Unmarshal(raw); err != nil {
		return err
	}
	switch {
	case r.Created:
		return x.created(r)
	case r.Canceled:
		return x.canceled(r)
	case len(r.Events) > 0:
		return x.publish(r, len(raw))
	case r.WatchID == allWatches && !r.Fragment:
		x.progressed(r)
	}
	return nil
}

// created takes the answer to the oldest request. A refused one states no watch id.
func (x *session) created(r *wire.WatchResponse) error {
	s := x.set
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(x.creating) == 0 {
		return errors.New("upstream answers a watch that was not requested")
	}
	f := x.creating[0]
	x.creating = x.creating[1:]
	s.sawHeader(x, r.Header)
	resumed := f.out != nil
	if resumed {
		if x.resuming--; x.resuming == 0 {
			x.wakeSender()
		}
	}
	switch {
	case x.feeds[f.id] != f: // ended meanwhile
		return nil
	case r.Canceled:
		return x.refused(f, r.CancelReason)
	case r.WatchID != f.id:
		return fmt.Errorf("upstream answers watch %d as %d", f.id, r.WatchID)
	case resumed:
		return nil
	}
	// Upstream states its revision of a moment after the watch was registered. What happened in between comes as
	// events, which are dropped: it was before "now" for whoever has waited for this.
	f.events = startAfter(r.Header.Revision)
	x.told = min(x.told, r.Header.Revision)
	f.out = s.hub.NewFeed(coalesce.FeedConfig{
		Source:       source{set: s, feed: f},
		Revision:     r.Header.Revision,
		RingBytes:    s.history / len(s.feeds),
		MergeHistory: true,
	})
	close(f.opened)
	for _, a := range f.absorbed {
		s.retire(a)
	}
	f.absorbed = nil
	s.pokeTend() // feeds that are retired may wait for this one
	return nil
}

// refused ends a feed whose watch upstream does not accept, or the session if it is the proxy that upstream does not accept.
// set.mu is held.
func (x *session) refused(f *feed, reason string) error {
	if isIdentityText(reason) { // it is not this watch that is refused
		return x.disowned(reason)
	}
	s := x.set
	s.log.Warn("upstream refuses a watch", "range", rangeText(f.span), "reason", reason)
	delete(x.feeds, f.id)
	why := errors.New(reason)
	if f.out != nil {
		s.endFeed(f, why)
	} else {
		s.fail(f, why)
	}
	return nil
}

// disowned ends the session, because upstream does not accept who the proxy is. set.mu may be held.
func (x *session) disowned(reason string) error {
	x.stream.Refused(reason)
	return fmt.Errorf("%w: %s", errIdentity, reason)
}

func (x *session) canceled(r *wire.WatchResponse) error {
	s := x.set
	s.mu.Lock()
	f := x.feeds[r.WatchID]
	s.mu.Unlock()
	switch {
	case f == nil || !f.isOpen():
		return nil // the answer to a cancellation
	case r.CancelReason == errReplaced.Error(): // another proxy has noticed, and ends all its watches
		s.log.Error("the cluster upstream has been replaced, says the proxy there; all watches are cancelled", "watches", s.watchers())
		s.reset(replacedAt(r.CompactRevision))
		return errReplaced
	case r.CompactRevision > 0:
		return x.compacted(f, r.CompactRevision)
	}
	if isIdentityText(r.CancelReason) { // a core and a proxy also end watches that have been open
		return x.disowned(r.CancelReason)
	}
	s.log.Warn("upstream cancels a watch", "range", rangeText(f.span), "reason", r.CancelReason)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(x.feeds, f.id)
	s.endFeed(f, errors.New(r.CancelReason))
	return nil
}

// compacted deals with a feed that cannot go on from the revision that it has reached. If only that revision is gone,
// which it has, it can go on from the next. Else its watchers go to a new feed, which finds for each of them whether
// what it lacks is gone: those that start later have lost nothing.
func (x *session) compacted(f *feed, compact int64) error {
	s := x.set
	reached := f.out.Revision()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sawCompaction(x, compact)
	if compact <= reached+1 {
		return errResume
	}
	s.log.Warn("upstream has compacted what a watch has not been sent",
		"range", rangeText(f.span), "revision", reached, "compacted", compact)
	x.end(f) // until then etcd answers no RequestProgress
	f.lost = true
	if f.fixed {
		x.create(s.refix(f))
	}
	s.retire(f)
	return nil
}

// publish passes events on.
func (x *session) publish(r *wire.WatchResponse, size int) error {
	s := x.set
	s.mu.Lock()
	f := x.feeds[r.WatchID]
	s.mu.Unlock()
	if f == nil || !f.isOpen() {
		return nil
	}
	done, err := f.events.add(r, size)
	if err != nil || len(done) == 0 {
		return err
	}
	f.out.Publish(done...)
	s.mu.Lock()
	defer s.mu.Unlock()
	if x.lacksProgress() {
		s.tellChange() // it may be what somebody waits for
	}
	return nil
}

// progressed takes a progress notification, which says that all feeds have been sent everything up to its revision.
func (x *session) progressed(r *wire.WatchResponse) {
	s := x.set
	s.mu.Lock()
	s.sawHeader(x, r.Header)
	open, all := make([]*feed, 0, len(x.feeds)), true
	for _, f := range x.feeds {
		switch {
		case !f.isOpen():
		case len(f.events.partial) == 0:
			open = append(open, f)
		default: // only upstream knows where that comes from
			all = false
		}
	}
	s.mu.Unlock()
	for _, f := range open {
		if rev := r.Header.Revision; rev > f.events.reached {
			f.events.reached = rev
			f.out.Publish(coalesce.Batch{Revision: rev})
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if all {
		x.told = max(x.told, r.Header.Revision)
	}
	x.asked, x.short, x.answered = false, x.lacksProgress(), time.Now()
	s.tellChange()
	x.wakeSender()
	s.pokeTend()
}
