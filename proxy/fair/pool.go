package fair

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Pool bounds the calls that are under way and divides them among accounts by weight.
//
// It is start-time fair queueing (Goyal, Vin and Cheng 1996) for several calls at a time, as in SFQ(D) (Jin, Chase and Kaur
// 2004): each account has a tag, and the waiting one with the lowest tag is served. An account that begins to wait is not
// below the pool's virtual time, so that nobody saves up for later. Two things differ. How long a call takes is not
// known before it has ended, so tags are charged with the time for which slots are held, while they are held; but only
// while somebody waits, so that nobody pays for what nobody else wanted. And since the charge comes late, no account is
// given more slots than its share while another waits that holds less: a thousand long calls made at once would otherwise
// hold every slot before the first is paid for.
//
// To count calls, as deficit round robin would, was rejected: one client's lists that take 100 ms beside another's gets
// that take 1 ms would hold nearly all slots. Slots reserved for each account were rejected too: they stand idle while
// others wait.
//
// While nobody waits there is nothing to divide: a slot is taken and given back without a lock, and only noted in a cell. The
// first who has to wait counts all that are held for their accounts. That is all that a call costs which finds a free slot.
//
// An ID is on whose behalf a call is made. All methods may be called concurrently.
type Pool[ID comparable] struct {
	cfg   Config
	slots atomic.Int64 // how many may be held; 0 is no bound, which stays one
	full  error        // is returned over the bounds of what may wait

	inUse   atomic.Int64 // slots that are held
	cells   []cell[ID]   // of those that were taken in passing; their number is a power of two
	crowded atomic.Bool  // something waits, or is about to: no slot is taken in passing. Written with mu held

	mu       sync.Mutex // guards what follows, the accounts and what waits
	accounts map[ID]*account[ID]
	waiting  byTag[ID]
	spare    []*account[ID] // forgotten, to be used again
	aside    []*account[ID] // used by next only
	weights  int            // of all accounts
	now      float64        // seconds in which somebody waited, since start and until the pool last looked
	looked   time.Time      // when that was, while somebody waits
	virtual  float64        // the tag at which who is new begins
	warned   time.Time      // when the log was last told of a call that was refused
	stats    Stats
}

// Config is how a pool is.
type Config struct {
	// Slots is how many calls may be under way at a time. Without a bound (0) nothing waits and nobody is counted.
	Slots int
	// MaxQueuedBytes bounds the memory of the calls that wait: their requests, and waiterBytes for each. A call waits only if
	// with it the account's take no more than was free (dynamic thresholds, Choudhury and Hahne 1998): one account alone
	// takes half, and there is always room for another one.
	MaxQueuedBytes int64
	// MaxQueued is how many calls of one account may wait.
	MaxQueued int
	Logger    *slog.Logger
}

// Stats is what goes on, and what has happened since the start.
type Stats struct {
	Slots       int    `json:"slots"`
	InUse       int    `json:"in_use"`
	Accounts    int    `json:"accounts"` // that hold slots or wait for them
	Queued      int    `json:"queued"`
	QueuedBytes int64  `json:"queued_bytes"`
	Granted     uint64 `json:"granted"` // slots, since the start
	Waited      uint64 `json:"waited"`  // calls that did not find a free slot
	Refused     uint64 `json:"refused"` // calls over the bounds of what may wait
	Left        uint64 `json:"left"`    // calls that ended while they waited
}

// waiterBytes is about what a waiting call takes beside its request: its goroutine and its gRPC stream.
const waiterBytes = 8 << 10

// retryAfter is the hint that a refused call is given: long enough for a full queue of short calls to have moved on.
const retryAfter = 100 * time.Millisecond

// warnInterval is the least time between two warnings that calls are refused.
const warnInterval = 10 * time.Second

// New makes a pool.
func New[ID comparable](cfg Config) *Pool[ID] {
	s := status.Convert(rpctypes.ErrGRPCRequestTooManyRequests)
	if hinted, err := s.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(retryAfter)}); err == nil {
		s = hinted
	}
	p := &Pool[ID]{cfg: cfg, full: s.Err(), cells: make([]cell[ID], cellsFor(cfg.Slots)), accounts: map[ID]*account[ID]{}}
	p.slots.Store(int64(cfg.Slots))
	return p
}

// Resize changes how many calls may be under way at a time, from one bound to another. Where there are fewer slots than are held, those
// who hold them keep them, and nobody is given one until enough have been given back.
func (p *Pool[ID]) Resize(slots int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slots < 1 || p.slots.Load() == 0 {
		return
	}
	p.advance()
	p.slots.Store(int64(slots))
	p.serve()
}

// Acquire takes a slot for a call of an account, whose request has so many bytes. If none is free it waits its turn, or
// until ctx has ended, whose error as a gRPC status is returned then. When too much waits already the error is at once
// etcd's ErrGRPCRequestTooManyRequests, with an errdetails.RetryInfo. Without an error the slot must be given back.
//
// An account has the weight of its latest call; less than 1 counts as 1.
func (p *Pool[ID]) Acquire(ctx context.Context, who ID, weight, bytes int) (Slot[ID], error) {
	if p.slots.Load() == 0 {
		return Slot[ID]{}, nil
	}
	weight = max(weight, 1)
	s := Slot[ID]{pool: p, who: who}
	if s.cell = p.pass(who, weight); s.cell != nil {
		return s, nil
	}
	w, ok := p.enter(who, weight, bytes)
	switch {
	case ok:
		return s, nil
	case w == nil:
		p.warn(who)
		return Slot[ID]{}, p.full
	}
	select {
	case <-w.granted:
		return s, nil
	case <-ctx.Done():
		p.leave(w)
		return Slot[ID]{}, status.FromContextError(ctx.Err()).Err()
	}
}

// IsFull tells whether a call that comes now has to wait.
func (p *Pool[ID]) IsFull() bool {
	slots := p.slots.Load()
	return slots > 0 && (p.crowded.Load() || p.inUse.Load() >= slots)
}

// Stats returns the counters.
func (p *Pool[ID]) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.advance()
	p.countHeld() // to know of how many accounts they are
	s := p.stats
	s.Slots, s.InUse, s.Accounts = int(p.slots.Load()), int(p.inUse.Load()), len(p.accounts)
	for i := range p.cells {
		s.Granted += p.cells[i].taken.Load()
	}
	return s
}

// enter takes a slot if it can, or returns what waits for one, or nil if too much waits.
func (p *Pool[ID]) enter(who ID, weight, bytes int) (w *waiter[ID], ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.advance()
	p.serve() // who waits comes first, should a slot have become free just now
	if len(p.waiting) == 0 {
		if p.reserve() {
			p.grant(p.account(who, weight))
			return nil, true
		}
		p.looked = time.Now()
		p.crowded.Store(true)
		p.countHeld()
	}
	a := p.account(who, weight)
	w = &waiter[ID]{account: a, bytes: int64(bytes) + waiterBytes, granted: make(chan struct{})}
	if a.queue.calls >= p.cfg.MaxQueued || a.queue.bytes+w.bytes > p.cfg.MaxQueuedBytes-p.stats.QueuedBytes {
		p.stats.Refused++
		p.forgetIdle(a)
		p.crowded.Store(len(p.waiting) > 0)
		return nil, false
	}
	a.queue.push(w)
	if a.index < 0 {
		p.waiting.add(a)
	}
	p.stats.Waited++
	p.stats.Queued++
	p.stats.QueuedBytes += w.bytes
	p.serve() // one may have become free before it could be known that something waits
	return w, false
}

func (p *Pool[ID]) warn(who ID) {
	p.mu.Lock()
	due := p.warned.IsZero() || time.Since(p.warned) >= warnInterval
	if due {
		p.warned = time.Now()
	}
	refused := p.stats.Refused
	p.mu.Unlock()
	if due {
		p.cfg.Logger.Warn("calls are refused, as too many wait for upstream", "account", fmt.Sprint(who), "refused-since-start", refused)
	}
}

// leave takes away what does not want to wait any more. What was given a slot in the meantime gives it back.
func (p *Pool[ID]) leave(w *waiter[ID]) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.advance()
	p.stats.Left++
	select {
	case <-w.granted:
		p.release(w.account)
	default:
		p.dequeue(w)
		p.forgetIdle(w.account)
	}
}

// advance brings the clock and the virtual time up to date, which goes as fast as the tag of an account that has its share
// of what is used. Both stand still while nobody waits. p.mu is held, here and below.
func (p *Pool[ID]) advance() {
	if len(p.waiting) == 0 {
		return
	}
	now := time.Now()
	passed := now.Sub(p.looked).Seconds()
	p.looked = now
	p.now += passed
	p.virtual += passed * float64(p.inUse.Load()) / float64(p.weights)
}

// account returns the account of a call that has come, with its tag up to date.
func (p *Pool[ID]) account(who ID, weight int) *account[ID] {
	a := p.accounts[who]
	if a == nil {
		if n := len(p.spare); n > 0 {
			a, p.spare = p.spare[n-1], p.spare[:n-1]
		} else {
			a = &account[ID]{}
		}
		*a = account[ID]{who: who, weight: weight, at: p.now, index: -1}
		p.accounts[who] = a
		p.weights += weight
	}
	a.settle(p.now)
	p.weights += weight - a.weight
	a.weight = weight
	if a.queue.calls == 0 {
		a.tag = max(a.tag, p.virtual)
	} else {
		p.waiting.fix(a)
	}
	return a
}

// grant counts a slot for an account whose tag is up to date. Who is new after it does not begin before it.
func (p *Pool[ID]) grant(a *account[ID]) {
	a.inUse++
	p.stats.Granted++
	p.virtual = max(p.virtual, a.tag)
}

// release takes a counted slot from a, and gives it to who is next.
func (p *Pool[ID]) release(a *account[ID]) {
	a.settle(p.now)
	a.inUse--
	p.inUse.Add(-1)
	if a.queue.calls > 0 {
		p.waiting.fix(a)
	}
	p.forgetIdle(a)
	p.serve()
}

// serve gives the slots that are free to who waits.
func (p *Pool[ID]) serve() {
	for len(p.waiting) > 0 && p.reserve() {
		next := p.next()
		w := next.queue.first
		p.dequeue(w)
		p.grant(next)
		close(w.granted)
	}
}

// next returns the account that is served next: of those that hold less than their shares the one with the lowest tag, and
// if there is none of these the one with the lowest tag. There is one that waits.
func (p *Pool[ID]) next() *account[ID] {
	var found *account[ID]
	for found == nil && len(p.waiting) > 0 {
		a := p.waiting[0]
		if a.at != p.now { // tags only grow, so who is first with what is charged now is first
			a.settle(p.now)
			p.waiting.fix(a)
			continue
		}
		if a.below(int(p.slots.Load()), p.weights) {
			found = a
			break
		}
		p.waiting.remove(a)
		p.aside = append(p.aside, a)
	}
	if found == nil {
		found = p.aside[0]
	}
	for _, a := range p.aside {
		p.waiting.add(a)
	}
	clear(p.aside)
	p.aside = p.aside[:0]
	return found
}

// dequeue takes w, which waits, out of the queue.
func (p *Pool[ID]) dequeue(w *waiter[ID]) {
	a := w.account
	a.queue.remove(w)
	p.stats.Queued--
	p.stats.QueuedBytes -= w.bytes
	if a.queue.calls == 0 {
		p.waiting.remove(a)
		p.crowded.Store(len(p.waiting) > 0)
	}
}

// forgetIdle forgets a if it holds nothing and waits for nothing.
func (p *Pool[ID]) forgetIdle(a *account[ID]) {
	if a.inUse > 0 || a.queue.calls > 0 {
		return
	}
	p.weights -= a.weight
	delete(p.accounts, a.who)
	if len(p.spare) < int(p.slots.Load()) {
		*a = account[ID]{}
		p.spare = append(p.spare, a)
	}
	if len(p.accounts) == 0 {
		p.now, p.virtual = 0, 0 // the numbers stay small, and so exact
	}
}
