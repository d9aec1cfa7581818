package feed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// modelClient is one client's stream, as grpcapi serves it. As a coalesce.Sink it checks all that it is given.
type modelClient struct {
	m      *model
	name   int
	stream *coalesce.Stream
	ctx    context.Context
	cancel context.CancelFunc

	// What it asks is done in order by one goroutine.
	requests chan func()
	done     chan struct{}

	mu        sync.Mutex // guards the fields below, and watches' fields; taken before cluster.mu
	watches   []*modelWatch
	announced int
	room      int // messages that it takes before it refuses
	refused   bool
	asked     []int64 // what was known of the store at the time of each unanswered request for progress
	dropped   []int64 // those that need not be answered
	ended     error
	closed    bool
}

// modelWatch is one watch and what it must see.
type modelWatch struct {
	coalesce.Watcher
	watch  coalesce.Watch
	called int64  // what was known of the store when it was requested, and
	recent *epoch // the newest epoch then

	created  bool
	epochs   []*epoch // which it may be a watch of
	excluded []error  // why it cannot be one of the others
	pos      int64    // it has been sent everything up to here, or starts behind it
	told     int64    // the newest revision that it has been told of
	events   int
	canceled error
	over     bool // cancelled by the client
}

// epoch is one history of the cluster: each restored backup begins another.
type epoch struct {
	n    int
	past *fakeHistory
}

func (w *modelWatch) String() string {
	o := w.watch
	text := fmt.Sprintf("watch %d [%q, %q) from %d", w.ID, o.Key, o.End, o.Start)
	for name, set := range map[string]bool{"prev": o.PrevKV, "noput": o.NoPut, "nodelete": o.NoDelete} {
		if set {
			text += " " + name
		}
	}
	return fmt.Sprintf("%s, at %d", text, w.pos)
}

// live says whether the watch is to be sent more.
func (w *modelWatch) live() bool { return w.created && w.canceled == nil && !w.over }

// next is the first revision of an epoch from `from` to `to` that has events for the watch, and the events. It needs
// cluster.mu.
func (w *modelWatch) next(e *epoch, from, to int64) (rev int64, events []*mvccpb.Event) {
	end := fakeRangeEnd(w.watch.End)
	for rev := max(from, w.watch.Start, firstRevision+1); rev <= min(to, e.past.head()); rev++ {
		for _, ev := range e.past.at(rev) {
			del := ev.Type == mvccpb.Event_DELETE
			if fakeContains(w.watch.Key, end, ev.Kv.Key) && (!del || !w.watch.NoDelete) && (del || !w.watch.NoPut) {
				events = append(events, ev)
			}
		}
		if events != nil {
			return rev, events
		}
	}
	return 0, nil
}

// follow checks that got is exactly what the watch is to be sent behind pos and up to rev, in one of its epochs, and drops
// the others.
func (w *modelWatch) follow(m *model, rev int64, got []wire.Event) error {
	m.cluster.mu.Lock()
	defer m.cluster.mu.Unlock()
	var left []*epoch
	for _, e := range w.epochs {
		if err := w.compare(m, e, rev, got); err != nil {
			w.excluded = append(w.excluded, fmt.Errorf("epoch %d: %w", e.n, err))
		} else {
			left = append(left, e)
		}
	}
	if left == nil {
		return errors.Join(w.excluded...)
	}
	w.epochs = left
	w.pos, w.told = max(w.pos, rev), max(w.told, rev)
	w.events += len(got)
	return nil
}

func (w *modelWatch) compare(m *model, e *epoch, rev int64, got []wire.Event) error {
	if rev > e.past.head() {
		return fmt.Errorf("revision %d is above %d", rev, e.past.head())
	}
	for pos := w.pos; ; {
		next, want := w.next(e, pos+1, rev)
		if next == 0 {
			break
		}
		pos = next
		for _, ev := range want {
			if len(got) == 0 {
				return fmt.Errorf("up to %d it is not sent %q at %d", rev, ev.Kv.Key, next)
			}
			if err := w.compareEvent(m, e, ev, &got[0]); err != nil {
				return fmt.Errorf("up to %d: %w", rev, err)
			}
			got = got[1:]
		}
	}
	if len(got) > 0 {
		return fmt.Errorf("up to %d it is sent %d events too many, first %q at %d", rev, len(got), got[0].Key, got[0].ModRev)
	}
	return nil
}

func (w *modelWatch) compareEvent(m *model, e *epoch, want *mvccpb.Event, got *wire.Event) error {
	rev := want.Kv.ModRevision
	if data := mustMarshal(&mvccpb.Event{Type: want.Type, Kv: want.Kv}); !bytes.Equal(got.Data, data) {
		return fmt.Errorf("got %q at %d, want %q at %d", got.Key, got.ModRev, want.Kv.Key, rev)
	}
	if !w.watch.PrevKV {
		return nil
	}
	prev := e.past.get(want.Kv.Key, rev-1)
	if want.Type == mvccpb.Event_PUT && want.Kv.CreateRevision == rev {
		prev = nil
	}
	switch {
	case got.Prev == nil && (prev == nil || rev-1 < m.everCompacted()):
	case got.Prev == nil || prev == nil || !bytes.Equal(got.Prev, mustMarshal(prev)):
		return fmt.Errorf("%q at %d has the previous value %x, want %v", got.Key, rev, got.Prev, prev)
	}
	return nil
}

func mustMarshal(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

// find is called with c.mu held.
func (c *modelClient) find(watcher *coalesce.Watcher) *modelWatch {
	for _, w := range c.watches {
		if &w.Watcher == watcher {
			return w
		}
	}
	c.m.fail("client %d is told of a watch that it does not have", c.name)
	return nil
}

func (c *modelClient) Created(watcher *coalesce.Watcher, now int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.find(watcher)
	if w.created || w.canceled != nil {
		c.m.fail("client %d: %v is created again", c.name, w)
	}
	w.created = true
	c.announced++
	settled, epochs := c.m.epochsNow()
	w.epochs = epochs[settled:]
	w.pos = w.watch.Start - 1
	if w.watch.Start == 0 {
		w.pos, w.told = now, now
		if len(w.epochs) == 1 && w.recent == w.epochs[0] && now < w.called {
			c.m.fail("client %d: %v starts behind %d although it was requested at %d", c.name, w, now, w.called)
		}
	}
	c.dropAsked()
}

func (c *modelClient) Deliver(watcher *coalesce.Watcher, msg *coalesce.Message) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.find(watcher)
	switch {
	case w.over || c.closed:
		return true
	case !w.created:
		c.m.fail("client %d: %v is sent events before it is created", c.name, w)
	case w.canceled != nil:
		c.m.fail("client %d: %v is sent events after it was cancelled", c.name, w)
	case len(msg.Events) == 0:
		c.m.fail("client %d: %v is sent no events", c.name, w)
	case c.room <= 0:
		c.refused = true
		return false
	}
	c.room--
	if err := w.follow(c.m, msg.Revision, msg.Events); err != nil {
		c.m.fail("client %d: %v: %v", c.name, w, err)
	}
	return true
}

func (c *modelClient) Progress(watcher *coalesce.Watcher, rev int64, watches int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.ended != nil {
		return true
	}
	if watcher != nil {
		if w := c.find(watcher); w.live() {
			if !w.watch.ProgressNotify {
				c.m.fail("client %d: %v is notified of progress without having asked", c.name, w)
			}
			c.checkProgress(w, rev)
		}
		return true
	}
	if watches != c.announced {
		return false
	}
	for _, w := range c.watches {
		if w.live() {
			if w.watch.Start > rev+1 {
				c.m.fail("client %d: progress %d is before the start of %v", c.name, rev, w)
			}
			c.checkProgress(w, rev)
		}
	}
	answered := func(heads *[]int64) bool {
		i := slices.IndexFunc(*heads, func(head int64) bool { return head <= rev })
		if i >= 0 {
			*heads = slices.Delete(*heads, i, i+1)
		}
		return i >= 0
	}
	if !answered(&c.asked) && !answered(&c.dropped) {
		c.m.fail("client %d is told progress %d, and has asked at %v, or %v", c.name, rev, c.asked, c.dropped)
	}
	return true
}

func (c *modelClient) checkProgress(w *modelWatch, rev int64) {
	if err := w.follow(c.m, rev, nil); err != nil {
		c.m.fail("client %d: progress %d of %v: %v", c.name, rev, w, err)
	}
}

func (c *modelClient) Canceled(watcher *coalesce.Watcher, reason error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.find(watcher)
	switch {
	case w.over || c.closed || c.ended != nil:
		return
	case !w.created:
		c.m.fail("client %d: %v is cancelled before it is created: %v", c.name, w, reason)
	case w.canceled != nil:
		c.m.fail("client %d: %v is cancelled twice: %v, %v", c.name, w, w.canceled, reason)
	}
	w.canceled = reason
	if err := c.m.checkReason(w, reason); err != nil {
		c.m.fail("client %d: %v is cancelled with %q: %v", c.name, w, reason, err)
	}
	c.dropAsked()
}

// dropAsked is called when a watch has come or gone. Requests for progress need no answer when there is no watch left, or
// one that starts in the future: etcd gives none then.
func (c *modelClient) dropAsked() {
	watched, start := false, int64(0)
	for _, w := range c.watches {
		if w.live() {
			watched, start = true, max(start, w.watch.Start)
		}
	}
	c.asked = slices.DeleteFunc(c.asked, func(head int64) bool {
		drop := !watched || start > head
		if drop {
			c.dropped = append(c.dropped, head)
		}
		return drop
	})
}

func (c *modelClient) Ended(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	if c.ended != nil {
		c.m.fail("client %d is ended twice: %v, %v", c.name, c.ended, err)
	}
	if !c.m.hadAuth() {
		c.m.fail("client %d is ended: %v", c.name, err)
	}
	c.ended = err
	c.cancel()
}

// checkReason says what is wrong with the reason why a watch is cancelled.
func (m *model) checkReason(w *modelWatch, reason error) error {
	var compacted *coalesce.CompactedError
	_, epochs := m.epochsNow()
	switch {
	case errors.As(reason, &compacted):
		at := compacted.CompactRevision
		if m.everCompacted() < at {
			return fmt.Errorf("compacted is only up to %d", m.everCompacted())
		}
		if w.pos+1 >= at {
			return errors.New("it has been sent all that is compacted")
		}
	case errors.Is(reason, errReplaced):
		if w.epochs[0] == epochs[len(epochs)-1] {
			return errors.New("it is of the newest cluster")
		}
	case errors.Is(reason, errNotShared) || strings.Contains(reason.Error(), "user name is empty"):
		if !m.hadAuth() {
			return errors.New("authentication has never been on")
		}
	default:
		return errors.New("an unknown reason")
	}
	return nil
}
