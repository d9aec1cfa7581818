package feed

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

// fakeCluster is an etcd cluster in memory, for tests in a testing/synctest bubble: what a client can observe of etcd
// 3.7's watches and reads, on members each of which lags by itself and can fail in every way. It is written after etcd's
// mvcc.watchableStore and v3rpc.watchServer, which it follows where a client can tell, races included.
type fakeCluster struct {
	limits fakeLimits
	tasks  sync.WaitGroup

	mu      sync.Mutex // guards everything below, and all of the members
	rnd     *rand.Rand
	id      uint64
	term    uint64
	past    *fakeHistory
	base    fakeState   // of every member before the log
	log     []fakeEntry // what has been agreed on
	members []*fakeMember
	calls   map[string]int // unary calls so far, by method
}

// fakeLimits are constants of etcd, small so that a short test reaches them.
type fakeLimits struct {
	batchRevisions int           // watchBatchMaxRevs
	buffer         int           // chanBufLen: responses that a Watch RPC may have waiting
	window         int           // responses on the network to one client
	fragment       int           // bytes from which a response is split
	delay          time.Duration // the most that a message, or the application of an entry, takes
}

// fakeEntry is one entry of the log. One of its fields is set.
type fakeEntry struct {
	rev     int64 // the revision that it makes
	compact int64
	auth    *bool
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

// fakeHistory is all revisions of a store, never compacted: a member only pretends that they are.
type fakeHistory struct {
	revisions [][]*mvccpb.Event // from revision 2 on, without prev_kv
	versions  map[string][]fakeVersion
}

// fakeVersion is a key from a revision on; kv is nil when it has been deleted.
type fakeVersion struct {
	rev int64
	kv  *mvccpb.KeyValue
}

const firstRevision = 1 // of an empty store

func (h *fakeHistory) head() int64 { return firstRevision + int64(len(h.revisions)) }

// at returns the events of a revision.
func (h *fakeHistory) at(rev int64) []*mvccpb.Event { return h.revisions[rev-firstRevision-1] }

// get returns what key is at a revision, or nil.
func (h *fakeHistory) get(key []byte, rev int64) *mvccpb.KeyValue {
	vs := h.versions[string(key)]
	for i := len(vs) - 1; i >= 0; i-- {
		if vs[i].rev <= rev {
			return vs[i].kv
		}
	}
	return nil
}

// fakeOp is a put, or a deletion if value is nil.
type fakeOp struct {
	key   string
	value []byte
}

// write makes one revision of ops on different keys. Deletions of keys that are not there do nothing; if nothing is left
// to do there is no revision.
func (h *fakeHistory) write(ops []fakeOp) (made bool) {
	rev := h.head() + 1
	var events []*mvccpb.Event
	for _, op := range ops {
		old := h.get([]byte(op.key), rev)
		e := &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte(op.key), ModRevision: rev}}
		v := fakeVersion{rev: rev}
		switch {
		case op.value == nil && old == nil:
			continue
		case op.value == nil:
			e.Type = mvccpb.Event_DELETE
		default:
			e.Kv.Value, e.Kv.CreateRevision, e.Kv.Version = op.value, rev, 1
			if old != nil {
				e.Kv.CreateRevision, e.Kv.Version = old.CreateRevision, old.Version+1
			}
			v.kv = e.Kv
		}
		events = append(events, e)
		h.versions[op.key] = append(h.versions[op.key], v)
	}
	if len(events) == 0 {
		return false
	}
	h.revisions = append(h.revisions, events)
	return true
}

// until returns a copy of the history up to a revision.
func (h *fakeHistory) until(rev int64) *fakeHistory {
	past := &fakeHistory{revisions: slices.Clone(h.revisions[:rev-firstRevision]), versions: maps.Clone(h.versions)}
	for key, vs := range past.versions {
		n := 0
		for n < len(vs) && vs[n].rev <= rev {
			n++
		}
		past.versions[key] = slices.Clone(vs[:n])
	}
	return past
}

func newFakeCluster(rnd *rand.Rand, members int, limits fakeLimits) *fakeCluster {
	c := &fakeCluster{
		limits: limits,
		rnd:    rnd,
		id:     rnd.Uint64(),
		term:   2,
		past:   &fakeHistory{versions: map[string][]fakeVersion{}},
		base:   fakeState{rev: firstRevision},
		calls:  map[string]int{},
	}
	for i := range members {
		m := &fakeMember{
			cluster: c, name: fmt.Sprint("member", i), id: rnd.Uint64(),
			news: make(chan struct{}), work: make(chan struct{}, 1),
		}
		c.members = append(c.members, m)
	}
	for _, m := range c.members {
		m.start()
	}
	return c
}

// close kills all members and waits until nothing of them runs any more.
func (c *fakeCluster) close() {
	for _, m := range c.members {
		m.kill()
	}
	c.tasks.Wait()
}

func (c *fakeCluster) roll(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rnd.IntN(n)
}

// pause takes as long as something on the network does, which now and then is long.
func (c *fakeCluster) pause() {
	if c.limits.delay == 0 {
		return
	}
	switch n := c.roll(40); {
	case n == 0:
		time.Sleep(time.Duration(c.roll(20 * int(c.limits.delay))))
	case n < 20:
		time.Sleep(time.Duration(c.roll(int(c.limits.delay))))
	}
}

// write agrees on one revision and returns the newest one.
func (c *fakeCluster) write(ops ...fakeOp) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.past.write(ops) {
		c.agree(fakeEntry{rev: c.past.head()})
	}
	return c.past.head()
}

func (c *fakeCluster) compact(rev int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.agree(fakeEntry{compact: rev})
}

func (c *fakeCluster) setAuth(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.agree(fakeEntry{auth: &on})
}

func (c *fakeCluster) head() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.past.head()
}

// history is for a test to read while nothing is written.
func (c *fakeCluster) history() *fakeHistory {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.past
}

// now is what a member has that has applied everything.
func (c *fakeCluster) now() fakeState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state()
}

// watches is how many watches there are on all members.
func (c *fakeCluster) watches() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.members {
		if m.up {
			n += len(m.watchers.synced) + len(m.watchers.unsynced) + len(m.watchers.victims)
		}
	}
	return n
}

// agree is called with c.mu held.
func (c *fakeCluster) agree(e fakeEntry) {
	c.log = append(c.log, e)
	for _, m := range c.members {
		m.poke()
	}
}

// backup is what a restored cluster has in common with the old one.
type backup int

const (
	otherID  backup = iota // nothing
	sameID                 // the cluster id, but the terms begin anew
	sameTerm               // id and term: only if its revision is lower can it be told from the old one
)

// restore replaces the cluster by a backup of revision rev, which then goes on. Where nobody could tell it from the old
// one by the term, as that is at its lowest already, it gets another id. All members are killed; they are to be started
// again.
func (c *fakeCluster) restore(rev int64, kind backup) {
	for _, m := range c.members {
		m.kill()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	compacted := min(c.state().compacted, rev)
	c.past = c.past.until(rev)
	c.base, c.log = fakeState{rev: rev, compacted: compacted}, nil
	switch {
	case kind == sameID && c.term > 1:
		c.term = 1
	case kind != sameTerm:
		c.id = c.rnd.Uint64()
	}
	for _, m := range c.members {
		m.applied = 0
		m.isolated, m.stuck = false, false
	}
}

// elect begins a new term, but not one by which a restored cluster could be taken for the old one.
func (c *fakeCluster) elect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.term > 1 {
		c.term++
	}
}

// state is what a member has that has applied everything. c.mu is held.
func (c *fakeCluster) state() fakeState {
	s := c.base
	for _, e := range c.log {
		s.apply(e)
	}
	return s
}

// hasQuorum is called with c.mu held.
func (c *fakeCluster) hasQuorum() bool {
	n := 0
	for _, m := range c.members {
		if m.up && !m.isolated {
			n++
		}
	}
	return n > len(c.members)/2
}

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

// poke is called with cluster.mu held.
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

// serve answers a unary call.
func (m *fakeMember) serve(ctx context.Context, method string, req []byte) ([]byte, error) {
	m.cluster.mu.Lock()
	m.cluster.calls[method]++
	m.cluster.mu.Unlock()
	switch method {
	case "/etcdserverpb.KV/Range":
		return m.serveRange(ctx, req)
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

func (m *fakeMember) serveRange(ctx context.Context, b []byte) ([]byte, error) {
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
	case m.auth:
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

// fakeRangeEnd turns the range end of a request into etcd's inner form: nil is the single key, empty is no end.
func fakeRangeEnd(end []byte) []byte {
	switch {
	case len(end) == 0:
		return nil
	case len(end) == 1 && end[0] == 0:
		return []byte{}
	}
	return end
}

// fakeContains takes an end in etcd's inner form.
func fakeContains(key, end, k []byte) bool {
	switch {
	case end == nil:
		return bytes.Equal(key, k)
	case len(end) == 0:
		return bytes.Compare(key, k) <= 0
	}
	return bytes.Compare(key, k) <= 0 && bytes.Compare(k, end) < 0
}
