package coalesce

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// Flight makes one upstream call of many identical ones.
//
// Who comes joins only a call that has not been sent yet, so that what it is given is never older than its question:
// that is what a linearizable read asks for. A call under way therefore is nobody's but those who came before it, and
// those who come meanwhile gather in one next call. It is sent when the newest call under way ends, or has taken longer
// than the patience of the flight, so that a call that hangs does not hang everybody. A thousand callers at once make
// two calls.
//
// A caller that finds no call under way makes its own, on its own goroutine and under its own context: nobody can
// join that call, so there is nobody to protect from the caller's leaving, and the usual case costs no goroutine and no
// hand-over. A call that several share has a goroutine and a context of its own, which ends when the last of them has
// left. Joining a call that is under way, as golang.org/x/sync/singleflight does, gives answers older than the question.
//
// All methods may be called concurrently. What a call returns is shared by all who joined it and must not be changed.
type Flight[V any] struct {
	patience time.Duration
	running  sync.WaitGroup // calls under way, and armed timers

	mu     sync.Mutex // guards what follows, the lines in it and the calls in those
	lines  map[string]*line[V]
	closed bool
	stats  FlightStats
}

// FlightStats counts since the start.
type FlightStats struct {
	Calls  uint64 `json:"calls"`  // calls sent
	Shared uint64 `json:"shared"` // callers that joined the call of another one
}

// line is what goes on under one key; it exists while something does.
type line[V any] struct {
	key      string
	underWay []*flightCall[V] // in the order in which they were sent, at most maxUnderWay
	newest   *flightCall[V]   // the last one sent; nil when it has ended
	next     *flightCall[V]   // not sent yet; nil if nobody waits for it
}

// flightCall is one call.
type flightCall[V any] struct {
	line   *line[V]
	do     func(context.Context) (V, error)
	ctx    context.Context // the call's, ended by cancel
	cancel context.CancelFunc
	sent   time.Time

	waiting int           // callers
	timer   *time.Timer   // sends it at the latest; nil when it is sent or will be by the end of another one
	done    chan struct{} // closed when v and err are there; nil if the caller makes the call itself
	v       V
	err     error
}

// maxUnderWay bounds the calls of one key that are under way at a time: with that many hanging, the next one waits
// for one of them to end, however long they take.
const maxUnderWay = 8

// ErrFlightClosed is the error of calls that are cut short by Close, or come after it.
var ErrFlightClosed = errors.New("upstream calls are closed")

var errNoReturn = errors.New("upstream call did not return")

// NewFlight makes a flight. patience is how long a call keeps the next one of its key waiting.
func NewFlight[V any](patience time.Duration) *Flight[V] {
	return &Flight[V]{patience: patience, lines: map[string]*line[V]{}}
}

// Do returns what call returns, called after Do was, by this caller or by another one with the same key. call must
// return soon after its context has ended, and may use the values of that context, which are those of one of its callers.
// The error is call's, or ctx's if that ended first, or ErrFlightClosed. A call that panics does so on the caller's
// goroutine, or ends the process if it is shared.
func (f *Flight[V]) Do(ctx context.Context, key string, call func(ctx context.Context) (V, error)) (V, error) {
	c, err := f.join(ctx, key, call)
	switch {
	case err != nil:
		return c.v, err
	case c.done == nil:
		f.run(c)
		if c.err != nil && ctx.Err() != nil {
			return c.v, ctx.Err()
		}
		return c.v, c.err
	}
	select {
	case <-c.done:
		return c.v, c.err
	case <-ctx.Done():
		f.leave(c)
		var none V
		return none, ctx.Err()
	}
}

// Close cancels every call and waits for them to return. Those who wait are given ErrFlightClosed.
func (f *Flight[V]) Close() {
	f.mu.Lock()
	f.closed = true
	for _, l := range f.lines {
		for _, c := range l.underWay {
			c.cancel()
		}
		if c := l.next; c != nil {
			l.next = nil
			c.err = ErrFlightClosed
			f.discard(c)
			close(c.done)
		}
	}
	f.mu.Unlock()
	f.running.Wait()
}

// Stats returns the counters.
func (f *Flight[V]) Stats() FlightStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats
}

// join returns the call that the caller shares, or the one without done that it is to run at once.
func (f *Flight[V]) join(ctx context.Context, key string, do func(context.Context) (V, error)) (*flightCall[V], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return &flightCall[V]{}, ErrFlightClosed
	}
	l := f.lines[key]
	if l == nil {
		l = &line[V]{key: key}
		f.lines[key] = l
	}
	if c := l.next; c != nil {
		c.waiting++
		f.stats.Shared++
		return c, nil
	}
	c := &flightCall[V]{line: l, do: do, waiting: 1}
	wait := f.wait(l)
	if wait <= 0 && len(l.underWay) < maxUnderWay {
		c.ctx, c.cancel = context.WithCancel(ctx)
		f.send(c)
		return c, nil
	}
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	c.done = make(chan struct{})
	l.next = c
	if wait > 0 {
		f.running.Add(1)
		c.timer = time.AfterFunc(wait, func() { f.due(l) })
	}
	return c, nil
}

// wait returns how long the newest call under way still keeps the next one waiting. f.mu is held.
func (f *Flight[V]) wait(l *line[V]) time.Duration {
	if l.newest == nil {
		return 0
	}
	return f.patience - time.Since(l.newest.sent)
}

// send puts c under way: from now on nobody joins it. f.mu is held; the caller sees to it that f.run is called.
func (f *Flight[V]) send(c *flightCall[V]) {
	l := c.line
	c.sent = time.Now()
	l.newest = c
	l.underWay = append(l.underWay, c)
	f.running.Add(1)
	f.stats.Calls++
}

// sendNext sends the next call of l if there is one and it has waited long enough. f.mu is held.
func (f *Flight[V]) sendNext(l *line[V]) {
	c := l.next
	if c == nil || f.wait(l) > 0 || len(l.underWay) == maxUnderWay {
		return
	}
	l.next = nil
	f.disarm(c)
	f.send(c)
	go f.run(c)
}

// run makes the call. Should that panic, what waits behind it goes on, if the process does.
func (f *Flight[V]) run(c *flightCall[V]) {
	c.err = errNoReturn
	defer f.ended(c)
	c.v, c.err = c.do(c.ctx)
}

// ended takes c, which has returned, out of its line.
func (f *Flight[V]) ended(c *flightCall[V]) {
	c.cancel()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed && c.err != nil {
		c.err = ErrFlightClosed
	}
	l := c.line
	at := slices.Index(l.underWay, c)
	l.underWay = slices.Delete(l.underWay, at, at+1)
	if l.newest == c {
		l.newest = nil
	}
	if c.done != nil {
		close(c.done)
	}
	if f.sendNext(l); len(l.underWay) == 0 {
		delete(f.lines, l.key)
	}
	f.running.Done()
}

// due is called when the newest call under way has kept the next one waiting for long enough.
func (f *Flight[V]) due(l *line[V]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sendNext(l)
	f.running.Done()
}

// leave takes one caller away from c, which nobody needs any more when it was the last.
func (f *Flight[V]) leave(c *flightCall[V]) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.waiting--; c.waiting > 0 {
		return
	}
	if c.line.next == c {
		c.line.next = nil
	}
	f.discard(c)
}

// discard ends c's context and timer. f.mu is held.
func (f *Flight[V]) discard(c *flightCall[V]) {
	c.cancel()
	f.disarm(c)
}

func (f *Flight[V]) disarm(c *flightCall[V]) {
	if c.timer != nil && c.timer.Stop() {
		f.running.Done()
	}
	c.timer = nil
}
