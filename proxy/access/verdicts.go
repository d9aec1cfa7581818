package access

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"weir/grpcapi/wire"
)

// maxAge is for how long an answer of upstream about what somebody may do counts, from when the question was sent.
const maxAge = time.Second

// never is a revision that no store reaches.
const never = 1 << 62

const (
	// maxVerdictBytes bounds the verdicts that are remembered.
	maxVerdictBytes = 64 << 20
	// maxCalls bounds the questions that are upstream at a time, and maxOpen these and those that wait for that. Those of one token
	// are bounded by less, so that it is not in the way of others.
	maxCalls, maxCallsOfOne = 128, 64
	maxOpen, maxOpenOfOne   = 4096, 1024
)

// verdicts are what upstream has said about who may read what, as long as it counts. They are kept in two halves of which
// the older is dropped every second: so nothing has to be looked for to be forgotten. What does not fit is not remembered,
// and asked for again.
//
// Only what upstream allows is remembered. Who asks while the same is being asked waits for that answer: it counts if it was
// asked at most a second ago when it is there.
//
// Questions upstream are bounded, and nobody waits for long to ask: who is one too many is not told, and has to be forwarded.
type verdicts struct {
	ctx    context.Context // of the questions
	tasks  *sync.WaitGroup
	clock  clock
	call   Call // without any identity but that in its context
	asked  atomic.Uint64
	era    func() *generation                                        // the present one
	answer func(c client, asked *generation, answered time.Duration) // told of each answer that is yes
	slots  chan struct{}                                             // for a question upstream each

	mu         sync.RWMutex // guards what follows
	fresh, old map[question]time.Duration
	turned     time.Duration // when fresh was begun
	bytes      int           // of fresh
	open       map[question]*verdict
	askers     map[string]*asker // by token: all who have questions that are not answered, forgotten or not
	asking     int               // such questions
}

// asker is a token under which upstream is asked.
type asker struct {
	asking int
	slots  chan struct{} // for its questions upstream
}

// question is one that upstream may be asked. The empty range stands for a question of no matter what range: who may read
// any is who the token says.
type question struct {
	token, key, end string
	// linearizable has the member catch up with the others before it looks at users and roles.
	linearizable bool
}

func (q *question) size() int { return 128 + len(q.token) + len(q.key) + len(q.end) }

// verdict is a question under way.
type verdict struct {
	era  *generation // in which it was asked; nil if that is not known
	sent time.Duration
	done chan struct{} // closed when err is set
	err  error         // nil: allowed. Else upstream's
}

// forget drops all verdicts. Who asks from now on does not join a question that was sent before.
func (v *verdicts) forget() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.fresh, v.old, v.open = map[question]time.Duration{}, nil, map[question]*verdict{}
	v.bytes, v.turned = 0, v.clock.now()
}

// allows tells whether the token is known to be allowed to read the range, at now. It allocates nothing.
func (v *verdicts) allows(token string, key, end []byte, linearizable bool, now time.Duration) bool {
	v.mu.RLock()
	sent, ok := v.fresh[question{token, string(key), string(end), linearizable}]
	if !ok && len(v.old) > 0 {
		sent, ok = v.old[question{token, string(key), string(end), linearizable}]
	}
	v.mu.RUnlock()
	return ok && now-sent <= maxAge
}

// isValid tells whether the token is known to be somebody's, at now.
func (v *verdicts) isValid(token string, now time.Duration) bool {
	return v.allows(token, nil, nil, false, now)
}

// ask begins to ask upstream, or joins who does. wait waits for the answer.
func (v *verdicts) ask(c client, r Range, linearizable bool) *verdict {
	q := question{c.token, string(r.Key), string(r.End), linearizable}
	v.mu.Lock()
	defer v.mu.Unlock()
	if d := v.open[q]; d != nil {
		return d
	}
	d := &verdict{era: v.era(), sent: v.clock.now(), done: make(chan struct{})}
	a := v.askers[q.token]
	switch {
	case v.ctx.Err() != nil:
		d.err = errClosed
	case v.asking == maxOpen || a != nil && a.asking == maxOpenOfOne:
		d.err = errTooMany
	}
	if d.err != nil {
		close(d.done)
		return d
	}
	if a == nil {
		a = &asker{slots: make(chan struct{}, maxCallsOfOne)}
		v.askers[q.token] = a
	}
	v.asking++
	a.asking++
	v.open[q] = d
	v.asked.Add(1)
	v.tasks.Go(func() { v.run(d, a, q, c) })
	return d
}

// wait returns nil if the answer is yes and still counts, else upstream's error, or that of ctx.
func (v *verdicts) wait(ctx context.Context, d *verdict) error {
	select {
	case <-d.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if d.err == nil && v.clock.now()-d.sent > maxAge {
		return errNoVerdict
	}
	return d.err
}

// run asks. An answer that takes longer than it would count is not waited for.
func (v *verdicts) run(d *verdict, a *asker, q question, c client) {
	ctx, cancel := context.WithTimeout(v.ctx, maxAge)
	defer cancel()
	d.err = inSlot(ctx, a.slots, func() error {
		return inSlot(ctx, v.slots, func() error {
			return askRange(c.question(ctx), v.call, Range{[]byte(q.key), []byte(q.end)}, q.linearizable)
		})
	})
	if errors.Is(d.err, context.DeadlineExceeded) { // which is no client's: who watches and is told of one does not come again
		d.err = errNoVerdict
	}
	answered := v.clock.now()
	if d.err == nil {
		v.answer(c, d.era, answered)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.asking--
	if a.asking--; a.asking == 0 {
		delete(v.askers, q.token)
	}
	if v.open[q] == d { // else everything has been forgotten meanwhile
		delete(v.open, q)
		if d.err == nil {
			v.remember(q, d.sent, answered)
		}
		if d.err == nil || says(d.err, rpctypes.ErrGRPCPermissionDenied) {
			v.remember(question{token: q.token}, d.sent, answered)
		}
	}
	close(d.done)
}

// inSlot calls f when there is a free slot.
func inSlot(ctx context.Context, slots chan struct{}, f func() error) error {
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
		return f()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// remember is called with v.mu held.
func (v *verdicts) remember(q question, sent, now time.Duration) {
	switch since := now - v.turned; {
	case since > 2*maxAge:
		v.fresh, v.old, v.bytes, v.turned = map[question]time.Duration{}, nil, 0, now
	case since > maxAge:
		v.fresh, v.old, v.bytes, v.turned = make(map[question]time.Duration, len(v.fresh)/2), v.fresh, 0, now
	}
	was, ok := v.fresh[q]
	if !ok {
		if v.bytes+q.size() > maxVerdictBytes/2 {
			return
		}
		v.bytes += q.size()
	}
	v.fresh[q] = max(was, sent)
}

// askRange returns nil if the identity in ctx may read a range.
func askRange(ctx context.Context, call Call, r Range, linearizable bool) error {
	req := wire.RangeRequest{Key: r.Key, RangeEnd: r.End, Revision: never, Serializable: !linearizable, CountOnly: true}
	_, err := call(ctx, pb.KV_Range_FullMethodName, wire.AppendRangeRequest(nil, &req))
	switch {
	case err == nil:
		return errNoVerdict
	case says(err, rpctypes.ErrGRPCFutureRev):
		return nil
	}
	return err
}

// clock is time since the guard was made: what is compared on the hot path is one number.
type clock struct{ start time.Time }

func (c clock) now() time.Duration { return time.Since(c.start) }

// longAgo is before everything.
const longAgo = time.Duration(math.MinInt64 / 2)
