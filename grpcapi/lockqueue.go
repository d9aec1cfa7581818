package grpcapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// lockQueues are the queues of those who want a lock, or to lead an election, and of who has it.
//
// The store itself is the queue: who wants a name puts a key of his own, the name, a slash and his lease in hexadecimal,
// and of the keys that are there the one that was created first has the name. So the queue outlives every server, ends
// with the leases in it, and is the same for who asks a server and who does it himself with etcd's client library, whose
// package concurrency has the keys so. Everybody waits only for the deletion of the key before his own, so that a release
// wakes one: as ZooKeeper's locks do (Hunt and others, "ZooKeeper: wait-free coordination for internet-scale systems",
// 2010, section 2.4). Rejected: a queue in memory, which others' keys and another server's would not be in.
//
// Who finds his key deleted while he waits is told so at once, and so is who finds another key in its place, which some
// other has put for the same lease: etcd lets the first wait until it would be his turn, and gives the second what is a
// later one's.
//
// Methods may be called concurrently. Errors are the Backend's and those of the checks of a KV request.
type lockQueues struct {
	kv      kv
	waiting atomic.Int64 // bytes that RPCs have taken
}

// registerLocks adds the services of locks and elections. A name is one queue to both.
func registerLocks(s grpc.ServiceRegistrar, b Backend, cfg Config) {
	q := &lockQueues{kv: kv{b: b, maxRequestBytes: cfg.MaxRequestBytes, maxTxnOps: cfg.MaxTxnOps}}
	lock{q}.register(s, b)
	election{q}.register(s, b)
}

const (
	// lockTTL is the seconds of a lease that is made for who shows none. Nobody keeps it alive.
	lockTTL = 60

	// withdrawTimeout bounds the waiting for the answer. What has been asked for may still be done after it.
	withdrawTimeout = time.Second

	// All RPCs that may wait can take maxWaitingBytes, which is 18,000 with short names; more are refused. etcd has no bound.
	maxWaitingBytes = 256 << 20
	waitingBytes    = 14 << 10 // of one, with its stream and its goroutine, besides what its request holds
)

// errNotInQueue is why a claim is not waited for: it has been deleted.
var errNotInQueue = errors.New("the key is no longer in the queue")

// claim is one place in a queue.
type claim struct {
	prefix  []byte // of all keys of the queue
	key     []byte
	lease   int64
	created int64 // the revision that created the key
	value   []byte
	header  *pb.ResponseHeader // as of joining
	first   bool               // at that time
}

// reserve takes room for an RPC whose request has that many bytes, until release is called.
func (q *lockQueues) reserve(request int) (release func(), err error) {
	n := int64(waitingBytes + 3*request) // the request, the key, and one of them encoded
	if q.waiting.Add(n) > maxWaitingBytes {
		q.waiting.Add(-n)
		return nil, rpctypes.ErrGRPCRequestTooManyRequests
	}
	return func() { q.waiting.Add(-n) }, nil
}

func queuePrefix(name []byte) []byte { return append(slices.Clip(name), '/') }

// queueEnd is the end of the range of all keys with the prefix, which ends in a slash.
func queueEnd(prefix []byte) []byte {
	end := slices.Clone(prefix)
	end[len(end)-1]++
	return end
}

// leaseFor returns the lease, or a new one for 0.
func (q *lockQueues) leaseFor(ctx context.Context, lease int64) (int64, error) {
	if lease != 0 {
		return lease, nil
	}
	resp, err := q.kv.b.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: lockTTL})
	if err != nil {
		return 0, err
	}
	return resp.ID, nil
}

// join puts a key for the lease into the queue of the name, if there is none, or finds the one that is there, with its value.
//
// Whether a write has happened whose client went away is not known; so it is waited for, and undone.
func (q *lockQueues) join(ctx context.Context, name []byte, lease int64, value []byte) (*claim, error) {
	lease, err := q.leaseFor(ctx, lease)
	if err != nil {
		return nil, err
	}
	c := &claim{prefix: queuePrefix(name), lease: lease, value: value}
	c.key = fmt.Appendf(slices.Clip(c.prefix), "%x", lease)
	first := opRange(&pb.RangeRequest{
		Key: c.prefix, RangeEnd: queueEnd(c.prefix), Limit: 1, KeysOnly: true,
		SortOrder: pb.RangeRequest_ASCEND, SortTarget: pb.RangeRequest_CREATE,
	})
	resp, err := q.txn(context.WithoutCancel(ctx), &pb.TxnRequest{
		Compare: []*pb.Compare{createdAt(c.key, 0)},
		Success: []*pb.RequestOp{opPut(c.key, value, lease), first},
		Failure: []*pb.RequestOp{opRange(&pb.RangeRequest{Key: c.key}), first},
	})
	if err != nil {
		return nil, err
	}
	c.header, c.created = resp.Header, resp.Header.Revision
	if !resp.Succeeded {
		kv := resp.Responses[0].GetResponseRange().Kvs[0]
		c.created, c.value = kv.CreateRevision, kv.Value
	}
	c.first = resp.Responses[1].GetResponseRange().Kvs[0].CreateRevision == c.created
	if err := ctx.Err(); err != nil {
		if resp.Succeeded {
			q.withdraw(ctx, c)
		}
		return nil, err
	}
	return c, nil
}

// wait returns when the claim is the first in its queue, with the header of the answer that showed it. When it cannot be
// waited for any longer the claim is given up. The error is errNotInQueue if somebody else has done that.
func (q *lockQueues) wait(ctx context.Context, c *claim) (*pb.ResponseHeader, error) {
	if c.first {
		return c.header, nil
	}
	h, err := q.waitInLine(ctx, c)
	if err != nil && !errors.Is(err, errNotInQueue) {
		q.withdraw(ctx, c)
	}
	return h, err
}

func (q *lockQueues) waitInLine(ctx context.Context, c *claim) (*pb.ResponseHeader, error) {
	for {
		before, h, err := q.before(ctx, c)
		if err != nil || before == nil {
			return h, err
		}
		if err := q.untilDeleted(ctx, h.Revision, c.key, before); err != nil {
			return nil, err
		}
	}
}

// before returns the key whose deletion c waits for, nil if c is the first.
func (q *lockQueues) before(ctx context.Context, c *claim) ([]byte, *pb.ResponseHeader, error) {
	resp, err := q.txn(ctx, &pb.TxnRequest{
		Success: []*pb.RequestOp{
			opRange(&pb.RangeRequest{Key: c.key, KeysOnly: true}),
			opRange(&pb.RangeRequest{
				Key: c.prefix, RangeEnd: queueEnd(c.prefix), Limit: 1, KeysOnly: true,
				SortOrder: pb.RangeRequest_DESCEND, SortTarget: pb.RangeRequest_CREATE,
				MaxCreateRevision: c.created - 1,
			}),
		},
	})
	if err != nil {
		return nil, nil, err
	}
	own := resp.Responses[0].GetResponseRange().Kvs
	if len(own) == 0 || own[0].CreateRevision != c.created {
		return nil, nil, errNotInQueue
	}
	if before := resp.Responses[1].GetResponseRange().Kvs; len(before) > 0 {
		return before[0].Key, resp.Header, nil
	}
	return nil, resp.Header, nil
}

// untilDeleted returns when one of the keys has been deleted after rev, or may have been.
func (q *lockQueues) untilDeleted(ctx context.Context, rev int64, keys ...[]byte) error {
	w := newWatcher(q.kv.b.Hub(), q.kv.b)
	defer w.close()
	for _, key := range keys {
		if err := w.watch(ctx, coalesce.Watch{Key: key, Start: rev + 1, NoPut: true}); err != nil {
			return err
		}
	}
	_, err := w.next(ctx)
	if isCompacted(err) {
		return nil
	}
	return err
}

// withdraw leaves for a client that has gone, or that the server lets go because it stops: then many leave at once, and
// what is not done soon is left to the end of the claim's lease.
func (q *lockQueues) withdraw(ctx context.Context, c *claim) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), withdrawTimeout)
	defer cancel()
	_, _ = q.leave(ctx, c)
}

// leave takes a claim out of its queue, if it still is there.
func (q *lockQueues) leave(ctx context.Context, c *claim) (*pb.ResponseHeader, error) {
	resp, err := q.txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{createdAt(c.key, c.created)},
		Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{
			RequestDeleteRange: &pb.DeleteRangeRequest{Key: c.key},
		}}},
	})
	return resp.GetHeader(), err
}

// set gives a claim another value, and tells whether it still is in its queue.
func (q *lockQueues) set(ctx context.Context, c *claim, value []byte) (bool, *pb.ResponseHeader, error) {
	resp, err := q.txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{createdAt(c.key, c.created)},
		Success: []*pb.RequestOp{opPut(c.key, value, c.lease)},
	})
	return resp.GetSucceeded(), resp.GetHeader(), err
}

// first returns the key of who has the name, nil if nobody has it.
func (q *lockQueues) first(ctx context.Context, prefix []byte) (*mvccpb.KeyValue, *pb.ResponseHeader, error) {
	r := wire.RangeRequestOf(&pb.RangeRequest{
		Key: prefix, RangeEnd: queueEnd(prefix), Limit: 1,
		SortOrder: pb.RangeRequest_ASCEND, SortTarget: pb.RangeRequest_CREATE,
	})
	raw, err := q.kv.b.Range(ctx, &r)
	if err != nil {
		return nil, nil, err
	}
	resp := new(pb.RangeResponse)
	if err := decode(raw, resp); err != nil {
		return nil, nil, err
	}
	if len(resp.Kvs) == 0 {
		return nil, resp.Header, nil
	}
	return resp.Kvs[0], resp.Header, nil
}

// remove deletes a key whoever put it.
func (q *lockQueues) remove(ctx context.Context, key []byte) (*pb.ResponseHeader, error) {
	req, err := proto.Marshal(&pb.DeleteRangeRequest{Key: key})
	if err != nil {
		return nil, err
	}
	raw, err := q.kv.deleteRange(ctx, req)
	if err != nil {
		return nil, err
	}
	resp := new(pb.DeleteRangeResponse)
	err = decode(raw, resp)
	return resp.Header, err
}

func (q *lockQueues) txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	req, err := proto.Marshal(r)
	if err != nil {
		return nil, err
	}
	raw, err := q.kv.txn(ctx, req)
	if err != nil {
		return nil, err
	}
	resp := new(pb.TxnResponse)
	if err := decode(raw, resp); err != nil {
		return nil, err
	}
	return resp, nil
}

func decode(raw mem.BufferSlice, m proto.Message) error {
	if err := proto.Unmarshal(raw.Materialize(), m); err != nil {
		return fmt.Errorf("decode the store's answer: %w", err)
	}
	return nil
}

func createdAt(key []byte, rev int64) *pb.Compare {
	return &pb.Compare{
		Key: key, Target: pb.Compare_CREATE, Result: pb.Compare_EQUAL,
		TargetUnion: &pb.Compare_CreateRevision{CreateRevision: rev},
	}
}

func opPut(key, value []byte, lease int64) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: value, Lease: lease}}}
}

func opRange(r *pb.RangeRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: r}}
}

// throughClient makes the errors of a handler those that etcd answers. It serves locks and elections through a client of
// its own, whose errors have etcd's texts and no code.
func throughClient[Req, Resp any](handle func(context.Context, Req) (Resp, error)) func(context.Context, Req) (Resp, error) {
	return func(ctx context.Context, r Req) (Resp, error) {
		resp, err := handle(ctx, r)
		return resp, withoutCode(err)
	}
}

func withoutCode(err error) error {
	if err == nil {
		return nil
	}
	err = toStatus(err)
	var known rpctypes.EtcdError
	if errors.As(rpctypes.Error(err), &known) {
		return status.Error(codes.Unknown, known.Error())
	}
	return err
}
