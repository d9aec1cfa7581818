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
)

// settled lets members count as reachable as soon as they are.
func settled(cfg *Config) { cfg.stableAfter = time.Nanosecond }

// connected waits until all members that are up are connected with each other.
func (c *testCluster) connected() {
	c.Helper()
	for _, i := range c.up() {
		for _, j := range c.up() {
			for i != j && c.members[i].node.transport.ActiveSince(c.members[j].node.member.ID).IsZero() {
				if c.Context().Err() != nil {
					c.Fatalf("%s is not connected to %s", c.members[i].name, c.members[j].name)
				}
				time.Sleep(time.Millisecond)
			}
		}
	}
}

// try does something again and again until it works.
func (c *testCluster) try(what string, do func() error) {
	c.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		err := do()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.Fatalf("%s: %v", what, err)
		}
	}
}

// wantMembers compares who is a member, as each member that is up knows it.
func (c *testCluster) wantMembers(n int) {
	c.Helper()
	for _, i := range c.up() {
		if got := listMembers(c.T, c.members[i].node); len(got) != n {
			c.Errorf("%s knows %d members, want %d: %v", c.members[i].name, len(got), n, got)
		}
	}
}

func TestAnyMemberTakesChangesOfTheMembershipAndKnowsThemWhenItAnswers(t *testing.T) {
	c := newCluster(t, 3, settled)
	c.connected()
	for i, m := range c.members {
		url := fmt.Sprintf("http://127.0.0.1:%d", i+1)
		added, err := m.node.MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: []string{url}, IsLearner: true})
		if err != nil {
			t.Fatalf("add by %s: %v", m.name, err)
		}
		if len(added.Members) != 4 || !slices.Equal(added.Member.PeerURLs, []string{url}) {
			t.Errorf("%s has added %v, of %v", m.name, added.Member, added.Members)
		}
		id := added.Member.ID
		update := &pb.MemberUpdateRequest{ID: id, PeerURLs: []string{url + "1"}}
		other := c.members[(i+1)%3].node
		if _, err := other.MemberUpdate(t.Context(), update); err != nil {
			t.Fatal(err)
		}
		if r, _ := other.members.get(id); !slices.Equal(r.PeerURLs, update.PeerURLs) {
			t.Errorf("%v after an update to %v", r, update.PeerURLs)
		}
		if _, err := m.node.MemberPromote(t.Context(), &pb.MemberPromoteRequest{ID: id}); !errors.Is(err, rpctypes.ErrGRPCLearnerNotReady) {
			t.Errorf("promotion of who has not started: %v", err)
		}
		c.wantMembers(4)
		if _, err := m.node.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: id}); err != nil {
			t.Fatal(err)
		}
		if _, err := m.node.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: id}); !errors.Is(err, rpctypes.ErrGRPCMemberNotFound) {
			t.Errorf("a second removal: %v", err)
		}
		c.wantMembers(3)
	}
}

// Every change has one answer that is true, whatever becomes of the leader that was asked.
func TestChangesOfTheMembershipOutliveLeaders(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.LaxReconfigCheck, cfg.MaxLearners = true, 100 })
	ctx, cancel := context.WithCancel(t.Context())
	asked := (c.leader() + 1) % 3
	var wg sync.WaitGroup
	var added []uint64
	node := c.members[asked].node
	wg.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			resp, err := node.MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: []string{fmt.Sprintf("http://127.0.0.1:1%d", i)}, IsLearner: true})
			if err != nil {
				t.Errorf("add: %v", err)
				return
			}
			if len(resp.Members) != 4 {
				t.Errorf("members after an addition: %v", resp.Members)
			}
			added = append(added, resp.Member.ID)
			if _, err := node.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: resp.Member.ID}); err != nil {
				t.Errorf("remove: %v", err)
				return
			}
		}
	})
	for range 3 {
		dead := c.leader()
		if dead == asked { // the others are not asked
			c.put(asked, "k", "v")
			continue
		}
		c.stop(dead)
		c.put(asked, "k", "v")
		c.start(dead)
		c.waitReady(dead)
	}
	cancel()
	wg.Wait()
	if len(added) == 0 {
		t.Error("nothing was changed")
	}
	c.wantMembers(3)
	for _, i := range c.up() {
		for _, id := range added {
			if !c.members[i].node.members.known(id) {
				t.Errorf("%s does not know %x", c.members[i].name, id)
			}
		}
	}
	c.wantSame()
}

func TestWithoutAQuorumTheMembershipIsNotChanged(t *testing.T) {
	c := newCluster(t, 3, settled)
	c.connected()
	down := c.leader()
	c.stop(down)
	up := c.up()
	c.put(up[0], "k", "v")
	node := c.members[up[0]].node
	// 2 of 3 are up, and a fourth would need 3 of 4.
	for _, learner := range []bool{false, true} {
		_, err := node.MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: []string{"http://127.0.0.1:1"}, IsLearner: learner})
		if !errors.Is(err, rpctypes.ErrGRPCUnhealthy) {
			t.Errorf("add, learner %v: %v", learner, err)
		}
	}
	if _, err := node.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: c.members[up[1]].node.member.ID}); !errors.Is(err, rpctypes.ErrGRPCUnhealthy) {
		t.Errorf("remove one that is up: %v", err)
	}
	c.wantMembers(3)
	gone := idOf(t, node, c.members[down].name)
	if _, err := node.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: gone}); err != nil {
		t.Errorf("remove the one that is down: %v", err)
	}
	c.wantMembers(2)
}

// idOf finds a member by its name.
func idOf(t *testing.T, n *Node, name string) uint64 {
	t.Helper()
	for _, m := range listMembers(t, n) {
		if m.Name == name {
			return m.ID
		}
	}
	t.Fatalf("no member %s", name)
	return 0
}

// Of six voters four are a majority, and three have ever started.
func TestNoMoreVotersAreAddedThanCanDoWithoutThem(t *testing.T) {
	c := newCluster(t, 3, settled)
	c.connected()
	for i, want := range []error{nil, nil, errNotEnoughStarted} {
		_, err := c.members[0].node.MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: []string{fmt.Sprintf("http://127.0.0.1:%d", i+1)}})
		if !errors.Is(err, want) {
			t.Errorf("addition %d: %v, want %v", i+1, err, want)
		}
	}
	c.put(0, "k", "v")
	c.wantMembers(5)
}
