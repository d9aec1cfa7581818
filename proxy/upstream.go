package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/status"
)

// upstream is the members and the choice among them.
//
// All RPCs go to one member, the current one, until its connection is lost; then to the next connected one, and
// there they stay when the first comes back. So what a client reads through this proxy does not jump back and forth
// between members that have applied more and less: a serializable read sees at least what an earlier one saw, and
// what was written before, for as long as the member stays connected. Taking turns would spread the load of one
// proxy and lose that; the load of many is spread because each begins at a random member.
//
// Which members there are may change. Those that stay keep their connections, and those that are to go are let go only when
// one of those that stay is connected: a cluster that names itself by addresses which cannot be reached from here must not
// cut off a proxy that has reached it by others. A member that is let go gets no new calls, and is disconnected when
// those that it has have ended.
type upstream struct {
	log     *slog.Logger
	cfg     Config                 // of the members
	current atomic.Pointer[tenure] // nil when none is connected; written under mu

	mu      sync.Mutex // guards the fields below, and those that members say
	members []*member
	changed chan struct{} // closed and replaced at every change of a member's state
	unknown error         // why there are no members

	ctx    context.Context // ends with close; tasks begin only before, under mu
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

// tenure is one member's time as the current one.
type tenure struct {
	member *member
	over   chan struct{} // closed at its end
	shown  atomic.Int64  // the newest revision that its answers have stated: it has come that far
}

// show records the revision of an answer.
func (t *tenure) show(rev int64) {
	for was := t.shown.Load(); rev > was && !t.shown.CompareAndSwap(was, rev); {
		was = t.shown.Load()
	}
}

// newUpstream starts connecting to the endpoints that are configured, and looking for those that are not.
func newUpstream(cfg Config) (*upstream, error) {
	if len(cfg.Endpoints) == 0 && cfg.Discovery.Domain == "" {
		return nil, errNoEndpoints
	}
	u := &upstream{log: cfg.Logger, cfg: cfg, changed: make(chan struct{}), unknown: errUndiscovered}
	u.ctx, u.cancel = context.WithCancel(context.Background())
	var endpoints []endpoint
	for _, e := range cfg.Endpoints {
		found, err := cfg.endpoint(e)
		if err != nil {
			u.close()
			return nil, err
		}
		endpoints = append(endpoints, found)
	}
	if err := u.setEndpoints(endpoints); err != nil {
		u.close()
		return nil, err
	}
	if cfg.Discovery.Domain != "" {
		u.tasks.Go(func() { u.discover(cfg.Discovery) })
	}
	return u, nil
}

var (
	errNoEndpoints  = errors.New("no endpoints")
	errUndiscovered = errors.New("DNS has not answered yet")
)

func (u *upstream) close() {
	u.mu.Lock()
	u.cancel()
	u.mu.Unlock()
	u.tasks.Wait()
}

// setEndpoints makes the members those of endpoints: it adds those that are not there yet, and lets go of the others as soon as
// that leaves a connected one. Its error is that of an endpoint which cannot be one, and then nothing has changed.
func (u *upstream) setEndpoints(endpoints []endpoint) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ctx.Err() != nil {
		return nil
	}
	known := map[target]*member{}
	for _, m := range u.members {
		known[m.target] = m
	}
	stays := map[*member]bool{}
	var added []*member
	for _, e := range endpoints {
		m := known[e.target]
		if m == nil {
			var err error
			if m, err = newMember(e, u.cfg); err != nil {
				for _, m := range added {
					_ = m.conn.Close()
				}
				return err
			}
			known[e.target] = m
			added = append(added, m)
		}
		stays[m] = true
	}
	for _, m := range u.members {
		m.leaving = !stays[m]
	}
	for _, m := range turned(added) {
		u.members = append(u.members, m)
		ctx, stop := context.WithCancel(u.ctx)
		m.stop = stop
		u.tasks.Go(func() { u.tend(ctx, m) })
	}
	u.dismiss()
	u.signal()
	return nil
}

// turned returns s beginning at a random place.
func turned[T any](s []T) []T {
	if len(s) == 0 {
		return s
	}
	first := rand.IntN(len(s))
	return append(s[first:len(s):len(s)], s[:first]...)
}

// dismiss lets go of the members that are to go, if one that stays is connected. It needs mu.
func (u *upstream) dismiss() {
	connected := func(m *member) bool { return !m.leaving && m.state == connectivity.Ready }
	if !slices.ContainsFunc(u.members, connected) {
		return
	}
	var stay []*member
	for _, m := range u.members {
		if !m.leaving {
			stay = append(stay, m)
		} else {
			m.stop()
		}
	}
	if len(stay) == len(u.members) {
		return
	}
	u.members = stay // readers may have the old slice
	if t := u.current.Load(); t == nil || t.member.leaving {
		u.appoint(u.next(nil))
	}
}

// signal wakes those who wait for a change. It needs mu.
func (u *upstream) signal() {
	close(u.changed)
	u.changed = make(chan struct{})
}

// tend has a member from its first connection until it is let go and has no call left.
func (u *upstream) tend(ctx context.Context, m *member) {
	u.watch(ctx, m)
	if u.ctx.Err() == nil {
		u.log.Info("upstream member is no endpoint any more", "endpoint", m.endpoint)
	}
	m.calls.end()
	select {
	case <-m.calls.over:
	case <-u.ctx.Done():
	}
	_ = m.conn.Close()
}

// watch keeps a member connected and its state known.
func (u *upstream) watch(ctx context.Context, m *member) {
	for {
		state := m.conn.GetState()
		if state == connectivity.Idle {
			m.conn.Connect()
		}
		u.update(ctx, m, state)
		if !m.conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}

func (u *upstream) update(ctx context.Context, m *member, state connectivity.State) {
	u.mu.Lock()
	if ctx.Err() != nil { // it has been let go
		u.mu.Unlock()
		return
	}
	wasReady, hadFailed := m.state == connectivity.Ready, m.failed
	m.state = state
	switch state {
	case connectivity.Ready:
		m.failed = false
	case connectivity.TransientFailure:
		m.failed = true
	}
	u.dismiss()
	if t := u.current.Load(); t == nil {
		u.appoint(u.next(nil))
	} else if t.member.state != connectivity.Ready {
		u.appoint(u.next(t.member))
	}
	u.signal()
	u.mu.Unlock()

	switch {
	case state == connectivity.Ready:
		u.log.Info("upstream member is connected", "endpoint", m.endpoint)
	case wasReady && state == connectivity.Idle:
		u.log.Warn("connection to an upstream member has ended", "endpoint", m.endpoint)
	case wasReady:
		u.log.Warn("upstream member lost its connection", "endpoint", m.endpoint)
	case m.failed && !hadFailed:
		u.log.Warn("upstream member cannot be reached", "endpoint", m.endpoint, "error", fmt.Sprint(m.cause(ctx)))
	}
}

// appoint ends the current tenure and begins that of m, if it is not nil. It needs mu.
func (u *upstream) appoint(m *member) {
	if t := u.current.Load(); t != nil {
		close(t.over)
	}
	if m == nil {
		u.current.Store(nil)
		return
	}
	m.hear()
	u.current.Store(&tenure{member: m, over: make(chan struct{})})
}

// next returns the first connected member after m that is none of tried, or nil. It needs mu.
func (u *upstream) next(m *member, tried ...*member) *member {
	at := slices.Index(u.members, m) + 1
	for i := range u.members {
		if c := u.members[(at+i)%len(u.members)]; c != m && c.state == connectivity.Ready && !slices.Contains(tried, c) {
			return c
		}
	}
	return nil
}

// prefer makes m the current member, if it is connected.
func (u *upstream) prefer(m *member) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if m.state == connectivity.Ready && slices.Contains(u.members, m) {
		u.appoint(m)
	}
}

// connected returns the members that are connected, the current one first.
func (u *upstream) connected() []*member {
	u.mu.Lock()
	defer u.mu.Unlock()
	var ready []*member
	for _, m := range u.members {
		if m.state != connectivity.Ready {
			continue
		}
		ready = append(ready, m)
		if t := u.current.Load(); t != nil && t.member == m {
			ready[0], ready[len(ready)-1] = m, ready[0]
		}
	}
	return ready
}

// try calls f with the tenure of the current member. If f fails without having sent anything, because the connection was
// just lost, it goes on with the other connected members, each once; of those nothing is known.
func (u *upstream) try(ctx context.Context, f func(*tenure) (sent bool, err error)) error {
	t, err := u.pick(ctx)
	if err != nil {
		return err
	}
	for tried := []*member(nil); ; {
		sent, err := f(t)
		if err == nil || sent || status.Code(err) != codes.Unavailable || ctx.Err() != nil {
			return err
		}
		tried = append(tried, t.member)
		u.mu.Lock()
		m := u.next(t.member, tried...)
		u.mu.Unlock()
		if m == nil {
			return errNoMember
		}
		t = &tenure{member: m}
	}
}

// outageWait is how long an RPC waits for a member when none can be reached. It lets a quick restart of upstream pass
// unnoticed, and slows down clients that try again at once when they are told that nothing was sent, as client/v3 does.
const outageWait = 250 * time.Millisecond

// pick returns the tenure of the current member. When there is none it waits for members of which it is not yet known whether they
// can be reached, which is known within connectTimeout, and for others for outageWait.
func (u *upstream) pick(ctx context.Context) (*tenure, error) {
	var giveUp <-chan time.Time
	for {
		if t := u.current.Load(); t != nil {
			return t, nil
		}
		u.mu.Lock()
		changed, settled := u.changed, true
		for _, m := range u.members {
			settled = settled && m.failed
		}
		t := u.current.Load() // again: a change before this lock is not in changed
		u.mu.Unlock()
		if t != nil {
			return t, nil
		}
		if settled && giveUp == nil {
			giveUp = time.After(outageWait)
		}
		select {
		case <-changed:
		case <-giveUp:
			return nil, errNoMember
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
}

func (u *upstream) ready(ctx context.Context) error {
	if u.current.Load() != nil {
		return nil
	}
	u.mu.Lock()
	members, unknown := u.members, u.unknown
	u.mu.Unlock()
	if len(members) == 0 {
		return fmt.Errorf("upstream: %w", unknown)
	}
	var errs []error
	for _, m := range members {
		if err := m.cause(ctx); err != nil {
			errs = append(errs, fmt.Errorf("upstream %s: %w", m.endpoint, err))
		}
	}
	return errors.Join(errs...)
}

// explain says why there are no members, for as long as there are none.
func (u *upstream) explain(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.unknown = err
}
