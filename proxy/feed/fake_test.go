package feed

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
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
	known   bool // the proxy is, as a user who may read all
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

// write agrees on one revision, if there is something to do.
func (c *fakeCluster) write(ops ...fakeOp) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.past.write(ops) {
		c.agree(fakeEntry{rev: c.past.head()})
	}
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

// know has all members know the proxy as a user who may read all.
func (c *fakeCluster) know() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known = true
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
