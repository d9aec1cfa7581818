package proxy

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// leaderFinder finds the member to ping leases at: the one that leads, because only there leases expire. Any other passes
// each ping on to it, at etcd with an HTTP request of its own.
//
// Members are asked for their status: who names itself as the leader is it. That is done when it is needed, not on a timer:
// before a stream is opened, and beside what is sent on streams, each second. Where no member says so, because the leader is
// no endpoint, or will not tell who asks, the current member will do.
//
// All methods may be called concurrently.
type leaderFinder struct {
	upstream *upstream
	found    atomic.Pointer[member] // nil if no member is known to lead
	epoch    time.Time
	stale    atomic.Int64 // from when on it is time to look, in nanoseconds after epoch; changed under mu

	turn   chan struct{} // holds one element while somebody looks
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup // Add only while ctx has not ended, under mu
	mu     sync.Mutex
	doubts int // under mu
}

// asker is those in whose name members are asked. Where they are refused others may be told.
type asker struct {
	again atomic.Int64 // not to ask before, in nanoseconds after the finder's epoch
}

const (
	// leaderInterval is how long an answer is good for, and a refusal for who was refused.
	leaderInterval = time.Second
	// silentInterval is after how long members are asked again when none has said anything, to whomever.
	silentInterval = answerPatience
)

func newLeaderFinder(u *upstream) *leaderFinder {
	f := &leaderFinder{upstream: u, epoch: time.Now(), turn: make(chan struct{}, 1)}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

func (f *leaderFinder) close() {
	f.mu.Lock()
	f.cancel()
	f.mu.Unlock()
	f.tasks.Wait()
}

// doubt says that the member found has failed.
func (f *leaderFinder) doubt() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.doubts++
	f.stale.Store(0)
}

// find returns the member for a new stream, after it has looked, if that has not been done lately. ctx has a's metadata to ask
// with.
func (f *leaderFinder) find(ctx context.Context, a *asker) (*member, error) {
	if _, err := f.upstream.pick(ctx); err != nil { // waits, if there is no member
		return nil, err
	}
	if f.isDue(a) {
		wait, cancel := context.WithTimeout(ctx, 2*answerPatience)
		select {
		case f.turn <- struct{}{}:
			f.look(ctx, a)
			<-f.turn
		case <-wait.Done(): // others look, and are not told
		}
		cancel()
	}
	if m := f.at(); m != nil {
		return m, nil
	}
	t, err := f.upstream.pick(ctx)
	if err != nil {
		return nil, err
	}
	return t.member, nil
}

// refresh returns the member where streams should be by now; nil if none is connected. It does not wait: it has the leader
// looked up, if it is time, with a's metadata, which ctx has.
func (f *leaderFinder) refresh(ctx context.Context, a *asker) *member {
	if f.isDue(a) {
		select {
		case f.turn <- struct{}{}:
			f.lookBeside(ctx, a)
		default: // somebody looks
		}
	}
	return f.at()
}

// lookBeside looks in a goroutine of its own, to which the turn passes.
func (f *leaderFinder) lookBeside(ctx context.Context, a *asker) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx.Err() != nil {
		<-f.turn
		return
	}
	f.tasks.Go(func() {
		ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		defer context.AfterFunc(f.ctx, cancel)()
		f.look(ctx, a)
		<-f.turn
	})
}

func (f *leaderFinder) now() time.Duration { return time.Since(f.epoch) }

// isDue tells whether it is time to look, for a.
func (f *leaderFinder) isDue(a *asker) bool {
	return int64(f.now()) >= max(f.stale.Load(), a.again.Load())
}

// at is the leader, if it is known and connected, else the current member, if there is one.
func (f *leaderFinder) at() *member {
	if m := f.found.Load(); m != nil && m.conn.GetState() == connectivity.Ready {
		return m
	}
	if t := f.upstream.current.Load(); t != nil {
		return t.member
	}
	return nil
}

// look finds the leader, if it is time. Whose turn it is may call it.
func (f *leaderFinder) look(ctx context.Context, a *asker) {
	if !f.isDue(a) { // somebody else has looked
		return
	}
	f.mu.Lock()
	begun, doubts := f.now(), f.doubts
	f.mu.Unlock()
	leader, answer := f.ask(ctx)
	switch {
	case answer == told:
		f.found.Store(leader)
		f.freshUntil(begun+leaderInterval, doubts)
	case answer == refusal:
		a.again.Store(int64(begun + leaderInterval))
	case ctx.Err() == nil:
		f.freshUntil(f.now()+silentInterval, doubts)
	}
}

// freshUntil says that it is not time to look before an instant, if there were no more doubts meanwhile.
func (f *leaderFinder) freshUntil(at time.Duration, doubts int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.doubts == doubts {
		f.stale.Store(int64(at))
	}
}

// ask asks the member that was the leader, and if it is no longer all others. It returns nil if none leads that told.
func (f *leaderFinder) ask(ctx context.Context) (leader *member, best answerKind) {
	members := f.upstream.connected()
	if len(members) < 2 {
		return nil, told
	}
	if m := f.found.Load(); m != nil && m.conn.GetState() == connectivity.Ready && m.leadership(ctx).leads {
		return m, told
	}
	answers := make([]leadership, len(members))
	var asked sync.WaitGroup
	for i, m := range members {
		asked.Go(func() { answers[i] = m.leadership(ctx) })
	}
	asked.Wait()
	// One that was cut off may still take itself for the leader, of an older term.
	var term uint64
	for i, l := range answers {
		best = max(best, l.answer)
		if l.leads && l.term >= term {
			leader, term = members[i], l.term
		}
	}
	return leader, best
}

// answerKind is what a member has said to a question, the most useful last.
type answerKind int

const (
	silent answerKind = iota
	refusal
	told
)

// leadership is what a member says of itself.
type leadership struct {
	answer answerKind
	leads  bool
	term   uint64
}

// leadership asks.
func (m *member) leadership(ctx context.Context) leadership {
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	raw, err := m.call(ctx, pb.Maintenance_Status_FullMethodName, nil)
	switch status.Code(err) {
	case codes.OK:
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return leadership{answer: silent}
	default:
		return leadership{answer: refusal}
	}
	var r pb.StatusResponse
	if proto.Unmarshal(raw, &r) != nil {
		return leadership{answer: silent}
	}
	return leadership{answer: told, leads: r.Leader != 0 && r.Leader == r.Header.GetMemberId(), term: r.RaftTerm}
}
