package coretest

import (
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"weir/core/consensus"
)

// storm does to a cluster whatever may happen to one, as a seed wants it, while clients use it. Each storm has only some of the kinds
// of trouble, each as often as its seed says: with all of them at all times little would ever be committed (Groce et al.: Swarm
// testing, 2012).
type storm struct {
	*Cluster
	troubles []trouble
	ends     time.Duration
	nextID   uint64
}

// trouble is something that happens now and then.
type trouble struct {
	every  time.Duration // on average
	happen func(*storm)
}

// troubles are all that are known, each with how often it happens in a storm that has much of it.
var troubles = []trouble{
	{300 * time.Millisecond, (*storm).crashOne},
	{2 * time.Second, (*storm).crashAll},
	{100 * time.Millisecond, (*storm).crashAtStep},
	{500 * time.Millisecond, (*storm).pauseOne},
	{500 * time.Millisecond, (*storm).isolateOne},
	{500 * time.Millisecond, (*storm).cutOneWay},
	{500 * time.Millisecond, (*storm).split},
	{200 * time.Millisecond, (*storm).spoilNetwork},
	{500 * time.Millisecond, (*storm).stickDisk},
	{500 * time.Millisecond, (*storm).slowDisk},
	{500 * time.Millisecond, (*storm).slowApplier},
	{500 * time.Millisecond, (*storm).fallBehind},
	{100 * time.Millisecond, (*storm).commitOne},
	{500 * time.Millisecond, (*storm).leaveBehind},
	{300 * time.Millisecond, (*storm).changeMembers},
	{300 * time.Millisecond, (*storm).transferSomewhere},
	{300 * time.Millisecond, (*storm).campaignSomewhere},
}

// sizes are of clusters at their beginning: three or five, but now and then one, which may grow.
var sizes = []int{3, 5, 3, 5, 1}

// Storm plays a storm of a length on a new cluster, and then has it converge.
func Storm(seed uint64, length time.Duration) *Cluster {
	var bounds consensus.Bounds
	if seed%3 == 0 {
		bounds = smallBounds
	}
	c := New(sizes[seed%uint64(len(sizes))], seed, bounds)
	s := &storm{Cluster: c, ends: length, nextID: uint64(len(c.members))}
	c.catchUp = uint64(c.rng.IntN(10))
	c.commitEvery = uint64(c.rng.IntN(50))
	for _, t := range troubles {
		if c.rng.IntN(3) == 0 {
			t.every *= time.Duration(1 + c.rng.IntN(4))
			s.troubles = append(s.troubles, t)
		}
	}
	for range 1 + c.rng.IntN(8) {
		s.client(c.draw(20 * time.Millisecond))
	}
	for _, t := range s.troubles {
		s.plan(t)
	}
	c.run(length)
	if c.violation == nil {
		_ = c.converge() // violation has it
	}
	return c
}

func (s *storm) isOver() bool { return s.clock.now >= s.ends }

func (s *storm) plan(t trouble) {
	s.clock.after(s.draw(2*t.every), func() {
		if !s.isOver() {
			t.happen(s)
			s.plan(t)
		}
	})
}

// client asks for one thing after another, of any member, and gives up what takes too long.
func (s *storm) client(pause time.Duration) {
	var current *Operation
	var loop func()
	loop = func() {
		if s.isOver() {
			return
		}
		if current == nil || current.outcome != unknown || s.clock.now-current.begun > requestTicks*tick {
			current = s.ask(s.anyMember(), s.rng.IntN(2) == 0)
		}
		s.clock.after(s.draw(pause+time.Millisecond), loop)
	}
	loop()
}

// anyMember is one that may run.
func (s *storm) anyMember() *Member {
	members := slices.DeleteFunc(s.sorted(), func(m *Member) bool { return m.gone != "" })
	return members[s.rng.IntN(len(members))]
}

// later has something happen within a time, unless all is well by then anyway.
func (s *storm) later(d time.Duration, do func()) {
	s.clock.after(s.draw(d), func() {
		if !s.isOver() {
			do()
		}
	})
}

// restart starts a member that is down, some time from now.
func (s *storm) restart(m *Member) {
	s.later(time.Second, func() {
		if !m.isRunning && m.gone == "" {
			m.start()
		}
	})
}

func (s *storm) crashOne() {
	m := s.anyMember()
	if m.isRunning {
		m.crash()
	}
	s.restart(m)
}

// leaveBehind takes a member away until the others have cut what it lacks from their logs. It will crash when it is sent a snapshot.
func (s *storm) leaveBehind() {
	behind := s.anyMember()
	if behind.isRunning {
		behind.crash()
	}
	s.later(2*time.Second, func() {
		s.cutLogs()
		s.crashAt[behind.id] = snapshotSteps[s.rng.IntN(len(snapshotSteps))]
		s.restart(behind)
	})
}

func (s *storm) crashAll() {
	for _, m := range s.sorted() {
		if m.isRunning {
			m.crash()
		}
		s.restart(m)
	}
}

func (s *storm) crashAtStep() {
	m := s.anyMember()
	s.crashAt[m.id] = steps[s.rng.IntN(len(steps))]
	s.later(2*time.Second, func() { delete(s.crashAt, m.id); s.restart(m) })
}

func (s *storm) pauseOne() {
	m := s.anyMember()
	if m.isRunning {
		m.isPaused = true
	}
	s.later(500*time.Millisecond, m.resume)
}

func (s *storm) reconnect() {
	s.later(time.Second, func() { clear(s.network.cut) })
}

func (s *storm) isolateOne() {
	s.isolate(s.anyMember())
	s.reconnect()
}

func (s *storm) isolate(m *Member) {
	for id := range s.members {
		s.network.cut[link{m.id, id}], s.network.cut[link{id, m.id}] = true, true
	}
}

func (s *storm) cutOneWay() {
	s.network.cut[link{s.anyMember().id, s.anyMember().id}] = true
	s.reconnect()
}

func (s *storm) split() {
	side := map[uint64]bool{}
	for _, m := range s.sorted() {
		side[m.id] = s.rng.IntN(2) == 0
	}
	for a := range s.members {
		for b := range s.members {
			if side[a] != side[b] {
				s.network.cut[link{a, b}] = true
			}
		}
	}
	s.reconnect()
}

func (s *storm) spoilNetwork() {
	share := []float64{0, 0, 0.01, 0.1, 0.5}
	s.network.loss = share[s.rng.IntN(len(share))]
	s.network.double = share[s.rng.IntN(len(share))]
	s.network.slow = share[s.rng.IntN(len(share))]
	s.network.delay.to = s.network.delay.from + s.draw(2*tick)
}

func (s *storm) stickDisk() {
	m := s.anyMember()
	m.disk.isStuck = true
	s.later(time.Second, m.unstick)
}

func (s *storm) slowDisk() {
	m := s.anyMember()
	m.disk.sync.to = s.draw(20 * tick)
	s.later(time.Second, func() { m.disk.sync = goodDisk })
}

func (s *storm) slowApplier() {
	m := s.anyMember()
	m.applying = s.draw(10 * tick)
	s.later(time.Second, func() { m.applying = 0 })
}

// fallBehind has a member apply slowly while the membership is changed, and takes it away until the others have cut their logs: it is
// sent a snapshot when it has yet to apply changes from before it.
func (s *storm) fallBehind() {
	m := s.anyMember()
	m.applying = 10*tick + s.draw(20*tick)
	s.changeMembers()
	s.later(5*tick, func() {
		s.isolate(m)
		s.changeMembers()
		s.later(10*tick, func() {
			s.cutLogs()
			clear(s.network.cut)
		})
	})
	s.later(time.Second, func() { m.applying = 0 })
}

func (s *storm) cutLogs() {
	for _, m := range s.sorted() {
		if m.isRunning && !m.isPaused {
			m.commitAndCut()
		}
	}
}

func (s *storm) commitOne() {
	if m := s.anyMember(); m.isRunning && !m.isPaused {
		m.commitAndCut()
	}
}

func (s *storm) transferSomewhere() {
	if leader := s.leader(); leader != nil {
		to := s.anyMember().id
		leader.tell(func() { leader.machine.TransferLeadership(to) })
	}
}

func (s *storm) campaignSomewhere() {
	if m := s.anyMember(); m.isRunning {
		m.tell(func() {
			if err := m.machine.Campaign(); err != nil {
				s.violate("campaign", "member %d: %v", m.id, err)
			}
		})
	}
}

// A storm keeps the number of members within these.
const minVoters, maxMembers = 3, 6

// changeMembers asks for a change that makes sense if it is the next one.
func (s *storm) changeMembers() {
	leader := s.leader()
	if leader == nil {
		return
	}
	voters, learners := leader.state.conf.GetVoters(), leader.state.conf.GetLearners()
	switch choice := s.rng.IntN(4); {
	case choice == 0 && len(voters) > minVoters:
		s.change(raftpb.ConfChangeRemoveNode, voters[s.rng.IntN(len(voters))])
	case choice == 1 && len(learners) > 0:
		s.change(raftpb.ConfChangeRemoveNode, learners[s.rng.IntN(len(learners))])
	case choice == 2 && len(learners) > 0:
		if id := learners[s.rng.IntN(len(learners))]; leader.machine.InSync(id) {
			s.change(raftpb.ConfChangeAddNode, id)
		}
	case len(voters)+len(learners) < maxMembers:
		s.addMember([]raftpb.ConfChangeType{raftpb.ConfChangeAddNode, raftpb.ConfChangeAddLearnerNode}[s.rng.IntN(2)])
	}
}

func (s *storm) addMember(kind raftpb.ConfChangeType) {
	if _, asked := s.change(kind, s.nextID+1); asked {
		s.nextID++
		s.restart(s.add(s.nextID))
	}
}

// Summary says what has happened.
func (c *Cluster) Summary() string {
	k := c.checks.counts
	return fmt.Sprintf("%v: %d elections, %d writes, %d reads, %d snapshots, %d changes of the membership, %d entries",
		c.clock.now, k.elections, k.writes, k.reads, k.snapshots, k.changes, len(c.checks.history)-1)
}
