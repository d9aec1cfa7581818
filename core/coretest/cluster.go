package coretest

import (
	"fmt"
	"hash/fnv"
	"maps"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"weir/core/consensus"
)

// Cluster is some members, what is between them, and what must hold. It belongs to one goroutine.
//
// All that is drawn by lot is drawn from one seed, but for raft's election timeouts, which raft draws from crypto/rand: who wants
// the same run again calls testing/cryptotest.SetGlobalRandom, too.
type Cluster struct {
	clock   clock
	rng     *rand.Rand
	members map[uint64]*Member
	network network
	checks  checks

	nextOperation, nextChange uint64
	// catchUp is how many entries are kept in the log for those who lag, and commitEvery after how many entries a store is committed
	// and the log cut; 0 is never.
	catchUp, commitEvery uint64

	bounds consensus.Bounds // of each machine

	crashAt   map[uint64]step
	crashedAt map[step]int // how often a member has crashed there
	log       []string     // the last lines of the trace
	traced    uint64       // hash of all of it
	violation error
}

// smallBounds are met in a cluster of which a disk is slow. An append of one write has some 600 bytes here.
var smallBounds = consensus.Bounds{Asked: 2000, Unsaved: 12_000, Works: 40, Unapplied: 3000, Inflight: 2 * maxMessage, Uncommitted: 1000}

// New makes a cluster of that many members, with ids from 1, and starts them.
func New(members int, seed uint64, bounds consensus.Bounds) *Cluster {
	c := &Cluster{
		bounds:  bounds,
		rng:     rand.New(rand.NewPCG(seed, 0)),
		members: map[uint64]*Member{}, network: newNetwork(), crashAt: map[uint64]step{}, crashedAt: map[step]int{},
		catchUp: 5, commitEvery: 20,
	}
	c.checks = newChecks(c)
	var voters []uint64
	for id := uint64(1); id <= uint64(members); id++ {
		voters = append(voters, id)
	}
	for _, id := range voters {
		c.add(id).disk.store = firstState(voters)
	}
	c.checks.founded(firstState(voters))
	for _, id := range voters {
		c.members[id].start()
	}
	return c
}

// add makes a member with an empty disk. It is not started.
func (c *Cluster) add(id uint64) *Member {
	m := &Member{cluster: c, id: id}
	m.disk.sync = goodDisk
	m.disk.log.hardState = &raftpb.HardState{}
	m.disk.store.conf = &raftpb.ConfState{}
	c.members[id] = m
	return m
}

// goodDisk is how long a write takes if nothing is wrong.
var goodDisk = span{300 * time.Microsecond, 2 * time.Millisecond}

// Err is the first thing that went wrong, nil if nothing did.
func (c *Cluster) Err() error { return c.violation }

func (c *Cluster) violate(invariant, format string, args ...any) {
	if c.violation == nil {
		c.violation = &Violation{invariant, fmt.Sprintf(format, args...)}
		c.trace("%v", c.violation)
	}
}

// Violation is an invariant that did not hold.
type Violation struct{ Invariant, What string }

func (v *Violation) Error() string { return v.Invariant + ": " + v.What }

// traceLines is how much of the trace is kept.
const traceLines = 400

func (c *Cluster) trace(format string, args ...any) {
	line := fmt.Sprintf("%10.3fms  %s", float64(c.clock.now.Microseconds())/1000, fmt.Sprintf(format, args...))
	h := fnv.New64a()
	fmt.Fprintf(h, "%x %s", c.traced, line)
	c.traced = h.Sum64()
	if len(c.log) >= 2*traceLines {
		c.log = slices.Clone(c.log[traceLines:])
	}
	c.log = append(c.log, line)
}

// Trace is the last of what has happened.
func (c *Cluster) Trace() string {
	return strings.Join(c.log[max(0, len(c.log)-traceLines):], "\n")
}

// draw is a duration of up to a bound.
func (c *Cluster) draw(bound time.Duration) time.Duration {
	return time.Duration(c.rng.Int64N(int64(bound)))
}

// goroutine is how long it takes until another goroutine gets to what it was left.
func (c *Cluster) goroutine() time.Duration { return c.draw(100 * time.Microsecond) }

// step does what comes next, if that is not later than a time.
func (c *Cluster) step(until time.Duration) (stepped bool) {
	do := c.clock.next(until)
	if do == nil || c.violation != nil {
		return false
	}
	defer func() {
		if r := recover(); r != nil {
			c.violate("panic", "%v\n%s", r, debug.Stack())
		}
	}()
	do()
	return true
}

// run lets time pass.
func (c *Cluster) run(d time.Duration) {
	until := c.clock.now + d
	for c.step(until) {
	}
}

// runUntil lets time pass until something is so, and tells whether it is.
func (c *Cluster) runUntil(bound time.Duration, isSo func() bool) bool {
	until := c.clock.now + bound
	for !isSo() {
		if !c.step(until) {
			return isSo()
		}
	}
	return true
}

// sorted are all members, by id.
func (c *Cluster) sorted() (members []*Member) {
	for _, id := range slices.Sorted(maps.Keys(c.members)) {
		members = append(members, c.members[id])
	}
	return members
}

// leader is who leads in the highest term, nil if nobody does.
func (c *Cluster) leader() (leader *Member) {
	for _, m := range c.sorted() {
		if m.isRunning && m.machine.Role().Leads && (leader == nil || m.machine.Role().Term > leader.machine.Role().Term) {
			leader = m
		}
	}
	return leader
}

// ask has a client ask a member for a write or a read. If the member does not run, the client learns that at once.
func (c *Cluster) ask(m *Member, isRead bool) *Operation {
	c.nextOperation++
	o := &Operation{id: c.nextOperation, isRead: isRead, member: m.id, begun: c.clock.now, floor: c.checks.ended}
	if !m.isRunning {
		o.outcome = open
		return o
	}
	m.tell(func() {
		if isRead && m.breaks.reads {
			c.checks.end(o, m.state.index)
		} else if isRead {
			m.reads.next = append(m.reads.next, o)
		} else {
			m.writes.waiting = append(m.writes.waiting, o)
		}
	})
	return o
}

// change asks the leader for a change of the membership. It tells whether there was one that took it.
func (c *Cluster) change(kind raftpb.ConfChangeType, member uint64) (id uint64, asked bool) {
	leader := c.leader()
	if leader == nil || leader.change != nil || leader.isPaused {
		return 0, false
	}
	c.nextChange++
	leader.change = &change{id: c.nextChange, kind: kind, member: member, isNew: true}
	c.trace("member %d is asked for %v", leader.id, leader.change)
	leader.tell(func() {})
	return c.nextChange, true
}

// heal makes network and disks good, lets members that wait go on, and starts those that do not run.
func (c *Cluster) heal() {
	c.trace("all is well again")
	rules := c.network.rules
	c.network = newNetwork()
	for _, r := range rules {
		r.release(c)
	}
	clear(c.crashAt)
	for _, m := range c.sorted() {
		m.disk.sync, m.applying = goodDisk, 0
		m.unstick()
		m.resume()
		if !m.isRunning && m.gone == "" {
			m.start()
		}
	}
}

func (r *rule) release(c *Cluster) {
	for _, deliver := range r.held {
		c.clock.after(c.network.delay.draw(c.rng), deliver)
	}
	r.held = nil
}

func (m *Member) resume() {
	m.isPaused = false
	held := m.process.held
	m.process.held = nil
	for _, do := range held {
		m.after(0, do)
	}
}

// recovery is how long a cluster of which all is well may take to be as it should.
const recovery = 40 * electionTicks * tick

// converge makes all well and demands that the cluster then serves: on each member writes and reads end, and all have the same state.
func (c *Cluster) converge() error {
	c.heal()
	if !c.runUntil(recovery, c.serves) {
		c.violate("recovery", "all is well since %v, and the cluster does not serve: %s", recovery, c.describe())
	}
	c.checks.atEnd()
	return c.violation
}

// serves tells whether the cluster is as it should be, and asks for what would show that.
func (c *Cluster) serves() bool {
	leader := c.leader()
	if leader == nil {
		return false
	}
	served := true
	conf := leader.state.conf
	for _, id := range slices.Concat(conf.GetVoters(), conf.GetLearners()) {
		m := c.members[id]
		if m.gone != "" { // it was told by those who know that it is none any more
			return false
		}
		for _, o := range []**Operation{&m.probes.write, &m.probes.read} {
			if *o == nil || (*o).outcome == open {
				*o = c.ask(m, o == &m.probes.read)
			}
			served = served && (*o).outcome == done
		}
		served = served && m.state.index == leader.state.index
	}
	return served
}

func (c *Cluster) describe() string {
	var b strings.Builder
	for _, m := range c.sorted() {
		fmt.Fprintf(&b, "\nmember %d: ", m.id)
		switch {
		case m.gone != "":
			b.WriteString(m.gone)
		case !m.isRunning:
			b.WriteString("does not run")
		default:
			fmt.Fprintf(&b, "%+v, applied %d, %v, log %d to %d of term %d", m.machine.Role(), m.state.index, m.state.conf, m.disk.log.before+1, m.disk.log.last(), m.disk.log.term(m.disk.log.last()))
		}
	}
	return b.String()
}
