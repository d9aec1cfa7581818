package core

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// leaseCluster is a cluster whose leases live by a clock that the test moves. The times of its elections are real.
type leaseCluster struct {
	*testCluster
	clock *testClock
}

func newLeaseCluster(t *testing.T) leaseCluster {
	t.Helper()
	clock := newTestClock()
	return leaseCluster{newCluster(t, 3, func(c *Config) { c.Clock = clock }), clock}
}

func (c leaseCluster) node(i int) *Node { return c.members[i].node }

// follower is a member that does not lead.
func (c leaseCluster) follower() int { return (c.leader() + 1) % len(c.members) }

func (c leaseCluster) grant(id, ttl int64) {
	c.Helper()
	for {
		_, err := c.node(c.up()[0]).LeaseGrant(c.Context(), &pb.LeaseGrantRequest{ID: id, TTL: ttl})
		if err == nil || errors.Is(err, rpctypes.ErrGRPCLeaseExist) { // an answer may have been lost
			return
		}
		if !isUnanswered(err) {
			c.Fatalf("grant: %v", err)
		}
	}
}

// ping pings by a member, again if that fails for want of a leader.
func (c leaseCluster) ping(i int, id int64) (ttl int64, err error) {
	for {
		ttl, err = c.node(i).LeaseRenew(c.Context(), id)
		if !isUnanswered(err) || c.Context().Err() != nil {
			return ttl, err
		}
	}
}

func (c leaseCluster) mustPing(i int, id, ttl int64) {
	c.Helper()
	if got, err := c.ping(i, id); err != nil || got != ttl {
		c.Fatalf("ping of lease %d by %s: %d, %v, want %d", id, c.members[i].name, got, err, ttl)
	}
}

// wantLeft asks every member how many seconds a lease has left: at least so many, and at most one election more. Less than 0 is
// that it has ended.
func (c leaseCluster) wantLeft(id, seconds int64) {
	c.Helper()
	for _, i := range c.up() {
		s, err := c.node(i).LeaseTimeToLive(c.Context(), &pb.LeaseTimeToLiveRequest{ID: id})
		switch {
		case seconds < 0 && errors.Is(err, rpctypes.ErrGRPCLeaseNotFound):
		case err != nil || s.TTL < seconds || s.TTL > seconds+1:
			c.Errorf("%s says of lease %d: %v, %v, want %d s", c.members[i].name, id, s, err, seconds)
		}
	}
}

// kill ends a member without a word to the others.
func (c leaseCluster) kill(i int) {
	c.Helper()
	c.members[i].server.Stop()
	c.node(i).fail(errors.New("killed by the test"))
	c.stop(i)
}

// restart starts a member that was killed. Its clock may have to move until it serves: it pauses by it.
func (c leaseCluster) restart(i int) {
	c.Helper()
	n := c.start(i)
	ready := make(chan error, 1)
	go func() { ready <- n.WaitReady(c.Context()) }()
	for {
		select {
		case err := <-ready:
			if err != nil {
				c.Fatal(err)
			}
			return
		case <-time.After(publishPause):
			c.clock.advance(time.Millisecond)
		}
	}
}

// cutOff takes a member from the network. The function that it returns brings it back.
func (c leaseCluster) cutOff(i int) (back func()) {
	n := c.node(i)
	c.members[i].server.Stop()
	n.transport.SetPeers(nil)
	return func() {
		n.setPeers()
		c.serve(i, n)
	}
}

func TestAnyMemberRenewsALeaseAndTellsWhatIsLeft(t *testing.T) {
	c := newLeaseCluster(t)
	for i, m := range c.members {
		id := int64(7 + i)
		if _, err := m.node.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{ID: id, TTL: 10}); err != nil {
			t.Fatal(err)
		}
		if _, err := tryPut(t, m.node, &pb.PutRequest{Key: []byte(m.name), Lease: id}); err != nil {
			t.Fatal(err)
		}
		for by := range c.members {
			c.clock.advance(3 * time.Second)
			c.wantLeft(id, 7)
			c.mustPing(by, id, 10)
			c.wantLeft(id, 10)
		}
	}
	for _, m := range c.members {
		s, err := m.node.LeaseTimeToLive(t.Context(), &pb.LeaseTimeToLiveRequest{ID: 8, Keys: true})
		if err != nil || s.GrantedTTL != 10 || len(s.Keys) != 1 || string(s.Keys[0]) != "m1" || s.Header.MemberId != m.node.member.ID {
			t.Errorf("%s says %v, %v", m.name, s, err)
		}
		if _, err := m.node.LeaseRenew(t.Context(), 7); !errors.Is(err, rpctypes.ErrGRPCLeaseNotFound) {
			t.Errorf("%s: ping of a lease that was last pinged 18 s ago: %v", m.name, err)
		}
		if all, err := m.node.LeaseLeases(t.Context(), &pb.LeaseLeasesRequest{}); err != nil || len(all.Leases) != 2 {
			t.Errorf("%s has %v, %v, want 8 and 9", m.name, all, err)
		}
	}
}

// Only the leader's batches are renewed without waiting; the pings of others are sent to the leader one by one, and share calls.
func TestABatchOfPingsOfAFollowerIsLeftToSinglePings(t *testing.T) {
	c := newLeaseCluster(t)
	c.grant(1, 10)
	ids := []int64{1, 2}
	for i, m := range c.members {
		want := []int64{0, 0}
		if i == c.leader() {
			want[0] = 10
		}
		ttls := []int64{-1, -1}
		if m.node.LeaseRenewNow(t.Context(), ids, ttls); !slices.Equal(ttls, want) {
			t.Errorf("%s: %d, want %d", m.name, ttls, want)
		}
	}
}

// While the alarm is raised, revocations are refused.
func TestAnExpiredLeaseHoldsUpNobodyElse(t *testing.T) {
	c := newLeaseCluster(t)
	by := c.follower()
	c.grant(1, 2)
	c.grant(2, 100)
	alarm := func(action pb.AlarmRequest_AlarmAction) {
		_, err := c.node(by).Alarm(t.Context(), &pb.AlarmRequest{Action: action, MemberID: 1, Alarm: pb.AlarmType_CORRUPT})
		if err != nil {
			t.Fatal(err)
		}
	}
	alarm(pb.AlarmRequest_ACTIVATE)
	c.clock.advance(3 * time.Second)
	ended := make(chan error)
	for range 3 {
		go func() {
			_, err := c.ping(by, 1)
			ended <- err
		}()
	}
	for range 20 {
		c.mustPing(by, 2, 100)
	}
	select {
	case err := <-ended:
		t.Fatalf("the ping of a lease that has not been revoked is answered: %v", err)
	default:
	}
	alarm(pb.AlarmRequest_DEACTIVATE)
	c.clock.advance(3 * time.Second) // the revocation is proposed again
	for range 3 {
		if err := <-ended; !errors.Is(err, rpctypes.ErrGRPCLeaseNotFound) {
			t.Errorf("ping of an expired lease: %v", err)
		}
	}
}

func TestAPingViaAFollowerWaitsUntilTheCheckpointIsTakenBack(t *testing.T) {
	c := newLeaseCluster(t)
	by := c.follower()
	c.grant(1, 1000)
	c.clock.advance(400 * time.Second)
	n := c.node(by)
	for stored := int64(0); stored == 0; {
		stored = storedRemaining(t, n, 1)
	}
	c.mustPing(by, 1, 1000)
	c.kill(c.leader())
	c.leader()
	c.wantLeft(1, 1000)
}

func TestWhoMayRenewIsJudgedByTheMemberThatIsAsked(t *testing.T) {
	c := newLeaseCluster(t)
	u := users{t, c.node(c.follower())}
	for _, name := range []string{"root", "bob"} {
		_, err := u.n.UserAdd(t.Context(), &pb.AuthUserAddRequest{Name: name, Password: name + "'s"})
		u.must(err)
	}
	_, err := u.n.UserGrantRole(t.Context(), &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})
	u.must(err)
	_, err = u.n.RoleAdd(t.Context(), &pb.AuthRoleAddRequest{Name: "b"})
	u.must(err)
	_, err = u.n.RoleGrantPermission(t.Context(), &pb.AuthRoleGrantPermissionRequest{
		Name: "b", Perm: &authpb.Permission{PermType: authpb.READWRITE, Key: []byte("b")},
	})
	u.must(err)
	_, err = u.n.UserGrantRole(t.Context(), &pb.AuthUserGrantRoleRequest{User: "bob", Role: "b"})
	u.must(err)
	for id, key := range map[int64]string{1: "a", 2: "b"} {
		c.grant(id, 10)
		_, err := tryPut(t, u.n, &pb.PutRequest{Key: []byte(key), Lease: id})
		u.must(err)
	}
	_, err = u.n.AuthEnable(t.Context(), &pb.AuthEnableRequest{})
	u.must(err)
	for _, w := range []struct {
		who  context.Context
		id   int64
		want error
	}{
		{u.as("root"), 1, nil}, {u.as("bob"), 2, nil},
		{u.as("bob"), 1, rpctypes.ErrGRPCPermissionDenied},
		{t.Context(), 2, rpctypes.ErrGRPCUserEmpty},
		{withToken(t.Context(), "forged"), 2, rpctypes.ErrGRPCInvalidAuthToken},
	} {
		if _, err := u.n.LeaseRenew(w.who, w.id); !errors.Is(err, w.want) {
			t.Errorf("ping of lease %d: %v, want %v", w.id, err, w.want)
		}
	}
}

// The clock stands still but for what the test moves it, and before it is moved by a second all live clients have pinged.
func TestLeasesOfTheLivingOutliveFiveLeadersAndThoseOfTheDeadDoNot(t *testing.T) {
	const ttl, dead = 2, 99
	c := newLeaseCluster(t)
	live := []int64{1, 2, 3, 4, 5}
	for _, id := range append(live, dead) {
		c.grant(id, ttl)
	}
	pingAll := func() {
		t.Helper()
		var clients sync.WaitGroup
		for k, id := range live {
			clients.Go(func() {
				by := c.up()[k%len(c.up())]
				if got, err := c.ping(by, id); err != nil || got != ttl {
					t.Errorf("ping of lease %d by %s: %d, %v", id, c.members[by].name, got, err)
				}
			})
		}
		clients.Wait()
	}
	for range 5 {
		pingAll()
		c.clock.advance(time.Second)
		leader := c.leader()
		c.kill(leader)
		c.leader()
		c.wantLeft(dead, ttl) // what it had under the leader before is not known
		pingAll()
		c.clock.advance(time.Second)
		c.restart(leader)
	}
	pingAll()
	c.clock.advance(time.Second)
	pingAll()
	c.clock.advance(time.Second) // the TTL and an election have passed since the last leader began
	pingAll()
	if _, err := c.ping(c.follower(), dead); !errors.Is(err, rpctypes.ErrGRPCLeaseNotFound) {
		t.Errorf("the lease of a dead client: %v", err)
	}
	c.wantLeft(dead, -1)
	for _, id := range live {
		c.wantLeft(id, ttl)
	}
}

// A leader that has been cut off goes on answering pings for a while. Whatever it has answered, whoever leads next keeps.
func TestWhatACutOffLeaderHasPromisedIsKept(t *testing.T) {
	const ttl = 5
	c := newLeaseCluster(t)
	c.grant(1, ttl)
	former := c.leader()
	c.mustPing(former, 1, ttl)
	back := c.cutOff(former)
	var promised time.Time
	for answered := 0; ; answered++ {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		at := c.clock.Now()
		_, err := c.node(former).LeaseRenew(ctx, 1)
		cancel()
		if err != nil {
			t.Logf("%d pings were answered, then: %v", answered, err)
			break
		}
		promised = at.Add(ttl * time.Second)
		c.clock.advance(time.Millisecond)
	}
	next := c.otherLeader(former)
	c.clock.advance(promised.Sub(c.clock.Now()) - time.Nanosecond)
	c.mustPing(next, 1, ttl)
	back()
	if c.leader() == former {
		t.Errorf("the leader that was cut off leads again")
	}
	c.mustPing(former, 1, ttl)
}

// otherLeader waits until one of the other members leads.
func (c leaseCluster) otherLeader(but int) int {
	c.Helper()
	a, b := (but+1)%3, (but+2)%3
	for {
		_, leadsA, changedA := c.node(a).tenure.now()
		_, leadsB, changedB := c.node(b).tenure.now()
		switch {
		case leadsA:
			return a
		case leadsB:
			return b
		}
		select {
		case <-changedA:
		case <-changedB:
		case <-c.Context().Done():
			c.Fatal("nobody else leads")
		}
	}
}

// With clocks that go on, a leader of whom nobody has heard for longer than a majority's word is good for answers no ping.
func TestALeaderThatMayBeDeposedRenewsNothing(t *testing.T) {
	c := newLeaseCluster(t)
	c.grant(1, 5)
	former := c.leader()
	c.mustPing(former, 1, 5)
	defer c.cutOff(former)()
	c.clock.advance(confirmedFor + 1)
	ttls := []int64{-1}
	if c.node(former).LeaseRenewNow(t.Context(), []int64{1}, ttls); ttls[0] != 0 {
		t.Errorf("it has renewed a lease in a batch")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.node(former).LeaseRenew(ctx, 1); !errors.Is(err, rpctypes.ErrGRPCNoLeader) {
		t.Errorf("a ping without a leader: %v", err)
	}
}

func TestAPingWaitsForALeaderAndFailsAsAtEtcd(t *testing.T) {
	c := newLeaseCluster(t)
	c.grant(1, 5)
	by := c.follower()
	n := c.node(by)
	c.mustPing(by, 1, 5)
	back := c.cutOff(by)
	for n.leader.Load() != 0 {
		<-n.leadership().Done()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancelled := make(chan error)
	go func() {
		_, err := n.LeaseRenew(ctx, 1)
		cancelled <- err
	}()
	cancel()
	if err := <-cancelled; !errors.Is(err, rpctypes.ErrGRPCCanceled) {
		t.Errorf("who has gone is told: %v", err)
	}
	answered := make(chan error)
	go func() {
		_, err := n.LeaseRenew(t.Context(), 1)
		answered <- err
	}()
	back()
	if err := <-answered; err != nil {
		t.Errorf("a ping that has waited for the leader: %v", err)
	}
}
