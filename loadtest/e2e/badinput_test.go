package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

func badInputCases() []testCase {
	return []testCase{
		{"BadInputIsRefusedAndChangesNothing", badInputIsRefused},
		{"UnknownMethodIsUnimplemented", unknownMethodIsUnimplemented},
	}
}

// statusText shows an error, of etcd's client or of gRPC, as "Code: text".
func statusText(err error) string {
	if etcdErr := (rpctypes.EtcdError{}); errors.As(err, &etcdErr) {
		return etcdErr.Code().String() + ": " + etcdErr.Error()
	}
	if s, ok := status.FromError(err); ok {
		return s.Code().String() + ": " + s.Message()
	}
	return "not a status: " + err.Error()
}

func (f *fixture) wantStatus(err error, want string) {
	f.Helper()
	if got := statusText(err); got != want {
		f.Errorf("got error %q, want %q", got, want)
	}
}

func putOp(r *pb.PutRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: r}}
}

func rangeOp(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

func deleteOp(r *pb.DeleteRangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
}

func txnOp(r *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r}}
}

// manyPuts is n puts to different keys.
func manyPuts(n int) []*pb.RequestOp {
	var ops []*pb.RequestOp
	for i := range n {
		ops = append(ops, putOp(&pb.PutRequest{Key: fmt.Append(nil, "many/", i)}))
	}
	return ops
}

const (
	emptyKey      = "InvalidArgument: etcdserver: key is not provided"
	keyNotFound   = "InvalidArgument: etcdserver: key not found"
	duplicateKey  = "InvalidArgument: etcdserver: duplicate key given in txn request"
	tooManyOps    = "InvalidArgument: etcdserver: too many operations in txn request"
	valueProvided = "InvalidArgument: etcdserver: value is provided"
	leaseProvided = "InvalidArgument: etcdserver: lease is provided"
	badSort       = "InvalidArgument: etcdserver: invalid sort option"
	tooLarge      = "InvalidArgument: etcdserver: request is too large"
	compacted     = "OutOfRange: etcdserver: mvcc: required revision has been compacted"
	futureRev     = "OutOfRange: etcdserver: mvcc: required revision is a future revision"
	noLease       = "NotFound: etcdserver: requested lease not found"
	leaseTaken    = "FailedPrecondition: etcdserver: lease already exists"
	ttlTooLarge   = "OutOfRange: etcdserver: too large lease TTL"
)

// badInput is a request that must be refused. Exactly one of the requests is set.
type badInput struct {
	name  string
	want  string
	rng   *pb.RangeRequest
	put   *pb.PutRequest
	del   *pb.DeleteRangeRequest
	txn   *pb.TxnRequest
	comp  *pb.CompactionRequest
	grant *pb.LeaseGrantRequest
	rvk   *pb.LeaseRevokeRequest
	hash  *pb.HashKVRequest
	// since is the first minor version that refuses it, or 0 for all: etcd 3.5 takes an unknown sort order for none, and
	// panics at an unknown sort target.
	since int
}

func (b *badInput) send(ctx context.Context, conn *grpc.ClientConn) error {
	kv, lease := pb.NewKVClient(conn), pb.NewLeaseClient(conn)
	var err error
	switch {
	case b.rng != nil:
		_, err = kv.Range(ctx, b.rng)
	case b.put != nil:
		_, err = kv.Put(ctx, b.put)
	case b.del != nil:
		_, err = kv.DeleteRange(ctx, b.del)
	case b.txn != nil:
		_, err = kv.Txn(ctx, b.txn)
	case b.comp != nil:
		_, err = kv.Compact(ctx, b.comp)
	case b.grant != nil:
		_, err = lease.LeaseGrant(ctx, b.grant)
	case b.rvk != nil:
		_, err = lease.LeaseRevoke(ctx, b.rvk)
	case b.hash != nil:
		_, err = pb.NewMaintenanceClient(conn).HashKV(ctx, b.hash)
	}
	return err
}

// badInputs are given a lease that exists and a revision that is compacted.
func badInputs(takenLease, compactedRev int64) []badInput {
	k, k2 := []byte("bad/k"), []byte("bad/k2")
	put := putOp(&pb.PutRequest{Key: k})
	del := deleteOp(&pb.DeleteRangeRequest{Key: []byte("bad/"), RangeEnd: []byte("bad0")})
	thenTxn := func(ops ...*pb.RequestOp) *pb.RequestOp { return txnOp(&pb.TxnRequest{Success: ops}) }
	elseTxn := func(ops ...*pb.RequestOp) *pb.RequestOp { return txnOp(&pb.TxnRequest{Failure: ops}) }
	return []badInput{
		{name: "range without key", want: emptyKey, rng: &pb.RangeRequest{}},
		{name: "range end without key", want: emptyKey, rng: &pb.RangeRequest{RangeEnd: k}},
		{name: "unknown sort order", want: badSort, rng: &pb.RangeRequest{Key: k, SortOrder: 3}, since: 6},
		{name: "unknown sort target", want: badSort, rng: &pb.RangeRequest{Key: k, SortTarget: -1}, since: 6},
		{name: "range in the future", want: futureRev, rng: &pb.RangeRequest{Key: k, Revision: 1 << 50}},
		{name: "range in the forgotten past", want: compacted, rng: &pb.RangeRequest{Key: k, Revision: compactedRev}},
		{name: "serializable range in the future", want: futureRev, rng: &pb.RangeRequest{Key: k, Revision: 1 << 50, Serializable: true}},
		{name: "put without key", want: emptyKey, put: &pb.PutRequest{Value: k}},
		{name: "ignore_value with a value", want: valueProvided, put: &pb.PutRequest{Key: k, Value: k, IgnoreValue: true}},
		{name: "ignore_lease with a lease", want: leaseProvided, put: &pb.PutRequest{Key: k, Lease: takenLease, IgnoreLease: true}},
		{name: "ignore_value of no key", want: keyNotFound, put: &pb.PutRequest{Key: k, IgnoreValue: true}},
		{name: "ignore_lease of no key", want: keyNotFound, put: &pb.PutRequest{Key: k, IgnoreLease: true}},
		{name: "put with an unknown lease", want: noLease, put: &pb.PutRequest{Key: k, Lease: 987654321}},
		{name: "put with a negative lease", want: noLease, put: &pb.PutRequest{Key: k, Lease: -1}},
		{name: "put over the request limit", want: tooLarge, put: &pb.PutRequest{Key: k, Value: bytes.Repeat([]byte("x"), 3<<19)}},
		{name: "put over the message limit", want: "ResourceExhausted: grpc: received message larger than max (3145740 vs. 2097152)",
			put: &pb.PutRequest{Key: k, Value: bytes.Repeat([]byte("x"), 3<<20)}},
		{name: "delete without key", want: emptyKey, del: &pb.DeleteRangeRequest{RangeEnd: k}},
		{name: "txn with too many ops", want: tooManyOps, txn: &pb.TxnRequest{Success: manyPuts(129)}},
		{name: "txn with too many else ops", want: tooManyOps, txn: &pb.TxnRequest{Failure: manyPuts(129)}},
		{name: "txn with too many compares", want: tooManyOps, txn: &pb.TxnRequest{Compare: manyCompares(129)}},
		{name: "nested txn with too many ops", want: tooManyOps, txn: &pb.TxnRequest{Success: []*pb.RequestOp{thenTxn(manyPuts(128)...)}}},
		{name: "compare without key", want: emptyKey, txn: &pb.TxnRequest{Compare: []*pb.Compare{{}}}},
		{name: "put without key in a txn", want: emptyKey, txn: &pb.TxnRequest{Success: []*pb.RequestOp{putOp(&pb.PutRequest{})}}},
		{name: "put without key in the branch not taken", want: emptyKey, txn: &pb.TxnRequest{Failure: []*pb.RequestOp{putOp(&pb.PutRequest{})}}},
		{name: "empty op", want: keyNotFound, txn: &pb.TxnRequest{Success: []*pb.RequestOp{{}}}},
		{name: "bad sort in a txn", want: badSort, txn: &pb.TxnRequest{Success: []*pb.RequestOp{rangeOp(&pb.RangeRequest{Key: k, SortOrder: 9})}}, since: 6},
		{name: "two puts of a key", want: duplicateKey, txn: &pb.TxnRequest{Success: []*pb.RequestOp{put, put}}},
		{name: "two puts of a key in the branch not taken", want: duplicateKey, txn: &pb.TxnRequest{Failure: []*pb.RequestOp{put, put}}},
		{name: "put and delete of a key", want: duplicateKey, txn: &pb.TxnRequest{Success: []*pb.RequestOp{put, deleteOp(&pb.DeleteRangeRequest{Key: k})}}},
		{name: "put in a deleted range", want: duplicateKey, txn: &pb.TxnRequest{Success: []*pb.RequestOp{del, put}}},
		{name: "put outside and inside", want: duplicateKey, txn: &pb.TxnRequest{Success: []*pb.RequestOp{put, thenTxn(put)}}},
		{name: "puts in two nested txns", want: duplicateKey, txn: &pb.TxnRequest{Success: []*pb.RequestOp{thenTxn(put), elseTxn(put)}}},
		{name: "nested delete of an outer put", want: duplicateKey, txn: &pb.TxnRequest{Success: []*pb.RequestOp{thenTxn(del), put}}},
		{name: "nested put below an outer delete", want: duplicateKey, txn: &pb.TxnRequest{Success: []*pb.RequestOp{elseTxn(put), del}}},
		{name: "future range in a txn", want: futureRev, txn: &pb.TxnRequest{Success: []*pb.RequestOp{rangeOp(&pb.RangeRequest{Key: k, Revision: 1 << 50})}}},
		{name: "forgotten range beside a put", want: compacted, txn: &pb.TxnRequest{Success: []*pb.RequestOp{put,
			rangeOp(&pb.RangeRequest{Key: k2, Revision: compactedRev})}}},
		{name: "unknown lease in a nested txn", want: noLease, txn: &pb.TxnRequest{Success: []*pb.RequestOp{put,
			thenTxn(putOp(&pb.PutRequest{Key: k2, Lease: 987654321}))}}},
		{name: "ignore_value of no key in a txn", want: keyNotFound, txn: &pb.TxnRequest{Success: []*pb.RequestOp{
			putOp(&pb.PutRequest{Key: k, IgnoreValue: true})}}},
		{name: "txn over the request limit", want: tooLarge, txn: &pb.TxnRequest{Success: []*pb.RequestOp{
			putOp(&pb.PutRequest{Key: k, Value: bytes.Repeat([]byte("x"), 3<<19)})}}},
		{name: "compact of a compacted revision", want: compacted, comp: &pb.CompactionRequest{Revision: compactedRev}},
		{name: "compact of a negative revision", want: compacted, comp: &pb.CompactionRequest{Revision: -1}},
		{name: "compact of a future revision", want: futureRev, comp: &pb.CompactionRequest{Revision: 1 << 50}},
		{name: "lease id that is taken", want: leaseTaken, grant: &pb.LeaseGrantRequest{ID: takenLease, TTL: 1000}},
		{name: "huge TTL", want: ttlTooLarge, grant: &pb.LeaseGrantRequest{TTL: 9_000_000_001}},
		{name: "largest TTL", want: ttlTooLarge, grant: &pb.LeaseGrantRequest{TTL: 1<<63 - 1}},
		{name: "revoke of an unknown lease", want: noLease, rvk: &pb.LeaseRevokeRequest{ID: 987654321}},
		{name: "revoke of no lease", want: noLease, rvk: &pb.LeaseRevokeRequest{}},
		{name: "hash of a future revision", want: futureRev, hash: &pb.HashKVRequest{Revision: 1 << 50}},
		{name: "hash of a forgotten revision", want: compacted, hash: &pb.HashKVRequest{Revision: compactedRev}},
	}
}

// manyCompares is n compares.
func manyCompares(n int) []*pb.Compare {
	var cmps []*pb.Compare
	for range n {
		cmps = append(cmps, &pb.Compare{Key: []byte("many")})
	}
	return cmps
}

func badInputIsRefused(f *fixture) {
	old := f.put("a", "1").Header.Revision
	f.put("a", "2")
	_, err := f.client.Compact(f.ctx, f.put("a", "3").Header.Revision)
	f.must(err)
	lease := f.grant(1000)
	before, err := f.client.HashKV(f.ctx, f.target.Endpoint, 0)
	f.must(err)
	leases, err := f.client.Leases(f.ctx)
	f.must(err)
	for _, b := range badInputs(int64(lease), old) {
		if f.target.Kind.API() < b.since {
			continue
		}
		if err := b.send(f.ctx, f.conn); err == nil {
			f.Errorf("%s: was done", b.name)
		} else if got := statusText(err); got != b.want {
			f.Errorf("%s: got %q, want %q", b.name, got, b.want)
		}
	}
	after, err := f.client.HashKV(f.ctx, f.target.Endpoint, 0)
	f.must(err)
	want(f, "hash of the store", after.Hash, before.Hash)
	want(f, "revision", after.Header.Revision, before.Header.Revision)
	leasesAfter, err := f.client.Leases(f.ctx)
	f.must(err)
	want(f, "leases", len(leasesAfter.Leases), len(leases.Leases))
}

func unknownMethodIsUnimplemented(f *fixture) {
	err := f.conn.Invoke(f.ctx, "/etcdserverpb.KV/Nothing", &pb.RangeRequest{}, &pb.RangeResponse{})
	f.wantStatus(err, "Unimplemented: unknown method Nothing for service etcdserverpb.KV")
	err = f.conn.Invoke(f.ctx, "/no.Service/Nothing", &pb.RangeRequest{}, &pb.RangeResponse{})
	f.wantStatus(err, "Unimplemented: unknown service no.Service")
	s, err := f.conn.NewStream(f.ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/no.Service/Nothing")
	f.must(err)
	if err := s.RecvMsg(&pb.RangeResponse{}); err == io.EOF {
		f.Error("stream of an unknown service ended well")
	} else {
		f.wantStatus(err, "Unimplemented: unknown service no.Service")
	}
}
