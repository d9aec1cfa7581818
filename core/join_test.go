package core

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/raft/v3/raftpb"
)

// add has a member add another one, and returns which it is. It is not started.
func (c *testCluster) add(by int, learner bool) int {
	c.Helper()
	i := c.newMember()
	m := c.members[i]
	m.joins = true
	_, err := c.members[by].node.MemberAdd(c.Context(), &pb.MemberAddRequest{PeerURLs: []string{m.url}, IsLearner: learner})
	if err != nil {
		c.Fatalf("add %s: %v", m.name, err)
	}
	return i
}

// promote makes a learner a voter, as soon as it has the log.
func (c *testCluster) promote(by, learner int) {
	c.Helper()
	id := c.members[learner].node.member.ID
	c.try(fmt.Sprintf("promote %x", id), func() error {
		_, err := c.members[by].node.MemberPromote(c.Context(), &pb.MemberPromoteRequest{ID: id})
		return err
	})
}

func TestMembersJoinAClusterAndHaveAllThatItHas(t *testing.T) {
	c := newCluster(t, 1, settled)
	c.put(0, "before", "1")
	second := c.add(0, false) // from here on one is not enough
	c.start(second)
	c.waitReady(second)
	c.connected()
	c.put(second, "k", "2")
	third := c.add(second, true)
	c.start(third)
	c.waitReady(third)
	c.promote(second, third)
	c.connected()
	c.wantAll("before", "1")
	c.wantAll("k", "2")
	c.wantMembers(3)
	c.wantSame()

	// The first one is needed no more, and who joined stays a member when it is started again.
	c.stop(0)
	c.put(third, "k", "3")
	c.stop(third)
	c.start(third)
	c.waitReady(third)
	c.wantAll("k", "3")
	c.wantAll("before", "1")
}

func TestAMemberThatWasStoppedBeforeItGotAnythingJoinsLater(t *testing.T) {
	c := newCluster(t, 1, settled)
	c.put(0, "k", "v")
	joins := c.add(0, true)
	// It is opened and learns who it is, but nobody reaches it.
	node, err := Open(c.config(joins))
	if err != nil {
		t.Fatal(err)
	}
	closeNode(t, node)
	if c.members[0].node.member.ClusterID != node.member.ClusterID {
		t.Errorf("it is of cluster %x", node.member.ClusterID)
	}
	c.start(joins)
	c.waitReady(joins)
	c.wantAll("k", "v")
}

// Else its leader would be one of many who say to be members, and could not be told from strangers, who may take all places or send
// a snapshot without end.
func TestAMemberThatJoinsKnowsTheOthersBeforeItHasTheirData(t *testing.T) {
	c := newCluster(t, 2, settled)
	joins := c.add(0, true)
	for _, when := range []string{"when it is made", "when it is started again"} {
		node, err := Open(c.config(joins)) // nobody reaches it
		if err != nil {
			t.Fatal(err)
		}
		if len(node.members.records()) > 0 {
			t.Fatalf("%s: it has been sent what the others have", when)
		}
		for _, m := range c.members[:2] {
			if node.transport.Conn(m.node.member.ID) == nil {
				t.Errorf("%s: it does not know %s", when, m.name)
			}
		}
		closeNode(t, node)
	}
}

func TestWhoCannotJoinIsToldWhy(t *testing.T) {
	c := newCluster(t, 2, settled)
	c.connected()
	etcd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(etcdClusterHeader, "abc")
		_, _ = w.Write([]byte(`[{"id":1,"peerURLs":["http://127.0.0.1:1"],"name":"e"}]`))
	}))
	defer etcd.Close()
	own := InitialMember{"joins", []string{"http://127.0.0.1:9"}}
	added, err := c.members[0].node.MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: own.PeerURLs})
	if err != nil {
		t.Fatal(err)
	}
	two, three := c.initial, append(c.initial[:2:2], own)
	for name, with := range map[string]struct {
		cfg  Config
		want string
	}{
		"nobody is there":        {Config{JoinExisting: true, InitialCluster: []InitialMember{{"a", []string{"http://127.0.0.1:1"}}, own}}, "no peer URL answers"},
		"it was not added":       {Config{JoinExisting: true, InitialCluster: append(two[:1:1], own)}, "it has 3 members and --initial-cluster has 2"},
		"it has other URLs":      {Config{JoinExisting: true, InitialCluster: append(two[:2:2], InitialMember{"joins", []string{"http://127.0.0.1:10"}})}, "no member with the peer URLs of its member " + idString(added.Member.ID)},
		"it has lost its data":   {Config{JoinExisting: true, Name: "m1", InitialCluster: three}, "was started before"},
		"it is called otherwise": {Config{JoinExisting: true, Name: "other", InitialCluster: three}, `no member of the name "other"`},
		"there are learners":     {Config{JoinExisting: true, InitialCluster: three, MaxLearners: -1}, "more than --max-learners=-1"},
		"etcd":                   {Config{JoinExisting: true, InitialCluster: []InitialMember{{"e", []string{etcd.URL}}, own}}, "etcd cluster"},
		"etcd, as a founder":     {Config{InitialCluster: []InitialMember{{"e", []string{etcd.URL}}, own}}, "etcd cluster"},
		"a founder":              {Config{Name: "m1", InitialCluster: two}, "has already been bootstrapped"},
		"a founder of more":      {Config{InitialCluster: three}, "which has been formed"},
		"of another token":       {Config{Name: "m1", InitialCluster: two, ClusterToken: "other"}, "which has been formed"},
		"a founder elsewhere":    {Config{Name: "m0", InitialCluster: two}, "make them equal"},
	} {
		cfg := with.cfg
		setDefault(&cfg.Name, own.Name)
		cfg.PeerURLs = cfg.InitialCluster[len(cfg.InitialCluster)-1].PeerURLs
		cfg.DataDir = filepath.Join(t.TempDir(), "data")
		node, err := Open(cfg)
		if err == nil {
			closeNode(t, node)
			t.Errorf("%s: it has joined", name)
			continue
		}
		if !strings.Contains(err.Error(), with.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %q, want one line with %q", name, err, with.want)
		}
		if _, err := os.Stat(filepath.Join(cfg.DataDir, "member", "wal")); err == nil {
			t.Errorf("%s: it has a log", name)
		}
	}
}

func TestARemovedMemberEndsAndDoesNotStartAgain(t *testing.T) {
	c := newCluster(t, 3, settled)
	c.connected()
	for _, leads := range []bool{false, true} {
		gone := c.leader()
		if !leads {
			gone = (gone + 1) % 3
		}
		node := c.members[gone].node
		if _, err := node.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: node.member.ID}); err != nil {
			t.Fatal(err)
		}
		<-node.Failed()
		if err := node.Err(); !errors.Is(err, ErrRemoved) {
			t.Errorf("it has ended with %v", err)
		}
		c.stop(gone)
		again, err := Open(c.config(gone))
		if err == nil { // it had not heard of it by its log, and is told by the others again
			<-again.Failed()
			err = again.Err()
			closeNode(t, again)
		}
		if !errors.Is(err, ErrRemoved) {
			t.Errorf("a new start: %v", err)
		}
		c.put(c.up()[0], "k", fmt.Sprint(leads)) // the others go on
		if len(c.up()) == 2 {
			c.wantMembers(2)
		} else {
			c.wantMembers(1)
		}
	}
}

func TestURLsAreComparedByWhereTheyLead(t *testing.T) {
	for _, one := range []struct {
		a, b []string
		same bool
	}{
		{[]string{"http://a:1", "http://b:1"}, []string{"http://b:1", "http://a:1"}, true},
		{[]string{"http://127.0.0.1:1"}, []string{"http://127.0.0.1:2"}, false},
		{[]string{"http://127.0.0.1:1"}, []string{"https://127.0.0.1:1"}, false},
		{[]string{"http://127.0.0.1:1"}, []string{"http://127.0.0.1:1", "http://127.0.0.1:2"}, false},
		{[]string{"unix://a"}, []string{"unix://a"}, true},
	} {
		if sameURLs(t.Context(), one.a, one.b) != one.same {
			t.Errorf("%v and %v: same is not %v", one.a, one.b, one.same)
		}
	}
}

func TestAMemberThatMovesElsewhereStaysWhoItIs(t *testing.T) {
	c := newCluster(t, 3, settled)
	c.put(0, "k", "1")
	id := c.members[2].node.member.ID
	c.stop(2)
	from := c.members[2].url
	l := c.listen("127.0.0.1:0")
	to := "http://" + l.Addr().String()
	l.Close()
	if _, err := c.members[0].node.MemberUpdate(t.Context(), &pb.MemberUpdateRequest{ID: id, PeerURLs: []string{to}}); err != nil {
		t.Fatal(err)
	}
	moved := c.members[2]
	moved.url = to
	if err := os.Rename(filepath.Join(c.dir, moved.name), filepath.Join(c.dir, "moved")); err != nil {
		t.Fatal(err)
	}
	moved.name = "moved"
	c.start(2)
	c.waitReady(2)
	if got := moved.node.member.ID; got != id {
		t.Errorf("it was member %x and is %x", id, got)
	}
	c.stop(1) // it is needed
	c.put(2, "k", "2")
	c.wantAll("k", "2")
	for _, m := range listMembers(t, c.members[0].node) {
		if m.ID == id && (m.Name != "moved" || m.PeerURLs[0] != to) {
			t.Errorf("member %v, which was at %s", m, from)
		}
	}
}

// Each is told other names, and other members' names are not theirs.
func TestMembersThatAreDiscoveredFoundOneCluster(t *testing.T) {
	c := newCluster(t, 2, func(cfg *Config) {
		found := []InitialMember{}
		for _, m := range cfg.InitialCluster {
			if m.Name != cfg.Name {
				m.Name = "somebody else"
			}
			found = append(found, m)
		}
		cfg.InitialCluster = nil
		cfg.Discover = func(context.Context) ([]InitialMember, error) { return found, nil }
	})
	c.put(0, "k", "v")
	c.wantAll("k", "v")
	for i := range c.members {
		for _, m := range listMembers(t, c.members[i].node) {
			if m.Name == "somebody else" {
				t.Errorf("a member is called so: %v", m)
			}
		}
	}
	failing := Config{DataDir: t.TempDir(), Discover: func(context.Context) ([]InitialMember, error) { return nil, errNoAnswer }}
	if n, err := Open(failing); !errors.Is(err, errNoAnswer) {
		t.Errorf("without an answer: %v", err)
		if err == nil {
			closeNode(t, n)
		}
	}
}

// The only voter that is left may elect itself any time.
func TestALeaderThatHasRemovedItselfAnswersNoLinearizableRead(t *testing.T) {
	c := newCluster(t, 2, func(cfg *Config) { cfg.LaxReconfigCheck = true })
	leads := c.leader()
	node := c.members[leads].node
	remove := &reconfiguration{
		ID: 1, Type: raftpb.ConfChangeRemoveNode, Under: node.term.Load(), taken: make(chan error, 1),
		Change: confChange{Type: raftpb.ConfChangeRemoveNode, Member: memberRecord{ID: node.member.ID}},
	}
	removed := node.changes.expect(remove.ID, remove.Under)
	node.reconfigurations <- remove // as if nobody could take over
	if err := <-remove.taken; err != nil {
		t.Fatal(err)
	}
	select {
	case <-removed.done:
	case <-node.Failed(): // on a machine that is busy the other one may have led by then, and told it
	}
	if err := node.linearizable(t.Context()); err == nil {
		t.Error("it answers")
	}
	<-node.Failed()
	c.stop(leads)
	c.put(1-leads, "k", "v")
	c.wantMembers(1)
}
