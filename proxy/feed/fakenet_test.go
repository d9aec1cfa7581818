package feed

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
)

// fakeUpstream is the Upstream of a fakeCluster: a connection to every member that is up, one of which is preferred.
// A goroutine for each member connects again.
type fakeUpstream struct {
	cluster *fakeCluster
	cancel  context.CancelFunc
	tasks   sync.WaitGroup

	mu      sync.Mutex // guards the fields below; taken before cluster.mu
	conns   []*fakeConn
	current *fakeConn
	changed chan struct{} // closed and replaced when current changes
}

var errFakeUnavailable = status.Error(codes.Unavailable, "connection lost")

func newFakeUpstream(c *fakeCluster) *fakeUpstream {
	ctx, cancel := context.WithCancel(context.Background())
	u := &fakeUpstream{cluster: c, cancel: cancel, changed: make(chan struct{})}
	for _, m := range c.members {
		u.tasks.Go(func() { u.connect(ctx, m) })
	}
	return u
}

func (u *fakeUpstream) close() {
	u.cancel()
	u.tasks.Wait()
}

// connect keeps a member connected.
func (u *fakeUpstream) connect(ctx context.Context, m *fakeMember) {
	for ctx.Err() == nil {
		conn := m.accept()
		if conn == nil {
			select {
			case <-time.After(time.Duration(20+u.cluster.roll(100)) * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		u.mu.Lock()
		u.conns = append(u.conns, conn)
		u.choose(u.current)
		u.mu.Unlock()

		select {
		case <-conn.gone:
		case <-ctx.Done():
			m.cluster.mu.Lock()
			conn.end()
			m.cluster.mu.Unlock()
		}
		u.mu.Lock()
		u.conns = slices.DeleteFunc(u.conns, func(c *fakeConn) bool { return c == conn })
		conn.lose()
		u.choose(u.current)
		u.mu.Unlock()
	}
}

// choose makes want the current connection if it is there, else any, if there is one. u.mu is held.
func (u *fakeUpstream) choose(want *fakeConn) {
	if !slices.Contains(u.conns, want) {
		want = nil
		if len(u.conns) > 0 {
			want = u.conns[u.cluster.roll(len(u.conns))]
		}
	}
	if want == u.current {
		return
	}
	if u.current != nil {
		u.current.lose()
	}
	if want != nil {
		want.find()
	}
	u.current = want
	close(u.changed)
	u.changed = make(chan struct{})
}

func (u *fakeUpstream) Member(ctx context.Context) (Member, error) {
	giveUp := time.NewTimer(250 * time.Millisecond)
	defer giveUp.Stop()
	for {
		u.mu.Lock()
		m, changed := u.current, u.changed
		u.mu.Unlock()
		if m != nil {
			return m, nil
		}
		select {
		case <-changed:
		case <-giveUp.C:
			return nil, status.Error(codes.Unavailable, "no upstream member can be reached")
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		}
	}
}

func (u *fakeUpstream) Others(m Member) (others []Member) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, conn := range u.conns {
		if Member(conn) != m {
			others = append(others, conn)
		}
	}
	return others
}

func (u *fakeUpstream) Prefer(m Member) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if conn, ok := m.(*fakeConn); ok && slices.Contains(u.conns, conn) {
		u.choose(conn)
	}
}

// fakeConn is a connection to a member, as a feed.Member.
type fakeConn struct {
	member *fakeMember
	gone   chan struct{} // closed when the connection has ended

	lostMu sync.Mutex
	lost   chan struct{} // closed when requests no longer go here
	isLost bool

	// Guarded by cluster.mu.
	ended   bool
	dead    chan struct{} // closed when nothing passes any more, and the client does not know it yet
	isDead  bool
	streams map[*fakeStream]struct{}
}

// accept returns a new connection, or nil if the member is not up.
func (m *fakeMember) accept() *fakeConn {
	m.cluster.mu.Lock()
	defer m.cluster.mu.Unlock()
	if !m.up {
		return nil
	}
	conn := &fakeConn{
		member: m, gone: make(chan struct{}), lost: make(chan struct{}), dead: make(chan struct{}),
		streams: map[*fakeStream]struct{}{},
	}
	m.conns[conn] = struct{}{}
	return conn
}

// end ends the connection and all that is on it. cluster.mu is held.
func (c *fakeConn) end() {
	if c.ended {
		return
	}
	c.ended = true
	delete(c.member.conns, c)
	close(c.gone)
	for s := range c.streams {
		s.end(errFakeUnavailable)
	}
}

// keepAlive is how long it takes until a connection is found to be dead.
const keepAlive = 5 * time.Second

// halfOpen lets nothing pass any more, in either direction, until the keepalive ends the connection.
func (c *fakeConn) halfOpen() {
	c.member.cluster.mu.Lock()
	defer c.member.cluster.mu.Unlock()
	if c.isDead || c.ended {
		return
	}
	c.isDead = true
	close(c.dead)
	time.AfterFunc(keepAlive, func() {
		c.member.cluster.mu.Lock()
		defer c.member.cluster.mu.Unlock()
		c.end()
	})
}

// lose tells that requests go elsewhere, find that they go here again.
func (c *fakeConn) lose() {
	c.lostMu.Lock()
	defer c.lostMu.Unlock()
	if !c.isLost {
		c.isLost = true
		close(c.lost)
	}
}

func (c *fakeConn) find() {
	c.lostMu.Lock()
	defer c.lostMu.Unlock()
	if c.isLost {
		c.isLost = false
		c.lost = make(chan struct{})
	}
}

func (c *fakeConn) Lost() <-chan struct{} {
	c.lostMu.Lock()
	defer c.lostMu.Unlock()
	return c.lost
}

func (c *fakeConn) String() string { return c.member.name }

func (c *fakeConn) Call(ctx context.Context, method string, req []byte) (wire.Raw, error) {
	return c.call(ctx, false, method, req)
}

func (c *fakeConn) CallAsNobody(ctx context.Context, method string, req []byte) (wire.Raw, error) {
	return c.call(ctx, true, method, req)
}

// call is a unary call, which takes a while there and back.
func (c *fakeConn) call(ctx context.Context, nobody bool, method string, req []byte) (wire.Raw, error) {
	type answer struct {
		resp []byte
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan answer, 1)
	c.member.cluster.tasks.Go(func() {
		c.member.cluster.pause()
		var a answer
		a.resp, a.err = c.member.serve(ctx, nobody, method, req)
		c.member.cluster.pause()
		answers <- a
	})
	select {
	case <-c.gone:
		return nil, errFakeUnavailable
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	case <-c.dead:
	case a := <-answers:
		return a.resp, a.err
	}
	select {
	case <-c.gone:
		return nil, errFakeUnavailable
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

func (c *fakeConn) Regime(ctx context.Context) (Regime, error) {
	req := wire.AppendRangeRequest(nil, &wire.RangeRequest{Key: []byte{0}, Serializable: true})
	for _, as := range []struct {
		call caller
		may  Regime
	}{{c.CallAsNobody, Open}, {c.Call, Guarded}} {
		switch _, err := as.call(ctx, "/etcdserverpb.KV/Range", req); {
		case err == nil:
			return as.may, nil
		case !isIdentityText(status.Convert(err).Message()):
			return Closed, err
		}
	}
	return Closed, nil
}

// Watch opens a Watch RPC.
func (c *fakeConn) Watch(ctx context.Context, requireLeader bool) (WatchStream, error) {
	cluster := c.member.cluster
	cluster.mu.Lock()
	defer cluster.mu.Unlock()
	if c.ended {
		return nil, errFakeUnavailable
	}
	s := &fakeStream{
		conn: c, requireLeader: requireLeader,
		up: make(chan []byte, 16), down: make(chan []byte, cluster.limits.window),
		ended: make(chan struct{}),
	}
	c.streams[s] = struct{}{}
	s.stop = context.AfterFunc(ctx, func() {
		cluster.mu.Lock()
		defer cluster.mu.Unlock()
		s.end(status.FromContextError(ctx.Err()).Err())
	})
	if requireLeader && !c.member.hasLeader() {
		s.end(rpctypes.ErrGRPCNoLeader)
		return s, nil
	}
	all := c.member.watchers
	cluster.tasks.Go(func() { c.member.serveWatch(s, all) })
	return s, nil
}

// fakeStream is both sides of a Watch RPC.
type fakeStream struct {
	conn          *fakeConn
	requireLeader bool
	up, down      chan []byte   // messages on the way
	ended         chan struct{} // closed by end
	stop          func() bool

	err error // guarded by cluster.mu; why it has ended
}

// end is called with cluster.mu held.
func (s *fakeStream) end(err error) {
	if s.err != nil {
		return
	}
	s.err = err
	close(s.ended)
	delete(s.conn.streams, s)
	s.stop()
}

func (s *fakeStream) reason() error {
	s.conn.member.cluster.mu.Lock()
	defer s.conn.member.cluster.mu.Unlock()
	return s.err
}

// Send and Recv are the client's side.

func (s *fakeStream) Send(req []byte) error {
	select {
	case <-s.conn.dead:
		return nil // what is sent stays in a buffer of the kernel
	default:
	}
	select {
	case s.up <- req:
		return nil
	case <-s.ended:
		return s.reason()
	}
}

func (s *fakeStream) Refused(string) {}

func (s *fakeStream) Recv() (wire.Raw, error) {
	select {
	case <-s.conn.dead:
		<-s.ended
		return nil, s.reason()
	default:
	}
	select { // what has arrived may be lost when the stream ends
	case resp := <-s.down:
		return resp, nil
	case <-s.ended:
		return nil, s.reason()
	case <-s.conn.dead:
		<-s.ended
		return nil, s.reason()
	}
}
