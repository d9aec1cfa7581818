package core

import (
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/core/consensus"
)

// Of several writes the last is followed by nothing that would tell followers that it is committed.
func TestFollowersLearnWithoutAHeartbeatThatTheLastWriteIsCommitted(t *testing.T) {
	interval := 20 * time.Millisecond
	c := newCluster(t, 3, func(cfg *Config) { cfg.HeartbeatInterval, cfg.ElectionTimeout = interval, 20*interval })
	for i := range c.members {
		c.stop(i)
	}
	interval = time.Hour // of heartbeats, and with it of all that raft sends again
	for i := range c.members {
		c.start(i)
	}
	c.connected()
	var leader *Node
	var last, term uint64
	for _, m := range c.members { // who has most can be elected, and there is one attempt
		log := m.node.raft.machine.Storage()
		l, err := log.LastIndex()
		if err != nil {
			t.Fatal(err)
		}
		u, err := log.Term(l)
		if err != nil {
			t.Fatal(err)
		}
		if u > term || u == term && l > last {
			leader, last, term = m.node, l, u
		}
	}
	leader.raft.inbox.put(func(m *consensus.Machine) {
		if err := m.Campaign(); err != nil {
			t.Errorf("campaign: %v", err)
		}
	})
	for i := range c.members {
		c.waitReady(i)
	}
	for range 10 {
		mustPut(t, leader, &pb.PutRequest{Key: []byte("key")})
	}
	for _, m := range c.members {
		c.until("each has applied all", func() bool { return m.node.applied.Load() == leader.applied.Load() })
	}
	if leader.leader.Load() != leader.member.ID {
		t.Error("another member leads")
	}
}
