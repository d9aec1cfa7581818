package core

import (
	"context"
	"errors"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

func TestWhoRequiresALeaderIsToldWhenThereIsNone(t *testing.T) {
	c := newCluster(t, 2)
	node := c.members[0].node
	led := node.Led()
	c.stop(1)
	<-led.Done()
	if err := context.Cause(led); !errors.Is(err, rpctypes.ErrGRPCNoLeader) {
		t.Errorf("it ended with %v", err)
	}
	c.start(1)
	c.waitReady(0)
	c.try("see the new leader", func() error { return node.Led().Err() })
	led = node.Led()
	c.stop(0)
	<-led.Done()
	if err := context.Cause(led); errors.Is(err, rpctypes.ErrGRPCNoLeader) {
		t.Errorf("at the end of the member it ended with %v", err)
	}
}

func TestAMemberKnowsWhetherItIsALearner(t *testing.T) {
	c := newCluster(t, 1, settled)
	learner := c.add(0, true)
	node := c.start(learner)
	c.waitReady(learner)
	if !node.IsLearner() || c.members[0].node.IsLearner() {
		t.Errorf("learner: %v, voter: %v", node.IsLearner(), c.members[0].node.IsLearner())
	}
	c.promote(0, learner)
	c.try("be a voter", func() error {
		if node.IsLearner() {
			return errors.New("a learner")
		}
		return nil
	})
}
