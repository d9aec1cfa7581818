package core

import (
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/core/consensus"
)

// until waits for what gives no signal.
func (c *testCluster) until(what string, done func() bool) {
	c.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			c.Fatalf("not within 30 s: %s", what)
		}
	}
}

// A member whose applier is behind has a learner's addition before it, and a snapshot in which that learner is gone again.
func TestASnapshotWaitsForTheChangesOfTheMembershipBeforeIt(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) {
		cfg.SnapshotCount, cfg.SnapshotCatchUpEntries, cfg.LaxReconfigCheck = 20, 10, true
	})
	leading := c.leader()
	lagging := (leading + 1) % 3
	leader, node := c.members[leading].node, c.members[lagging].node
	addLearner := func(url string) uint64 {
		t.Helper()
		added, err := leader.MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: []string{url}, IsLearner: true})
		if err != nil {
			t.Fatal(err)
		}
		return added.Member.ID
	}
	hold := node.store.Begin(0, 0) // its applier stands still at the next entry
	id := addLearner("http://127.0.0.1:1")
	added := leader.applied.Load()
	c.until("the addition is committed on the member that lags", func() bool { return node.committed.Load() >= added })
	c.members[lagging].server.Stop()
	if _, err := leader.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: id}); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		c.put(leading, fmt.Sprint(i%10), "v")
	}
	waitCut(t, leader, added+20)
	c.serve(lagging, node)
	state := make(chan [2]bool)
	c.until("the snapshot has come", func() bool {
		node.raft.inbox.put(func(m *consensus.Machine) { state <- [2]bool{node.raft.received != nil, m.IsInstalling()} })
		now := <-state
		if now[1] {
			t.Fatal("a snapshot is installed over changes that are being applied")
		}
		return now[0]
	})
	hold.End()
	addLearner("http://127.0.0.1:2")
	changed := leader.applied.Load()
	var want string
	for _, m := range c.members {
		c.until("the change is applied by all", func() bool { return m.node.applied.Load() >= changed })
		if err := m.node.store.Commit(); err != nil {
			t.Fatal(err)
		}
		got := m.node.store.Applied().ConfState.String()
		if want == "" {
			want = got
		}
		if got != want {
			t.Errorf("%s has the configuration %s, and %s has %s", m.name, got, c.members[0].name, want)
		}
	}
}

func TestWhoHasNoDataForcesNobodyOut(t *testing.T) {
	three := []InitialMember{{"a", []string{"http://127.0.0.1:1"}}, {"b", []string{"http://127.0.0.1:2"}}, {"c", []string{"http://127.0.0.1:3"}}}
	n, err := Open(Config{DataDir: t.TempDir(), Name: "a", PeerURLs: three[0].PeerURLs, InitialCluster: three, ForceNewCluster: true})
	if err != nil {
		t.Fatal(err)
	}
	defer closeNode(t, n)
	if members := n.members.list(); len(members) != 3 {
		t.Errorf("members: %v", members)
	}
}
