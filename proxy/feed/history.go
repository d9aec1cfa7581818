package feed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// source reads for the watchers of one feed what its ring does not have, from upstream. It is their coalesce.Source.
type source struct {
	set  *Set
	feed *feed
}

// Prev is part of coalesce.Source. Previous values come with the events, or upstream does not have them.
func (source) Prev([]byte, int64) []byte { return nil }

// History is part of coalesce.Source. It returns as soon as the feed's ring has the rest. While upstream cannot be
// reached it waits.
func (h source) History(ctx context.Context, r coalesce.Range, from int64, yield func(coalesce.Batch) bool) (next int64, err error) {
	s, next := h.set, from
	c := s.cursors.take(r, from)
	defer func() { s.cursors.put(c) }()
	for {
		if c == nil {
			if c, err = s.newCursor(ctx, r, next); err != nil {
				return next, err
			}
		}
		b, ok, err := c.next(ctx)
		var compacted *coalesce.CompactedError
		var canceled *canceledError
		switch {
		case errors.As(err, &compacted):
			s.mu.Lock()
			s.sawCompaction(c.session, compacted.CompactRevision)
			s.mu.Unlock()
			return next, compacted
		case errors.As(err, &canceled):
			return next, err
		case ctx.Err() != nil:
			return next, ctx.Err()
		case err != nil || !s.sawHistory(c): // another member may go on
			c.close()
			c = nil
			if err := sleep(ctx, retryInterval); err != nil {
				return next, err
			}
			continue
		}
		next = c.reached + 1
		if ok && c.isWider(r) {
			b.Events = slices.DeleteFunc(b.Events, func(e wire.Event) bool { return !r.Contains(coalesce.Range{Key: e.Key}) })
			ok = len(b.Events) > 0
		}
		switch stopped := ok && !yield(b); {
		case next >= h.feed.out.Oldest():
			c.dead = true // nobody needs what follows
			return next, nil
		case stopped:
			return next, nil
		}
	}
}

// sawHistory records up to where a cursor has come, before anybody is given that: a cluster that is not as far is not the
// same any more. It returns false if the session of the cursor is over, and so may the cluster be.
func (s *Set) sawHistory(c *cursor) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.session != c.session {
		return false
	}
	s.seen.revision = max(s.seen.revision, c.reached)
	return true
}

// cursor is an upstream watch that starts in the past, on a stream of its own, because it holds up RequestProgress and
// because it is read only as fast as its watchers take what it brings: gRPC's window keeps upstream waiting, and
// etcd then keeps nothing for it.
//
// It ends with the session: on a member that the session has left it would learn of nothing new.
type cursor struct {
	session *session
	span    coalesce.Range
	stream  WatchStream
	cancel  context.CancelFunc

	// Of the goroutine that holds the cursor.
	reached int64 // everything up to here has been given out
	events  assembler
	ready   []coalesce.Batch // not yet given out
	created bool
	held    int // bytes of the response that ready is of
	dead    bool
	idle    time.Time // since when nobody holds it

	sending sync.Mutex // for Send, also by the timer
	retry   *time.Timer
}

// canceledError says that upstream refused or ended a watch, and why.
type canceledError struct{ reason string }

func (e *canceledError) Error() string { return e.reason }

// newCursor waits for a session, whose member is known to be of the same cluster.
func (s *Set) newCursor(ctx context.Context, r coalesce.Range, from int64) (*cursor, error) {
	for {
		s.mu.Lock()
		x, changed, state := s.session, s.changed, s.sharing
		s.mu.Unlock()
		if x != nil && state.isShared() { // else the streams are about to be ended
			c, err := openCursor(ctx, x, r, from)
			if err == nil {
				return c, nil
			}
			if err := sleep(ctx, retryInterval); err != nil {
				return nil, err
			}
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// openCursor opens a cursor that lives until it is closed or the session ends. It gives up when ctx ends.
func openCursor(ctx context.Context, x *session, r coalesce.Range, from int64) (*cursor, error) {
	life, cancel := context.WithCancel(x.ctx)
	defer context.AfterFunc(ctx, cancel)()
	stream, err := x.member.Watch(life, false)
	if err == nil {
		err = stream.Send(wire.AppendWatchCreate(nil, wire.WatchCreate{
			Key: r.Key, End: r.End, PrevKV: r.PrevKV, StartRevision: from, Fragment: true,
		}))
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("open watch from revision %d: %w", from, err)
	}
	return &cursor{
		session: x, span: r, stream: stream, cancel: cancel,
		reached: from - 1, events: startAfter(from - 1),
	}, nil
}

func (c *cursor) close() {
	c.cancel() // first: it ends a Send that waits
	c.stopAsking()
}

// isWider tells whether the cursor, which contains r, has more than that.
func (c *cursor) isWider(r coalesce.Range) bool {
	return !bytes.Equal(c.span.Key, r.Key) || !bytes.Equal(c.span.End, r.End)
}

// next returns the next revision, or false when it only learned that there is none up to c.reached.
func (c *cursor) next(ctx context.Context) (b coalesce.Batch, ok bool, err error) {
	stop := context.AfterFunc(ctx, c.cancel)
	defer func() {
		if !stop() {
			c.dead = true
		}
		c.dead = c.dead || err != nil
	}()
	if c.created && len(c.ready) == 0 {
		c.askProgress()
	}
	for len(c.ready) == 0 {
		raw, err := c.stream.Recv()
		if err != nil {
			return b, false, fmt.Errorf("receive watch response: %w", err)
		}
		var r wire.WatchResponse
		if err := r.Unmarshal(raw); err != nil {
			return b, false, err
		}
		switch {
		case r.CancelReason == errReplaced.Error(): // the session learns of it too
			return b, false, errReplaced
		case r.CompactRevision > 0:
			return b, false, &coalesce.CompactedError{CompactRevision: r.CompactRevision}
		case r.Canceled && isIdentityText(r.CancelReason): // it is not this watch that is refused
			c.stream.Refused(r.CancelReason)
			return b, false, errIdentity
		case r.Canceled:
			return b, false, &canceledError{r.CancelReason}
		case r.Created:
			// Only now: an answer that overtook `created` could be from before the watch.
			c.created = true
			c.askProgress()
		case len(r.Events) > 0:
			c.held = len(raw)
			if c.ready, err = c.events.add(&r, len(raw)); err != nil {
				return b, false, err
			}
		case r.WatchID == allWatches && !r.Fragment && len(c.events.partial) == 0:
			c.reached = max(c.reached, r.Header.Revision)
			c.events.reached = c.reached
			return b, false, nil
		}
	}
	b, c.ready = c.ready[0], c.ready[1:]
	c.reached = b.Revision
	return b, true, nil
}

// askProgress requests progress, again and again until the cursor is closed or put away. etcd answers when the watch
// has caught up.
func (c *cursor) askProgress() {
	c.sending.Lock()
	defer c.sending.Unlock()
	if c.retry == nil {
		c.sendRequest()
	}
}

func (c *cursor) sendRequest() {
	_ = c.stream.Send(wire.AppendWatchProgressRequest(nil)) // Recv tells the error too
	c.retry = time.AfterFunc(progressRetry, func() {
		c.sending.Lock()
		defer c.sending.Unlock()
		if c.retry != nil {
			c.sendRequest()
		}
	})
}

func (c *cursor) stopAsking() {
	c.sending.Lock()
	defer c.sending.Unlock()
	if c.retry != nil {
		c.retry.Stop()
		c.retry = nil
	}
}

// cursors are those that nobody reads at the moment, to be taken up again where they are.
type cursors struct {
	set *Set

	mu   sync.Mutex // guards list
	list []*cursor
}

// A laggard that needs another cursor each time would wait for etcd's sync loop each time.
const (
	// maxIdleCursors and maxIdleBytes bound those that are kept, and what they hold in memory besides gRPC's windows.
	maxIdleCursors = 64
	maxIdleBytes   = 32 << 20
	// cursorIdle is for how long one is kept.
	cursorIdle = 5 * time.Second
)

// take returns a cursor over r that goes on at revision from, or nil.
func (l *cursors) take(r coalesce.Range, from int64) *cursor {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, c := range l.list {
		if c.reached+1 == from && c.span.Contains(r) && c.session.ctx.Err() == nil {
			l.list = slices.Delete(l.list, i, i+1)
			return c
		}
	}
	return nil
}

// put keeps a cursor, or closes it if it is of no more use. It may be nil.
func (l *cursors) put(c *cursor) {
	switch {
	case c == nil:
		return
	case c.dead || c.session.ctx.Err() != nil:
		c.close()
		return
	}
	c.stopAsking()
	c.idle = time.Now()
	if len(c.ready) == 0 {
		c.held = 0
	}
	l.mu.Lock()
	l.list = append(l.list, c)
	held, keep := 0, len(l.list) // the newest ones
	for keep > 0 && len(l.list)-keep < maxIdleCursors && held+l.list[keep-1].held <= maxIdleBytes {
		keep--
		held += l.list[keep].held
	}
	old := slices.Clone(l.list[:keep])
	l.list = slices.Delete(l.list, 0, keep)
	l.mu.Unlock()
	for _, c := range old {
		c.close()
	}
}

func (l *cursors) closeIdle() {
	l.closeIf(func(c *cursor) bool { return time.Since(c.idle) > cursorIdle })
}
func (l *cursors) closeAll() { l.closeIf(func(*cursor) bool { return true }) }

func (l *cursors) closeIf(unwanted func(*cursor) bool) {
	l.mu.Lock()
	var gone []*cursor
	l.list = slices.DeleteFunc(l.list, func(c *cursor) bool {
		if unwanted(c) {
			gone = append(gone, c)
			return true
		}
		return false
	})
	l.mu.Unlock()
	for _, c := range gone {
		c.close()
	}
}
