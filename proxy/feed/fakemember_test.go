package feed

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

// fakeMember is one etcd server.
type fakeMember struct {
	cluster *fakeCluster
	name    string
	id      uint64
	work    chan struct{} // has an element when there may be something to apply

	// Guarded by cluster.mu.
	fakeState
	applied  int
	up       bool
	isolated bool // from the quorum
	stuck    bool // applies nothing
	cancel   context.CancelFunc
	conns    map[*fakeConn]struct{}
	news     chan struct{} // closed and replaced when something is applied
	watchers *fakeWatchers // since it was started
}

// fakeState is what a member has made of the entries that it has applied.
type fakeState struct {
	rev, compacted int64
	auth           bool
}

func (s *fakeState) apply(e fakeEntry) {
	s.rev = max(s.rev, e.rev)
	s.compacted = max(s.compacted, e.compact)
	if e.auth != nil {
		s.auth = *e.auth
	}
}

// start starts the member, if it is not up, with what it had on disk: perhaps without the last few entries that it had
// applied.
func (m *fakeMember) start() {
	c := m.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.up {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.up, m.cancel = true, cancel
	m.applied -= min(m.applied, c.rnd.IntN(4))
	m.fakeState = c.base
	for _, e := range c.log[:m.applied] {
		m.apply(e)
	}
	m.conns = map[*fakeConn]struct{}{}
	m.watchers = newFakeWatchers(m)
	for _, run := range []func(context.Context){m.applyAll, m.monitorLeader, m.watchers.syncLoop, m.watchers.victimsLoop} {
		c.tasks.Go(func() { run(ctx) })
	}
	m.poke()
}

// kill ends the member and all connections to it.
func (m *fakeMember) kill() {
	c := m.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	if !m.up {
		return
	}
	m.up = false
	m.cancel()
	for conn := range m.conns {
		conn.end()
	}
}

// set changes the member under the cluster's lock.
func (m *fakeMember) set(change func()) {
	m.cluster.mu.Lock()
	defer m.cluster.mu.Unlock()
	change()
	m.poke()
}

// poke tells that there may be something to apply.
func (m *fakeMember) poke() {
	select {
	case m.work <- struct{}{}:
	default:
	}
}

// applyAll applies the log, each entry a little later than it was agreed on.
func (m *fakeMember) applyAll(ctx context.Context) {
	c := m.cluster
	for {
		select {
		case <-m.work:
		case <-ctx.Done():
			return
		}
		if ctx.Err() != nil {
			m.poke() // it was for the next life
			return
		}
		for {
			c.pause()
			c.mu.Lock()
			more := m.up && !m.isolated && !m.stuck && ctx.Err() == nil && m.applied < len(c.log)
			if more {
				if behind := len(c.log) - m.applied; behind > 8 && c.rnd.IntN(8) == 0 {
					m.install()
				} else {
					e := c.log[m.applied]
					m.applied++
					if e.rev != 0 {
						m.watchers.notify(e.rev, c.past.at(e.rev))
					}
					m.fakeState.apply(e)
				}
				close(m.news)
				m.news = make(chan struct{})
			}
			c.mu.Unlock()
			if !more {
				break
			}
		}
	}
}

// install brings the member up to date with a snapshot of the leader. cluster.mu is held.
func (m *fakeMember) install() {
	m.applied = len(m.cluster.log)
	m.fakeState = m.cluster.state()
	m.watchers.restore()
}

// electionTimeout of the fake cluster.
const electionTimeout = time.Second

// monitorLeader ends the streams that need a leader when there has been none for three election timeouts.
func (m *fakeMember) monitorLeader(ctx context.Context) {
	tick := time.NewTicker(electionTimeout)
	defer tick.Stop()
	for missing := 0; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		m.cluster.mu.Lock()
		missing++
		if m.hasLeader() {
			missing = 0
		}
		if missing >= 3 {
			for conn := range m.conns {
				for s := range conn.streams {
					if s.requireLeader {
						s.end(rpctypes.ErrGRPCNoLeader)
					}
				}
			}
		}
		m.cluster.mu.Unlock()
	}
}

// hasLeader is called with cluster.mu held.
func (m *fakeMember) hasLeader() bool { return !m.isolated && m.cluster.hasQuorum() }

// leader is the id of a member, or 0. cluster.mu is held.
func (m *fakeMember) leader() uint64 {
	for _, other := range m.cluster.members {
		if m.hasLeader() && other.up && !other.isolated {
			return other.id
		}
	}
	return 0
}

// header is called with cluster.mu held.
func (m *fakeMember) header(rev int64) *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: m.cluster.id, MemberId: m.id, Revision: rev, RaftTerm: m.cluster.term}
}

// serve answers a unary call, of the proxy or of nobody.
func (m *fakeMember) serve(ctx context.Context, nobody bool, method string, req []byte) ([]byte, error) {
	m.cluster.mu.Lock()
	m.cluster.calls[method]++
	m.cluster.mu.Unlock()
	switch method {
	case "/etcdserverpb.KV/Range":
		return m.serveRange(ctx, nobody, req)
	case "/etcdserverpb.Maintenance/Status":
		m.cluster.mu.Lock()
		defer m.cluster.mu.Unlock()
		return proto.Marshal(&pb.StatusResponse{
			Header: m.header(m.rev), Version: "3.7.3", Leader: m.leader(),
			RaftIndex: uint64(len(m.cluster.log)), RaftTerm: m.cluster.term, RaftAppliedIndex: uint64(m.applied),
		})
	}
	return nil, fmt.Errorf("the fake cluster does not know %s", method)
}

// requestTimeout is what etcd gives a linearizable read: 5 s and two election timeouts.
const requestTimeout = 5*time.Second + 2*electionTimeout

func (m *fakeMember) serveRange(ctx context.Context, nobody bool, b []byte) ([]byte, error) {
	var req pb.RangeRequest
	if err := proto.Unmarshal(b, &req); err != nil {
		return nil, err
	}
	if len(req.Key) == 0 {
		return nil, rpctypes.ErrGRPCEmptyKey
	}
	if !req.Serializable {
		if err := m.awaitReadIndex(ctx); err != nil {
			return nil, err
		}
	}
	m.cluster.mu.Lock()
	defer m.cluster.mu.Unlock()
	rev := req.Revision
	if rev == 0 {
		rev = m.rev
	}
	switch {
	case m.auth && (nobody || !m.cluster.known):
		return nil, rpctypes.ErrGRPCUserEmpty
	case rev > m.rev:
		return nil, rpctypes.ErrGRPCFutureRev
	case rev < m.compacted:
		return nil, rpctypes.ErrGRPCCompacted
	}
	resp := &pb.RangeResponse{Header: m.header(m.rev)}
	end := fakeRangeEnd(req.RangeEnd)
	keys := []string{string(req.Key)}
	if end != nil {
		keys = slices.Sorted(maps.Keys(m.cluster.past.versions))
	}
	for _, key := range keys {
		kv := m.cluster.past.get([]byte(key), rev)
		if kv == nil || !fakeContains(req.Key, end, []byte(key)) {
			continue
		}
		resp.Count++
		switch {
		case req.CountOnly:
		case req.Limit > 0 && int64(len(resp.Kvs)) >= req.Limit:
			resp.More = true
		default:
			resp.Kvs = append(resp.Kvs, kv)
		}
	}
	return proto.Marshal(resp)
}

// awaitReadIndex waits until the member has applied everything that had been agreed on when it was called.
func (m *fakeMember) awaitReadIndex(ctx context.Context) error {
	c := m.cluster
	timeout := time.NewTimer(requestTimeout)
	defer timeout.Stop()
	index := -1
	for {
		c.mu.Lock()
		if index < 0 && m.hasLeader() {
			index = len(c.log)
		}
		reached, news := index >= 0 && m.applied >= index, m.news
		c.mu.Unlock()
		if reached {
			return nil
		}
		retry := time.NewTimer(100 * time.Millisecond) // a leader may be elected without news
		select {
		case <-news:
		case <-retry.C:
		case <-timeout.C:
			return rpctypes.ErrGRPCTimeout
		case <-ctx.Done():
			return ctx.Err()
		}
		retry.Stop()
	}
}
