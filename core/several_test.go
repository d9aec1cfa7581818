package core

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/soheilhy/cmux"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"weir/grpcapi/wire"
)

// testCluster is several members in this process, which reach each other over loopback.
type testCluster struct {
	*testing.T
	dir     string
	change  func(*Config)
	initial []InitialMember
	members []*testMember
}

// testMember is one of them. node is nil while it is down.
type testMember struct {
	name   string
	url    string
	joins  bool // a cluster that there is
	node   *Node
	server *grpc.Server
}

// newCluster starts a cluster of n members and waits until all of them serve.
func newCluster(t *testing.T, n int, change ...func(*Config)) *testCluster {
	t.Helper()
	c := prepareCluster(t, n, change...)
	for i := range c.members {
		c.start(i)
	}
	for i := range c.members {
		c.waitReady(i)
	}
	return c
}

// prepareCluster makes a cluster of n members, of whom none is started.
func prepareCluster(t *testing.T, n int, change ...func(*Config)) *testCluster {
	t.Helper()
	c := &testCluster{T: t, dir: t.TempDir(), change: func(cfg *Config) {
		cfg.HeartbeatInterval, cfg.ElectionTimeout = 20*time.Millisecond, 400*time.Millisecond
		for _, f := range change {
			f(cfg)
		}
	}}
	for range n {
		c.newMember()
	}
	t.Cleanup(func() {
		for i := range c.members {
			c.stop(i)
		}
	})
	return c
}

// newMember adds one to those that there may be, and returns which it is.
func (c *testCluster) newMember() int {
	c.Helper()
	i, l := len(c.members), c.listen("127.0.0.1:0")
	for c.hasMemberAt(l.Addr()) { // a port that was given back may be given again at once
		other := c.listen("127.0.0.1:0")
		l.Close()
		l = other
	}
	m := &testMember{name: fmt.Sprintf("m%d", i), url: "http://" + l.Addr().String()}
	l.Close()
	c.members = append(c.members, m)
	c.initial = append(c.initial, InitialMember{m.name, []string{m.url}})
	return i
}

func (c *testCluster) hasMemberAt(a net.Addr) bool {
	return slices.ContainsFunc(c.members, func(m *testMember) bool { return m.url == "http://"+a.String() })
}

func (c *testCluster) listen(address string) net.Listener {
	c.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		c.Fatal(err)
	}
	return l
}

// start starts a member, or starts it again.
func (c *testCluster) start(i int) *Node {
	c.Helper()
	m := c.members[i]
	node, err := Open(c.config(i))
	if err != nil {
		c.Fatalf("open %s: %v", m.name, err)
	}
	c.serve(i, node)
	return node
}

// config is that of a member.
func (c *testCluster) config(i int) Config {
	m := c.members[i]
	cfg := Config{
		Name: m.name, DataDir: filepath.Join(c.dir, m.name), PeerURLs: []string{m.url}, InitialCluster: c.initial, JoinExisting: m.joins,
		ClientURLs: []string{m.url + "0"},
	}
	c.change(&cfg)
	return cfg
}

// serve has a node be a member.
func (c *testCluster) serve(i int, node *Node) {
	c.Helper()
	m := c.members[i]
	m.node, m.server = node, grpc.NewServer(PeerServerOptions()...)
	node.RegisterPeers(m.server)
	both := cmux.New(c.listen(m.url[len("http://"):]))
	http1, rest := both.Match(cmux.HTTP1Fast()), both.Match(cmux.Any())
	go func() { _ = http.Serve(http1, http.HandlerFunc(node.ServeMembers)) }() //nolint:gosec // ends with the test
	go func(s *grpc.Server) { _ = s.Serve(rest) }(m.server)
	go func() { _ = both.Serve() }()
}

// restartAll stops all members and then starts them.
func (c *testCluster) restartAll() {
	c.Helper()
	for i := range c.members {
		c.stop(i)
	}
	for i := range c.members {
		c.start(i)
	}
	for i := range c.members {
		c.waitReady(i)
	}
}

func (c *testCluster) waitReady(i int) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.Context(), time.Minute)
	defer cancel()
	if err := c.members[i].node.WaitReady(ctx); err != nil {
		c.Fatalf("wait until %s serves: %v", c.members[i].name, err)
	}
}

// stop stops a member, if it is not down.
func (c *testCluster) stop(i int) {
	c.Helper()
	m := c.members[i]
	if m.node == nil {
		return
	}
	m.server.Stop()
	if err := m.node.Close(); err != nil {
		c.Errorf("close %s: %v", m.name, err)
	}
	m.node = nil
}

// up are the members that are.
func (c *testCluster) up() (all []int) {
	for i, m := range c.members {
		if m.node != nil {
			all = append(all, i)
		}
	}
	return all
}

// leader waits until all members that are up know the same leader, which is up too, and returns which it is.
func (c *testCluster) leader() int {
	c.Helper()
	for c.Context().Err() == nil {
		up := c.up()
		led := c.members[up[0]].node.leadership()
		id := c.members[up[0]].node.leader.Load()
		leader := slices.IndexFunc(c.members, func(m *testMember) bool { return m.node != nil && m.node.member.ID == id })
		agree := leader >= 0 && !slices.ContainsFunc(up, func(i int) bool { return c.members[i].node.leader.Load() != id })
		if agree {
			return leader
		}
		select {
		case <-led.Done():
		case <-time.After(5 * time.Millisecond): // others change too
		}
	}
	c.Fatal("there is no leader")
	return -1
}

// put writes by a member, again and again while there is no leader that takes it.
func (c *testCluster) put(i int, key, value string) {
	c.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		_, err := tryPut(c.T, c.members[i].node, &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.Fatalf("put by %s: %v", c.members[i].name, err)
		}
	}
}

// wantAll reads a key, linearizably, by all members that are up.
func (c *testCluster) wantAll(key, value string) {
	c.Helper()
	for _, i := range c.up() {
		resp := mustRange(c.T, c.members[i].node, &wire.RangeRequest{Key: []byte(key)})
		if len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != value {
			c.Errorf("%s has %v for %s, want %s", c.members[i].name, resp.Kvs, key, value)
		}
	}
}

// wantSame compares what all members that are up have.
func (c *testCluster) wantSame() {
	c.Helper()
	var hashes []uint32
	for _, i := range c.up() {
		n := c.members[i].node
		if err := n.linearizable(c.Context()); err != nil {
			c.Fatalf("%s: %v", c.members[i].name, err)
		}
		resp, err := n.HashKV(c.Context(), &pb.HashKVRequest{})
		if err != nil {
			c.Fatalf("%s: %v", c.members[i].name, err)
		}
		hashes = append(hashes, resp.Hash)
	}
	if len(slices.Compact(slices.Clone(hashes))) != 1 {
		c.Errorf("the members have hashes %x", hashes)
	}
}

func TestAnyMemberOfAClusterTakesWritesAndReads(t *testing.T) {
	c := newCluster(t, 3)
	for i := range c.members {
		c.put(i, "k", fmt.Sprint(i))
		c.wantAll("k", fmt.Sprint(i))
	}
	c.wantSame()
}

func TestAClusterGoesOnWithoutItsLeader(t *testing.T) {
	c := newCluster(t, 3)
	for round := range 3 {
		dead := c.leader()
		c.stop(dead)
		value := fmt.Sprint(round)
		for _, i := range c.up() {
			c.put(i, "k", value)
		}
		c.start(dead)
		c.waitReady(dead)
		c.wantAll("k", value)
	}
	c.wantSame()
}

func TestWithoutAMajorityNothingIsWrittenOrReadLinearizably(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) {
		cfg.ElectionTimeout, cfg.HeartbeatInterval = 200*time.Millisecond, 20*time.Millisecond
	})
	c.put(0, "k", "before")
	c.stop(1)
	c.stop(2)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := c.members[0].node.linearizable(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a linearizable read: %v", err)
	}
	resp := mustRange(t, c.members[0].node, &wire.RangeRequest{Key: []byte("k"), Serializable: true})
	if len(resp.Kvs) != 1 {
		t.Errorf("a serializable read: %v", resp)
	}
	c.start(1)
	c.put(0, "k", "after")
	c.start(2)
	c.waitReady(2)
	c.wantAll("k", "after")
}

func TestAMemberThatWasDownForLongGetsASnapshot(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.SnapshotCount, cfg.SnapshotCatchUpEntries = 20, 10 })
	c.put(0, "before", "1")
	down := (c.leader() + 1) % 3
	c.stop(down)
	by := c.up()[0]
	for i := range 200 {
		c.put(by, fmt.Sprintf("k%d", i%50), fmt.Sprint(i))
	}
	waitCut(t, c.members[c.leader()].node, 100)
	c.start(down)
	c.waitReady(down)
	c.wantAll("k49", "199")
	c.wantSame()
	// It is a full member: with it and one other the cluster goes on, and what it got outlives it.
	c.stop(by)
	c.put(down, "after", "2")
	c.stop(down)
	c.start(down)
	c.waitReady(down)
	c.wantAll("after", "2")
	c.wantAll("k49", "199")
}

func TestAllMembersAreStartedAgain(t *testing.T) {
	c := newCluster(t, 3)
	c.put(0, "k", "v")
	c.restartAll()
	c.wantAll("k", "v")
	c.wantSame()
}
