package proxy

import (
	"runtime"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"
)

// asks is how often m was asked for its status.
func (m *pingMember) asks() (n int) {
	m.do(func() { n = m.statuses })
	return n
}

// wantAt pings until a ping goes to a member.
func (c *pingCluster) wantAt(m *pingMember) {
	c.Helper()
	for id := int64(1); ; id++ {
		c.pings.leader.doubt()
		to, pong := c.ping(c.Context(), id)
		if pong.Err != nil {
			c.Fatal(pong.Err)
		}
		if to.member == m {
			return
		}
		if c.Context().Err() != nil {
			c.Fatal("the pings do not get there")
		}
	}
}

func threeMembers(t *testing.T) *pingCluster {
	t.Helper()
	c := &pingCluster{T: t, members: []*pingMember{{}, {}, {}}}
	c.serve(&fakeIdentities{}, false)
	return c
}

func TestPingsGoToTheLeaderAndFollowIt(t *testing.T) {
	c := threeMembers(t)
	for term, leader := range []*pingMember{c.members[2], c.members[1], c.members[0], c.members[2]} {
		c.elect(leader, uint64(2+term))
		to, pong := c.ping(t.Context(), 1)
		if pong.Err != nil {
			t.Fatal(pong.Err)
		}
		if term == 0 && to.member != leader {
			t.Errorf("the first ping went to %s", to.member.name)
		}
		c.wantAt(leader)
	}
}

func TestPingsGoToTheLeaderOfTheLatestTerm(t *testing.T) {
	c := threeMembers(t)
	c.elect(c.members[1], 5)
	c.members[2].do(func() { c.members[2].leader, c.members[2].term = c.members[2].id, 4 }) // it was cut off
	c.wantAt(c.members[1])
}

func TestWithoutALeaderPingsGoToTheCurrentMember(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*pingMember)
	}{
		{"none is elected", func(m *pingMember) { m.leader = 0 }},
		{"it is no endpoint", func(m *pingMember) { m.leader = 99 }},
		{"nobody tells", func(m *pingMember) { m.leader, m.refuses = 3, rpctypes.ErrGRPCUserEmpty }},
	} {
		t.Run(c.name, func(t *testing.T) {
			cluster := threeMembers(t)
			for _, m := range cluster.members {
				m.do(func() { c.change(m) })
			}
			if to, pong := cluster.ping(t.Context(), 1); pong.Err != nil || to.member != cluster.members[0] {
				t.Errorf("pinged %+v, %v", to, pong.Err)
			}
			cluster.pings.upstream.prefer(cluster.connected(cluster.members[1]))
			cluster.wantAt(cluster.members[1])
		})
	}
}

// Who may not ask does not make others forget what they have found out.
func TestRefusedQuestionsChangeNothing(t *testing.T) {
	c := threeMembers(t)
	c.elect(c.members[2], 2)
	c.wantAt(c.members[2])
	for _, m := range c.members {
		m.do(func() { m.refuses = rpctypes.ErrGRPCInvalidAuthToken })
	}
	for range 3 {
		c.pings.leader.doubt()
		if to, pong := c.ping(t.Context(), 1); pong.Err != nil || to.member != c.members[2] {
			t.Errorf("pinged %+v, %v", to, pong.Err)
		}
	}
}

// Where there is no choice nobody is asked, and where there is one the leader alone, once for all streams.
func TestMembersAreAskedNoMoreThanNeeded(t *testing.T) {
	one := &pingCluster{T: t, members: []*pingMember{{}}}
	one.serve(&fakeIdentities{}, false)
	three := threeMembers(t)
	three.elect(three.members[1], 2)
	for _, token := range []string{"a", "b", "c", "d"} {
		one.ping(byToken(t.Context(), token), 1)
		three.ping(byToken(t.Context(), token), 1)
	}
	if n := one.members[0].statuses; n > 0 {
		t.Errorf("the only member was asked for its status %d times", n)
	}
	// More than once only if the test takes more than a second.
	for _, m := range three.members {
		m.do(func() {
			if m.statuses > 5 {
				t.Errorf("%s was asked for its status %d times", m.name, m.statuses)
			}
		})
	}
}

// Who may not ask does not keep others from being told, however often he tries.
func TestRefusedQuestionIsAskedByOthers(t *testing.T) {
	c := threeMembers(t)
	c.elect(c.members[1], 2)
	c.wantAt(c.members[1])
	for _, m := range c.members {
		m.do(func() { m.stranger = "forged" })
	}
	c.elect(c.members[2], 3)
	f := c.pings.leader
	f.doubt()
	var stranger, friend asker
	find := func(a *asker, token string) *member {
		t.Helper()
		m, err := f.find(metadata.AppendToOutgoingContext(t.Context(), "token", token), a)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	if m := find(&stranger, "forged"); m.endpoint != c.members[1].name {
		t.Errorf("who is told nothing finds %s", m.endpoint)
	}
	if stranger.again.Load() == 0 || f.stale.Load() != 0 {
		t.Error("it is not who was refused that waits before he asks again")
	}
	if m := find(&friend, "good"); m.endpoint != c.members[2].name {
		t.Errorf("who is told finds %s", m.endpoint)
	}
	if m := find(&stranger, "forged"); m.endpoint != c.members[2].name {
		t.Errorf("after that who is told nothing finds %s", m.endpoint)
	}
}

// An answer that was under way when a stream failed may be older than that.
func TestDoubtIsNotSettledByAnEarlierQuestion(t *testing.T) {
	c := threeMembers(t)
	c.elect(c.members[1], 2)
	c.wantAt(c.members[1])
	hold := make(chan struct{})
	c.members[1].do(func() { c.members[1].asked = hold })
	f := c.pings.leader
	f.doubt()
	before := c.members[1].asks()
	found := make(chan error, 1)
	go func() {
		_, err := f.find(t.Context(), &asker{})
		found <- err
	}()
	for c.members[1].asks() == before {
		runtime.Gosched()
	}
	f.doubt()
	close(hold)
	if err := <-found; err != nil {
		t.Fatal(err)
	}
	if !f.isDue(&asker{}) {
		t.Error("the leader is taken for known")
	}
}

// Where nobody says anything whoever asks, a leader that is elected meanwhile is found soon.
func TestSilentMembersAreAskedAgainSoon(t *testing.T) {
	c := threeMembers(t)
	for _, m := range c.members {
		m.do(func() { m.refuses = rpctypes.ErrGRPCNoLeader })
	}
	f := c.pings.leader
	f.doubt()
	if _, err := f.find(t.Context(), &asker{}); err != nil {
		t.Fatal(err)
	}
	if left := time.Duration(f.stale.Load()) - f.now(); left > silentInterval {
		t.Errorf("they are asked again after %v", left)
	}
	for _, m := range c.members {
		m.do(func() { m.refuses = nil })
	}
	c.elect(c.members[2], 5)
	for f.at().endpoint != c.members[2].name {
		if _, err := f.find(t.Context(), &asker{}); err != nil {
			t.Fatal(err)
		}
	}
}
