package core

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// forced starts a member as the only one of its cluster.
func (c *testCluster) forced(i int) {
	c.Helper()
	cfg := c.config(i)
	cfg.ForceNewCluster = true
	node, err := Open(cfg)
	if err != nil {
		c.Fatal(err)
	}
	c.serve(i, node)
	c.waitReady(i)
}

func TestOneMemberThatIsLeftGoesOnAlone(t *testing.T) {
	c := newCluster(t, 3, settled)
	for i := range 20 {
		c.put(i%3, fmt.Sprintf("k%d", i), "v")
	}
	left := (c.leader() + 1) % 3 // which need not know yet that the last ones are committed, but has them, or the other follower
	other := 3 - left - c.leader()
	c.stop(other)
	c.put(left, "last", "v") // so this one does
	c.stop(c.leader())
	id := c.members[left].node.member.ID
	c.stop(left)

	for range 2 { // the flag may stay
		c.forced(left)
		for i := range 20 {
			c.wantAll(fmt.Sprintf("k%d", i), "v")
		}
		c.wantAll("last", "v")
		c.wantMembers(1)
		if got := c.members[left].node.member.ID; got != id {
			t.Errorf("it is member %x, before %x", got, id)
		}
		c.stop(left)
	}
	c.start(left)
	c.waitReady(left)
	c.put(left, "k", "alone")

	// It gets new members; the old ones are none any more.
	c.initial = c.initial[left : left+1]
	joins := c.add(left, false)
	c.start(joins)
	c.waitReady(joins)
	c.wantAll("k", "alone")
	if again, err := Open(c.config(other)); err == nil {
		<-again.Failed()
		if err := again.Err(); !errors.Is(err, ErrRemoved) {
			t.Errorf("an old member: %v", err)
		}
		closeNode(t, again)
	} else {
		t.Errorf("an old member does not start: %v", err)
	}
	c.wantMembers(2)
	c.wantSame()
}

func TestALearnerThatIsLeftGoesOnAlone(t *testing.T) {
	c := newCluster(t, 1, settled)
	c.put(0, "k", "v")
	learner := c.add(0, true)
	c.start(learner)
	c.waitReady(learner)
	c.wantAll("k", "v")
	c.stop(0)
	c.stop(learner)
	c.forced(learner)
	c.wantAll("k", "v")
	c.put(learner, "k", "2")
	if got := listMembers(t, c.members[learner].node); len(got) != 1 || got[0].IsLearner {
		t.Errorf("members %v", got)
	}
}

// What is in the log and not applied may change the membership too.
func TestChangesThatWereUnderWayAreForcedToo(t *testing.T) {
	c := newCluster(t, 2, func(cfg *Config) { cfg.ElectionTimeout = 2 * time.Second })
	left := c.leader()
	c.stop(1 - left)
	node := c.members[left].node
	// This is in the log of a leader that nobody follows.
	add := reconfiguration{
		ID: 1, Under: node.term.Load(), Type: raftpb.ConfChangeAddNode,
		Change: confChange{Member: memberRecord{ID: 1, PeerURLs: []string{"http://127.0.0.1:1"}}},
	}
	if refusal, err := node.takeReconfiguration(t.Context(), add); refusal != nil || err != nil {
		t.Fatal(refusal, err)
	}
	c.stop(left)
	c.forced(left)
	c.wantMembers(1)
	c.put(left, "k", "v")
}

func TestWhoHasNoDataCannotBeForced(t *testing.T) {
	c := newCluster(t, 1, settled)
	joins := c.add(0, true)
	node, err := Open(c.config(joins))
	if err != nil {
		t.Fatal(err)
	}
	closeNode(t, node)
	cfg := c.config(joins)
	cfg.ForceNewCluster = true
	if node, err := Open(cfg); err == nil {
		closeNode(t, node)
		t.Error("it was")
	}
}
