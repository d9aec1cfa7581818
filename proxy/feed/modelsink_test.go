package feed

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"weir/coalesce"
)

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

func isReplaced(reason error) bool {
	var c *coalesce.CompactedError
	return errors.As(reason, &c) && c.Reason == errReplaced.Error() && c.CompactRevision > 0
}

// checkReason says what is wrong with the reason why a watch is cancelled.
func (m *model) checkReason(w *modelWatch, reason error) error {
	var compacted *coalesce.CompactedError
	_, epochs := m.epochsNow()
	switch {
	case errors.As(reason, &compacted) && compacted.Reason == "":
		at := compacted.CompactRevision
		if m.everCompacted() < at {
			return fmt.Errorf("compacted is only up to %d", m.everCompacted())
		}
		if w.pos+1 >= at {
			return errors.New("it has been sent all that is compacted")
		}
	case isReplaced(reason):
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

func (c *modelClient) Recheck() {}

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
