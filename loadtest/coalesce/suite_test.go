package coalesce

import (
	"context"
	"flag"
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

var (
	// bin is set by TestMain.
	bin *proc.Bin

	seed = flag.Uint64("seed", 0, "seed of what is random; 0 for a random one")
)

func TestMain(m *testing.M) { targettest.Main(m, &bin) }

// testTimeout bounds what one test waits for. The tests of several packages share the machine.
const testTimeout = 90 * time.Second

// place says where clients watch: at a member, or at the last of a row of proxies before it.
type place struct {
	member  proc.Program
	proxies int
}

func (p place) String() string {
	s := string(p.member)
	for range p.proxies {
		s = "proxy-over-" + s
	}
	return s
}

// Places for tests of what must hold everywhere, the one that proves the test first.
var (
	everywhere = []place{
		{proc.Etcd37, 0},
		{proc.Etcd37, 1}, {proc.Etcd36, 1}, {proc.Etcd35, 1}, {proc.Core, 1},
		{proc.Etcd37, 2}, {proc.Core, 2},
	}
	somewhere = []place{{proc.Etcd37, 0}, {proc.Etcd37, 1}, {proc.Core, 2}}
)

// at runs a test at each place, all at the same time.
func at(t *testing.T, places []place, run func(*site), proxyArgs ...string) {
	for _, p := range places {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			run(newSite(t, p, config{proxyArgs: proxyArgs}))
		})
	}
}

// site is a cluster, and proxies before it.
type site struct {
	*testing.T
	place
	ctx     context.Context
	cluster *target.Cluster
	peers   []*relay         // to each member from the others; nil unless asked for
	proxies []*target.Server // the one next to the clients last
	shared  *grpc.ClientConn // to the endpoint
}

// config is what a site is made of besides its place.
type config struct {
	members    int // 0 is 1
	memberArgs []string
	proxyArgs  []string // of each proxy
	relayPeers bool     // what members say to each other goes through relays
}

func newSite(t *testing.T, p place, c config) *site {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	s := &site{T: t, place: p, ctx: ctx}
	o := target.ClusterOptions{Members: c.members, Args: c.memberArgs}
	if c.relayPeers {
		o.PeerVia = func(addr string) string {
			r := s.relayTo(addr)
			s.peers = append(s.peers, r)
			return r.addr
		}
	}
	s.cluster = targettest.StartCluster(t, bin, p.member, o)
	s.startProxies(s.cluster.Endpoints(), c.proxyArgs)
	return s
}

// startProxies starts the proxies of the place, the first of them before endpoints.
func (s *site) startProxies(endpoints, args []string) {
	s.Helper()
	for range s.place.proxies {
		s.proxies = append(s.proxies, targettest.StartProxy(s, bin, endpoints, args...))
		endpoints = []string{s.endpoint()}
	}
}

// endpoint is where clients go.
func (s *site) endpoint() string {
	if len(s.proxies) == 0 {
		return s.cluster.Members[0].Addr
	}
	return s.proxies[len(s.proxies)-1].Addr
}

// dial is a new connection to where clients go.
func (s *site) dial() *grpc.ClientConn {
	s.Helper()
	return s.dialTo(s.endpoint())
}

// dialAgain is the same connection to where clients go each time.
func (s *site) dialAgain() *grpc.ClientConn {
	s.Helper()
	if s.shared == nil {
		s.shared = s.dial()
	}
	return s.shared
}

// dialNarrow is dial for streams that stall: gRPC's window stays as it is at first, where else it grows by and by until
// all that a test writes has been sent ahead.
func (s *site) dialNarrow() *grpc.ClientConn {
	s.Helper()
	const window = 64 << 10
	return targettest.Dial(s, s.endpoint(), grpc.WithStaticStreamWindowSize(window), grpc.WithStaticConnWindowSize(16*window))
}

// dialTo is a new connection to any server.
func (s *site) dialTo(addr string) *grpc.ClientConn {
	s.Helper()
	return targettest.Dial(s, addr)
}

// store is a connection to a member, past the proxies.
func (s *site) store() *store {
	s.Helper()
	return &store{s, pb.NewKVClient(s.dialTo(s.cluster.Members[0].Addr))}
}

// must ends the test if err is not nil.
func (s *site) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// eventually asks again and again until ask returns nil. It is for what gives no signal when it changes.
func (s *site) eventually(within time.Duration, what string, ask func() error) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, within)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			s.Fatalf("%s: not within %v: %v", what, within, err)
		case <-tick.C:
		}
	}
}

// store writes straight to a member.
type store struct {
	*site
	kv pb.KVClient
}

// put writes one pair and returns its revision.
func (s *store) put(key, value string) int64 {
	s.Helper()
	r, err := s.kv.Put(s.ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
	s.must(err)
	return r.Header.Revision
}

// putAll writes pairs in one revision.
func (s *store) putAll(keys []string, value string) int64 {
	s.Helper()
	txn := &pb.TxnRequest{}
	for _, k := range keys {
		txn.Success = append(txn.Success, putOp(k, value))
	}
	r, err := s.kv.Txn(s.ctx, txn)
	s.must(err)
	return r.Header.Revision
}

// remove deletes all keys in [key, end).
func (s *store) remove(key, end string) {
	s.Helper()
	_, err := s.kv.DeleteRange(s.ctx, &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)})
	s.must(err)
}

// compact forgets what is older than rev.
func (s *store) compact(rev int64) {
	s.Helper()
	_, err := s.kv.Compact(s.ctx, &pb.CompactionRequest{Revision: rev, Physical: true})
	s.must(err)
}

// revision is the store's revision as of now.
func (s *store) revision() int64 {
	s.Helper()
	r, err := s.kv.Range(s.ctx, &pb.RangeRequest{Key: []byte("revision"), CountOnly: true})
	s.must(err)
	return r.Header.Revision
}

func putOp(key, value string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte(value)}}}
}

func deleteOp(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key)}}}
}

// prefixEnd is the end of the range of keys that begin with prefix.
func prefixEnd(prefix string) string {
	return prefix[:len(prefix)-1] + string(prefix[len(prefix)-1]+1)
}

func want[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func keys(prefix string, n int) []string {
	var s []string
	for i := range n {
		s = append(s, fmt.Sprintf("%s%06d", prefix, i))
	}
	return s
}
