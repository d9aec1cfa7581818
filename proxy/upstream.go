package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
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
type upstream struct {
	log     *slog.Logger
	members []*member
	current atomic.Pointer[tenure] // nil when none is connected; written under mu

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at every change of a member's state

	cancel   context.CancelFunc
	watchers sync.WaitGroup
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

func newUpstream(cfg Config) (*upstream, error) {
	if len(cfg.Endpoints) == 0 {
		return nil, errors.New("no endpoints")
	}
	u := &upstream{log: cfg.Logger, changed: make(chan struct{})}
	for _, e := range cfg.Endpoints {
		m, err := newMember(e, cfg)
		if err != nil {
			u.closeConns()
			return nil, err
		}
		u.members = append(u.members, m)
	}
	first := rand.IntN(len(u.members))
	u.members = append(u.members[first:len(u.members):len(u.members)], u.members[:first]...)
	ctx, cancel := context.WithCancel(context.Background())
	u.cancel = cancel
	for _, m := range u.members {
		u.watchers.Go(func() { u.watch(ctx, m) })
	}
	return u, nil
}

func (u *upstream) close() {
	u.cancel()
	u.watchers.Wait()
	u.closeConns()
}

func (u *upstream) closeConns() {
	for _, m := range u.members {
		_ = m.conn.Close()
	}
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
	wasReady, hadFailed := m.state == connectivity.Ready, m.failed
	m.state = state
	switch state {
	case connectivity.Ready:
		m.failed = false
	case connectivity.TransientFailure:
		m.failed = true
	}
	if t := u.current.Load(); t == nil {
		u.appoint(u.next(nil))
	} else if t.member.state != connectivity.Ready {
		u.appoint(u.next(t.member))
	}
	close(u.changed)
	u.changed = make(chan struct{})
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
	u.current.Store(&tenure{member: m, over: make(chan struct{})})
}

// next returns the first connected member after m, or nil. It needs mu.
func (u *upstream) next(m *member) *member {
	at := 0
	for i := range u.members {
		if u.members[i] == m {
			at = i + 1
		}
	}
	for i := range u.members {
		if c := u.members[(at+i)%len(u.members)]; c != m && c.state == connectivity.Ready {
			return c
		}
	}
	return nil
}

// try calls f with the tenure of the current member. If f fails without having sent anything, because the connection was
// just lost, it goes on with the other connected members, each once; of those nothing is known.
func (u *upstream) try(ctx context.Context, f func(*tenure) (sent bool, err error)) error {
	t, err := u.pick(ctx)
	if err != nil {
		return err
	}
	for range u.members {
		sent, err := f(t)
		if err == nil || sent || status.Code(err) != codes.Unavailable || ctx.Err() != nil {
			return err
		}
		u.mu.Lock()
		m := u.next(t.member)
		u.mu.Unlock()
		if m == nil {
			break
		}
		t = &tenure{member: m}
	}
	return errNoMember
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
	var errs []error
	for _, m := range u.members {
		if err := m.cause(ctx); err != nil {
			errs = append(errs, fmt.Errorf("upstream %s: %w", m.endpoint, err))
		}
	}
	return errors.Join(errs...)
}
