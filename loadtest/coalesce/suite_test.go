package coalesce

import (
	"flag"
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

// Kinds for tests of what must hold everywhere, the one that proves the test first.
var (
	everywhere = []target.Kind{
		target.Etcd37,
		target.ProxyEtcd37, target.ProxyEtcd36, target.ProxyEtcd35, target.ProxyCore,
		target.ProxyProxyEtcd37, target.ProxyProxyCore,
	}
	somewhere = []target.Kind{target.Etcd37, target.ProxyEtcd37, target.ProxyProxyCore}
)

// at runs a test at each kind of site, all at the same time.
func at(t *testing.T, kinds []target.Kind, run func(*site), proxyArgs ...string) {
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			run(newSite(t, kind, targettest.SiteOptions{ProxyArgs: proxyArgs}))
		})
	}
}

// site is where streams of watches are opened.
type site struct {
	*targettest.Site
	shared *grpc.ClientConn // to the endpoint
}

func newSite(t *testing.T, kind target.Kind, o targettest.SiteOptions) *site {
	t.Helper()
	o.Timeout = testTimeout
	return &site{Site: targettest.NewSite(t, bin, kind, o)}
}

// dial is a new connection to where clients go.
func (s *site) dial() *grpc.ClientConn {
	s.Helper()
	return s.dialTo(s.Endpoint())
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
	return targettest.Dial(s, s.Endpoint(), grpc.WithStaticStreamWindowSize(window), grpc.WithStaticConnWindowSize(16*window))
}

// dialTo is a new connection to any server.
func (s *site) dialTo(addr string) *grpc.ClientConn {
	s.Helper()
	return targettest.Dial(s, addr)
}

// store is a connection to a member, past the proxies.
func (s *site) store() *store {
	s.Helper()
	return &store{s, pb.NewKVClient(s.dialTo(s.Cluster.Members[0].Addr))}
}

// store writes straight to a member.
type store struct {
	*site
	kv pb.KVClient
}

// put writes one pair and returns its revision.
func (s *store) put(key, value string) int64 {
	s.Helper()
	r, err := s.kv.Put(s.Ctx, &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
	s.Must(err)
	return r.Header.Revision
}

// putAll writes pairs in one revision.
func (s *store) putAll(keys []string, value string) int64 {
	s.Helper()
	txn := &pb.TxnRequest{}
	for _, k := range keys {
		txn.Success = append(txn.Success, targettest.PutOp(k, value))
	}
	r, err := s.kv.Txn(s.Ctx, txn)
	s.Must(err)
	return r.Header.Revision
}

// remove deletes all keys in [key, end).
func (s *store) remove(key, end string) {
	s.Helper()
	_, err := s.kv.DeleteRange(s.Ctx, &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)})
	s.Must(err)
}

// compact forgets what is older than rev.
func (s *store) compact(rev int64) {
	s.Helper()
	_, err := s.kv.Compact(s.Ctx, &pb.CompactionRequest{Revision: rev, Physical: true})
	s.Must(err)
}

// revision is the store's revision as of now.
func (s *store) revision() int64 {
	s.Helper()
	r, err := s.kv.Range(s.Ctx, &pb.RangeRequest{Key: []byte("revision"), CountOnly: true})
	s.Must(err)
	return r.Header.Revision
}
