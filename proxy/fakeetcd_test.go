package proxy

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"
)

// fakeEtcd is a member as far as endpoints and registrations need one: keys with leases, which end only when they are told
// to, and a list of members.
type fakeEtcd struct {
	pb.UnimplementedKVServer
	pb.UnimplementedLeaseServer
	pb.UnimplementedClusterServer

	mu      sync.Mutex // guards the fields below
	keys    map[string]*mvccpb.KeyValue
	leases  map[int64]int64 // to TTLs
	granted int64           // the last one
	members []*pb.Member
	down    error // what everything is answered with, if not nil
	ranges  int
	pings   int

	readOnly bool          // keys may not be written, leases may be granted
	changed  chan struct{} // closed and replaced when keys or leases change
}

// serveEtcd serves a fake member and returns how to dial it.
func serveEtcd(t *testing.T) (*fakeEtcd, func(context.Context, string) (net.Conn, error)) {
	f := &fakeEtcd{keys: map[string]*mvccpb.KeyValue{}, leases: map[int64]int64{}, changed: make(chan struct{})}
	pipes := bufconn.Listen(64 << 10)
	s := grpc.NewServer(grpc.WaitForHandlers(true))
	pb.RegisterKVServer(s, f)
	pb.RegisterLeaseServer(s, f)
	pb.RegisterClusterServer(s, f)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(pipes)
	}()
	t.Cleanup(func() {
		s.Stop()
		<-served
	})
	return f, func(ctx context.Context, _ string) (net.Conn, error) { return pipes.DialContext(ctx) }
}

// do changes the member.
func (f *fakeEtcd) do(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	close(f.changed)
	f.changed = make(chan struct{})
}

// await waits until the member is as wanted.
func (f *fakeEtcd) await(wanted func() bool) {
	for {
		f.mu.Lock()
		ok, changed := wanted(), f.changed
		f.mu.Unlock()
		if ok {
			return
		}
		<-changed
	}
}

// end ends a lease.
func (f *fakeEtcd) end(lease int64) {
	delete(f.leases, lease)
	maps.DeleteFunc(f.keys, func(_ string, kv *mvccpb.KeyValue) bool { return kv.Lease == lease })
}

func (f *fakeEtcd) Range(_ context.Context, r *pb.RangeRequest) (resp *pb.RangeResponse, err error) {
	resp = &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 1}}
	f.do(func() {
		err = f.down
		if len(r.RangeEnd) > 0 && r.RangeEnd[0] != 0 { // others ask what there is
			f.ranges++
		}
		for _, k := range slices.Sorted(maps.Keys(f.keys)) {
			if k < string(r.Key) || k >= string(r.RangeEnd) {
				continue
			}
			if r.Limit > 0 && int64(len(resp.Kvs)) == r.Limit {
				resp.More = true
				break
			}
			resp.Kvs = append(resp.Kvs, f.keys[k])
		}
	})
	return resp, err
}

func (f *fakeEtcd) Put(_ context.Context, r *pb.PutRequest) (resp *pb.PutResponse, err error) {
	f.do(func() {
		if _, ok := f.leases[r.Lease]; !ok {
			err = rpctypes.ErrGRPCLeaseNotFound
		}
		if f.down != nil {
			err = f.down
		}
		if f.readOnly {
			err = rpctypes.ErrGRPCPermissionDenied
		}
		if err == nil {
			f.keys[string(r.Key)] = &mvccpb.KeyValue{Key: r.Key, Value: r.Value, Lease: r.Lease}
		}
	})
	return &pb.PutResponse{}, err
}

func (f *fakeEtcd) LeaseGrant(_ context.Context, r *pb.LeaseGrantRequest) (resp *pb.LeaseGrantResponse, err error) {
	f.do(func() {
		if err = f.down; err == nil {
			f.granted++
			f.leases[f.granted] = r.TTL
			resp = &pb.LeaseGrantResponse{ID: f.granted, TTL: r.TTL}
		}
	})
	return resp, err
}

func (f *fakeEtcd) LeaseRevoke(_ context.Context, r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error) {
	f.do(func() { f.end(r.ID) })
	return &pb.LeaseRevokeResponse{}, nil
}

func (f *fakeEtcd) LeaseKeepAlive(s pb.Lease_LeaseKeepAliveServer) error {
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		resp := &pb.LeaseKeepAliveResponse{ID: r.ID}
		f.do(func() {
			f.pings++
			resp.TTL, err = f.leases[r.ID], f.down
		})
		if err != nil {
			return err
		}
		if err := s.Send(resp); err != nil {
			return err
		}
	}
}

func (f *fakeEtcd) MemberList(context.Context, *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &pb.MemberListResponse{Header: &pb.ResponseHeader{}, Members: f.members}, f.down
}
