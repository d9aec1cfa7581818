package coretest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.etcd.io/raft/v3/raftpb"
)

func (p *play) isLeader(m *Member) bool {
	return m.isRunning && m.machine.Role().Leads && p.leader() == m
}

func (p *play) awaitLeader(m *Member) error {
	return p.await(fmt.Sprintf("%d leads", m.id), func() bool { return p.isLeader(m) })
}

func (p *play) leadsNow(m *Member) error {
	if !p.isLeader(m) {
		return errors.New("it does not: " + p.describe())
	}
	return nil
}

func (p *play) campaign(m *Member) error {
	m.tell(func() {
		if err := m.machine.Campaign(); err != nil {
			p.violate("campaign", "member %d: %v", m.id, err)
		}
	})
	return nil
}

// elect has a member lead, by whatever it takes.
func (p *play) elect(m *Member) error {
	if p.leader() != nil {
		return p.transfer(m)
	}
	for range 4 {
		if err := p.campaign(m); err != nil {
			return err
		}
		if p.runUntil(2*electionTicks*tick, func() bool { return p.isLeader(m) }) {
			return nil
		}
	}
	return errors.New("it was not elected: " + p.describe())
}

// handOver asks the leader to have a member take over.
func (p *play) handOver(m *Member) error {
	if leader := p.leader(); leader != nil && leader != m {
		leader.tell(func() { leader.machine.TransferLeadership(m.id) })
	}
	return nil
}

// transfer has the leader hand over, and asks again for as long as it stays.
func (p *play) transfer(m *Member) error {
	for range 4 {
		if err := p.handOver(m); err != nil {
			return err
		}
		if p.runUntil(2*electionTicks*tick, func() bool { return p.isLeader(m) }) {
			return nil
		}
	}
	return fmt.Errorf("%d has not taken over", m.id)
}

func (p *play) begin(words []string, isRead bool) error {
	if len(words) < 2 {
		return errors.New("of which member, by which names")
	}
	m, err := p.member(words[0])
	for _, name := range words[1:] {
		p.named[name] = p.ask(m, isRead)
	}
	return err
}

// insist asks a member until it answers, as a client does that asks again.
func (p *play) insist(word string, isRead bool) error {
	m, err := p.member(word)
	if err != nil {
		return err
	}
	var o *Operation
	return p.await("an answer", func() bool {
		if o == nil || o.outcome == open && p.clock.now-o.begun > tick {
			o = p.ask(m, isRead)
		}
		return o.outcome == done
	})
}

// put is put N, or put N xCOUNT for that many, one after another.
func (p *play) put(words []string) error {
	count := 1
	if len(words) == 2 {
		var err error
		if count, err = strconv.Atoi(strings.TrimPrefix(words[1], "x")); err != nil {
			return err
		}
	}
	for range count {
		if err := p.insist(words[0], false); err != nil {
			return err
		}
	}
	return nil
}

func (p *play) get(words []string) error {
	for _, w := range words {
		if err := p.insist(w, true); err != nil {
			return err
		}
	}
	return nil
}

func (p *play) awaitOutcome(names []string, want outcome) error {
	for _, name := range names {
		o := p.named[name]
		if o == nil {
			return fmt.Errorf("there is no %s", name)
		}
		if err := p.await(name+" is "+want.String(), func() bool { return o.outcome == want }); err != nil {
			return err
		}
	}
	return nil
}

func (p *play) wantWaiting(names []string) error {
	for _, name := range names {
		if o := p.named[name]; o == nil || o.outcome != unknown {
			return fmt.Errorf("%s is not waiting", name)
		}
	}
	return nil
}

func (p *play) wantNowhere(names []string) error {
	for _, name := range names {
		o := p.named[name]
		if o == nil {
			return fmt.Errorf("there is no %s", name)
		}
		if at, ok := p.checks.written[o.id]; ok {
			return fmt.Errorf("%s is entry %d", name, at)
		}
	}
	return nil
}

func (p *play) awaitInstalled(m *Member) error {
	err := p.await(fmt.Sprintf("%d has installed a snapshot", m.id), func() bool { return m.installed > p.installed[m.id] })
	p.installed[m.id] = m.installed
	return err
}

// wantSent is sent N COUNT.
func (p *play) wantSent(words []string) error {
	if len(words) != 2 {
		return errors.New("to which member, how many snapshots")
	}
	m, err := p.member(words[0])
	if err != nil {
		return err
	}
	want, err := strconv.Atoi(words[1])
	if err == nil && m.sent != want {
		err = fmt.Errorf("it was sent %d", m.sent)
	}
	return err
}

func (p *play) awaitCaughtUp(m *Member) error {
	return p.await(fmt.Sprintf("%d is where the leader is", m.id), func() bool {
		leader := p.leader()
		return leader != nil && m.isRunning && m.state.index == leader.state.index
	})
}

// reconfigure has a change made, and asks again if it is lost.
func (p *play) reconfigure(kind raftpb.ConfChangeType, m *Member) error {
	for range 4 {
		var id uint64
		asked := false
		if !p.runUntil(patience, func() bool {
			if !asked {
				id, asked = p.change(kind, m.id)
			}
			_, isApplied := p.checks.changes[id]
			return asked && isApplied
		}) {
			continue
		}
		return p.checks.changes[id]
	}
	return errors.New("the change was lost")
}

// askChange is ask add N and the like: nothing is waited for.
func (p *play) askChange(words []string) error {
	if len(words) != 2 {
		return errors.New("for what, of which member")
	}
	kinds := map[string]raftpb.ConfChangeType{
		"add": raftpb.ConfChangeAddNode, "promote": raftpb.ConfChangeAddNode, "learner": raftpb.ConfChangeAddLearnerNode, "remove": raftpb.ConfChangeRemoveNode,
	}
	kind, ok := kinds[words[0]]
	m, err := p.member(words[1])
	if !ok || err != nil {
		return errors.New("for add, promote, learner or remove of a member")
	}
	if _, asked := p.change(kind, m.id); !asked {
		return errors.New("there is no leader to ask, or it makes another change")
	}
	return nil
}
