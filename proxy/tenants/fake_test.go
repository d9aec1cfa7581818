package tenants

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// caller is a client in a test.
type caller struct {
	token, cn string
	address   net.Addr
	forwarded []string
	trailer   metadata.MD // that it was answered with
}

// ctx is that of an RPC of c.
func (c *caller) ctx(ctx context.Context) context.Context {
	md := metadata.MD{}
	if c.token != "" {
		md.Set("token", c.token)
	}
	md["x-forwarded-for"] = c.forwarded
	p := &peer.Peer{Addr: c.address}
	if p.Addr == nil {
		p.Addr = &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 5}
	}
	if c.cn != "" {
		cert := &x509.Certificate{Subject: pkix.Name{CommonName: c.cn}}
		p.AuthInfo = credentials.TLSInfo{State: tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{cert}}}}
	}
	ctx = grpc.NewContextWithServerTransportStream(ctx, (*trailerStream)(c))
	return peer.NewContext(metadata.NewIncomingContext(ctx, md), p)
}

// trailerStream keeps the trailer of an RPC.
type trailerStream caller

func (*trailerStream) Method() string                    { return "" }
func (*trailerStream) SetHeader(metadata.MD) error       { return nil }
func (*trailerStream) SendHeader(metadata.MD) error      { return nil }
func (s *trailerStream) SetTrailer(md metadata.MD) error { s.trailer = md; return nil }

// users knows tokens "good-" and a user. What is "signed-" claims to be a user's, and is if its name is among those that upstream
// believes.
type users struct {
	believed map[string]bool
	mu       sync.Mutex // guards asked
	asked    int        // questions to upstream
}

func (*users) UserOf(ctx context.Context) (name string, verified bool) {
	token := wire.CredentialsOf(ctx).Token
	if name, verified = strings.CutPrefix(token, "good-"); verified {
		return name, true
	}
	name, claimed := strings.CutPrefix(token, "signed-")
	if !claimed {
		name = ""
	}
	return name, false
}

func (u *users) IsValid(ctx context.Context) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.asked++
	name, _ := u.UserOf(ctx)
	return u.believed[name]
}

// newTable makes a table of a file's text; "" is no file.
func newTable(t testing.TB, text string, cfg Config) *Table {
	t.Helper()
	if text != "" {
		cfg.File = filepath.Join(t.TempDir(), "tenants.yaml")
		if err := os.WriteFile(cfg.File, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if cfg.Logger = slog.New(slog.DiscardHandler); cfg.Users == nil {
		cfg.Users = &users{}
	}
	table, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(table.Close)
	return table
}

func marshal(t testing.TB, m proto.Message) wire.Raw {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// call has an RPC come and go, and returns the error of its coming.
func call(t testing.TB, table *Table, c *caller, method string, m proto.Message) error {
	t.Helper()
	v, err := table.Enter(c.ctx(t.Context()), method, marshal(t, m))
	if err == nil {
		v.Leave(nil, nil)
	}
	return err
}

// accountOf is what is counted for c.
func accountOf(t testing.TB, table *Table, c *caller) *account {
	t.Helper()
	found, _ := table.clientOf(c.ctx(t.Context()), table.now.Load())
	return table.accounts.look(found.who, found.tenant)
}

// store is an upstream in memory that publishes what it does to a hub.
type store struct {
	hub  *coalesce.Hub
	feed *coalesce.Feed

	mu      sync.Mutex
	rev     int64
	keys    map[string][]version
	leases  map[int64][]string // keys of each
	lookUps int
	down    bool
	refusal error  // of every call
	paged   func() // after each Range
}

type version struct {
	rev  int64
	size int // of the value; -1 if the key was deleted
}

func newStore(t testing.TB) *store {
	s := &store{rev: 1, keys: map[string][]version{}, leases: map[int64][]string{}}
	s.hub, s.feed = coalesce.NewStoreHub(noHistory{}, s.revision, 1<<20)
	t.Cleanup(s.hub.Close)
	return s
}

type noHistory struct{}

func (noHistory) History(context.Context, coalesce.Range, int64, func(coalesce.Batch) bool) (int64, error) {
	return 0, errors.New("no history")
}

func (noHistory) Prev([]byte, int64) []byte { return nil }

func (s *store) revision() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rev
}

// write sets the sizes of values, all in one revision; -1 deletes.
func (s *store) write(sizes map[string]int) (rev int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rev++
	b := coalesce.Batch{Revision: s.rev}
	for _, k := range slices.Sorted(maps.Keys(sizes)) {
		size := sizes[k]
		s.keys[k] = append(s.keys[k], version{s.rev, size})
		if size < 0 {
			b.Events = append(b.Events, wire.NewDeleteEvent([]byte(k), s.rev))
			continue
		}
		kv := wire.KeyValue{Key: []byte(k), Value: make([]byte, size), ModRevision: s.rev, Version: 1}
		e, err := wire.NewPutEvent(kv.Append(nil))
		if err != nil {
			panic(err)
		}
		b.Events = append(b.Events, e)
	}
	s.feed.Publish(b)
	return s.rev
}

// at returns the sizes of values as of rev.
func (s *store) at(rev int64) map[string]int {
	all := map[string]int{}
	for k, versions := range s.keys {
		for _, v := range versions {
			if v.rev <= rev {
				all[k] = v.size
			}
		}
		if all[k] < 0 {
			delete(all, k)
		}
	}
	return all
}

// set changes what it is.
func (s *store) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// held is what is below prefix.
func (s *store) held(prefix string) (sum amount) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, size := range s.at(s.rev) {
		if strings.HasPrefix(k, prefix) {
			sum.add(1, uint32(len(k)-len(prefix)+size))
		}
	}
	return sum
}

// Call is part of Upstream.
func (s *store) Call(_ context.Context, method string, req []byte) (wire.Raw, error) {
	s.mu.Lock()
	if s.down {
		s.mu.Unlock()
		return nil, status.Error(codes.Unavailable, "down")
	}
	if err := s.refusal; err != nil {
		s.mu.Unlock()
		return nil, err
	}
	var resp proto.Message
	var paged func()
	switch method {
	case pb.KV_Range_FullMethodName:
		resp, paged = s.page(req), s.paged
	case pb.Lease_LeaseTimeToLive_FullMethodName:
		s.lookUps++
		resp = s.lease(req)
	}
	s.mu.Unlock()
	if paged != nil {
		paged()
	}
	return proto.Marshal(resp)
}

func (s *store) page(req []byte) proto.Message {
	var r pb.RangeRequest
	if err := proto.Unmarshal(req, &r); err != nil {
		panic(err)
	}
	rev := r.Revision
	if rev == 0 {
		rev = s.rev
	}
	resp := &pb.RangeResponse{Header: &pb.ResponseHeader{ClusterId: 1, Revision: s.rev}}
	all := s.at(rev)
	for _, k := range slices.Sorted(maps.Keys(all)) {
		if k < string(r.Key) || string(r.RangeEnd) != "\x00" && k >= string(r.RangeEnd) {
			continue
		}
		if resp.Count++; int64(len(resp.Kvs)) < r.Limit {
			resp.Kvs = append(resp.Kvs, keyValue(k, all[k]))
		}
	}
	resp.More = resp.Count > int64(len(resp.Kvs))
	return resp
}

func (s *store) lease(req []byte) proto.Message {
	var r pb.LeaseTimeToLiveRequest
	if err := proto.Unmarshal(req, &r); err != nil {
		panic(err)
	}
	keys, ok := s.leases[r.ID]
	if !ok {
		return &pb.LeaseTimeToLiveResponse{ID: r.ID, TTL: -1}
	}
	resp := &pb.LeaseTimeToLiveResponse{ID: r.ID, TTL: 10}
	for _, k := range keys {
		resp.Keys = append(resp.Keys, []byte(k))
	}
	return resp
}

func keyValue(k string, size int) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{Key: []byte(k), Value: make([]byte, size)}
}
