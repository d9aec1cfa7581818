package core

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"weir/core/consensus"
	"weir/grpcapi/wire"
)

func TestTheLeadershipIsMovedToAnyVoterUnderLoad(t *testing.T) {
	c := newCluster(t, 3)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	last := make([]int, len(c.members)) // that was acknowledged, of each member's writer
	for i, m := range c.members {
		wg.Go(func() {
			for v := 1; ctx.Err() == nil; v++ {
				put := &pb.PutRequest{Key: fmt.Appendf(nil, "k%d", i), Value: fmt.Append(nil, v)}
				if _, err := tryPut(t, m.node, put); err == nil {
					last[i] = v
				}
			}
		})
	}
	for range 5 {
		from := c.leader()
		to := (from + 1) % len(c.members)
		target := c.members[to].node
		term := target.term.Load()
		_, err := c.members[from].node.MoveLeader(t.Context(), &pb.MoveLeaderRequest{TargetID: target.member.ID})
		if err != nil {
			t.Errorf("move the leadership: %v", err)
			break
		}
		if got := c.leader(); got != to {
			t.Errorf("%s leads, not %s", c.members[got].name, c.members[to].name)
		}
		if got := target.term.Load(); got != term+1 {
			t.Errorf("term %d after %d: there was more than one election", got, term)
		}
	}
	cancel()
	wg.Wait()
	for i := range c.members {
		resp := mustRange(t, c.members[i].node, &wire.RangeRequest{Key: fmt.Appendf(nil, "k%d", i)})
		var got int
		if len(resp.Kvs) == 1 {
			if _, err := fmt.Sscan(string(resp.Kvs[0].Value), &got); err != nil {
				t.Fatal(err)
			}
		}
		if got < last[i] { // a later one may have been applied without an answer
			t.Errorf("k%d is %d, and %d was acknowledged", i, got, last[i])
		}
	}
	c.wantSame()
}

func TestTheLeadershipIsNotMovedToWhoCannotHaveIt(t *testing.T) {
	c := newCluster(t, 2, settled)
	c.connected()
	learner := c.add(0, true)
	c.start(learner)
	c.waitReady(learner)
	leads := c.leader()
	move := func(by int, to uint64) error {
		_, err := c.members[by].node.MoveLeader(t.Context(), &pb.MoveLeaderRequest{TargetID: to})
		return err
	}
	id := func(i int) uint64 { return c.members[i].node.member.ID }
	for name, one := range map[string]struct{ got, want error }{
		"a learner":     {move(leads, id(learner)), rpctypes.ErrGRPCBadLeaderTransferee},
		"a stranger":    {move(leads, 77), rpctypes.ErrGRPCBadLeaderTransferee},
		"itself":        {move(leads, id(leads)), nil},
		"by a follower": {move(1-leads, id(1-leads)), rpctypes.ErrGRPCNotLeader},
		"by a learner":  {move(learner, id(leads)), rpctypes.ErrGRPCNotLeader},
	} {
		if !errors.Is(one.got, one.want) {
			t.Errorf("to %s: %v, want %v", name, one.got, one.want)
		}
	}
	down := 1 - leads
	target := id(down)
	c.stop(down)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := c.members[leads].node.MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: target}); !errors.Is(err, errTransferTimeout) {
		t.Errorf("to who is down: %v", err)
	}
}

func TestALeaderThatResignsHasASuccessor(t *testing.T) {
	c := newCluster(t, 3)
	for range 3 {
		old := c.leader()
		term := c.members[old].node.term.Load()
		if err := c.members[old].node.Resign(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.stop(old)
		next := c.leader()
		if got := c.members[next].node.term.Load(); got != term+1 {
			t.Errorf("term %d after %d: it was not the successor who went on", got, term)
		}
		c.put(next, "k", "v")
		c.start(old)
		c.waitReady(old)
	}
	follower := (c.leader() + 1) % 3
	if err := c.members[follower].node.Resign(t.Context()); err != nil {
		t.Errorf("a follower: %v", err)
	}
}

// Nobody misses a leader that is removed, whoever is asked for that, and if there are but two.
func TestALeaderThatIsRemovedHasASuccessor(t *testing.T) {
	for _, asksItself := range []bool{false, true} {
		c := newCluster(t, 3, settled)
		c.connected()
		for left := 2; left > 0; left-- {
			gone := c.leader()
			node, asked := c.members[gone].node, c.members[gone].node
			other := c.up()[(slices.Index(c.up(), gone)+1)%len(c.up())]
			if !asksItself {
				asked = c.members[other].node
			}
			term := node.term.Load()
			if _, err := asked.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: node.member.ID}); err != nil {
				t.Fatalf("asks itself %v, %d are to be left: %v", asksItself, left, err)
			}
			// Without a hand-over it would lead still, in its term.
			if next := c.members[other].node; !asksItself && (next.leader.Load() == node.member.ID || next.term.Load() != term+1) {
				t.Errorf("%d are left, %x leads in term %d, after %x in term %d", left, next.leader.Load(), next.term.Load(), node.member.ID, term)
			}
			<-node.Failed()
			if err := node.Err(); !errors.Is(err, ErrRemoved) {
				t.Errorf("the old leader: %v", err)
			}
			c.stop(gone)
			c.put(other, "k", fmt.Sprint(left))
			if got := c.members[c.leader()].node.term.Load(); got != term+1 {
				t.Errorf("asks itself %v, %d are left: term %d after %d: there was more than one election", asksItself, left, got, term)
			}
			c.wantMembers(left)
		}
	}
}

func TestALeaderWithoutOthersEndsWithoutASuccessor(t *testing.T) {
	c := newCluster(t, 2, settled)
	leads := c.leader()
	c.stop(1 - leads)
	if err := c.members[leads].node.Resign(t.Context()); err == nil {
		t.Error("it has a successor")
	}
	one := newCluster(t, 1)
	if err := one.members[0].node.Resign(t.Context()); err != nil {
		t.Errorf("the only voter: %v", err)
	}
}

// Raft draws how long it waits for a leader: for one to two election timeouts. Who reaches a majority when it starts leaves out one of
// them, but for a few ticks.
func TestWhoReachesAMajorityWhenItStartsNeedNotWaitForAnElectionTimeout(t *testing.T) {
	const electionTicks = 1000
	// start starts three members for whom time stands still, and lets it pass for the first, by ticks.
	start := func(ticks int, noAdvance bool) (n *Node) {
		c := prepareCluster(t, 3, func(cfg *Config) {
			cfg.HeartbeatInterval = time.Hour
			cfg.ElectionTimeout = electionTicks * cfg.HeartbeatInterval
			cfg.NoElectionTickAdvance = noAdvance
			cfg.NoPreVote = true // so that its term tells whether it has held an election
		})
		for i := range c.members {
			c.start(i)
		}
		c.connected()
		n = c.members[0].node
		passed := make(chan struct{})
		n.raft.inbox.put(func(m *consensus.Machine) {
			for range ticks {
				n.tick()
				m.Advance()
			}
			close(passed)
		})
		<-passed
		return n
	}
	term := start(0, false).term.Load()
	if got := start(electionTicks+spareTicks, false).term.Load(); got <= term {
		t.Errorf("no election in term %d, after an election timeout", got)
	}
	if got := start(electionTicks-1, true).term.Load(); got != term {
		t.Errorf("an election in term %d, before an election timeout, with --initial-election-tick-advance=false", got)
	}
}
