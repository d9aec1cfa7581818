package core

import (
	"context"
	"math"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"weir/core/mvcc"
	"weir/grpcapi/wire"
)

// Range answers the range from the store: at once when serializable, else once the store holds all that was
// committed when the request came.
func (n *Node) Range(ctx context.Context, r *wire.RangeRequest) (mem.BufferSlice, error) {
	t := n.metrics.ranges.begin()
	resp, err := n.answerRange(ctx, r, &t)
	t.end(err)
	return resp, err
}

func (n *Node) answerRange(ctx context.Context, r *wire.RangeRequest, t *readTime) (mem.BufferSlice, error) {
	if !r.Serializable {
		if err := n.linearizableKeys(ctx); err != nil {
			return nil, err
		}
	}
	t.answering()
	id, err := n.permitRange(ctx, r.Key, r.RangeEnd)
	if err != nil {
		return nil, err
	}
	a, err := readPart(n.store, r, mvcc.RangeOptions{MaxBytes: math.MaxInt32})
	if err != nil {
		return nil, apiError(err)
	}
	if err := n.auth.Unchanged(id.Revision); err != nil {
		return nil, err
	}
	if a.truncated {
		return nil, errTooLargeToSend
	}
	return wire.EncodeRange(n.headerAt(a.revision), a.kvs, a.more, a.count), nil
}

// errTooLargeToSend is what gRPC says of a message over 2 GiB, here before it is made.
var errTooLargeToSend = status.Errorf(codes.ResourceExhausted, "trying to send message larger than max (over %d bytes)", math.MaxInt32)

// Put writes one key.
func (n *Node) Put(ctx context.Context, r *wire.PutRequest) (mem.BufferSlice, error) {
	if err := n.checkSpace(ctx, putCost(len(r.Key), len(r.Value))); err != nil {
		return nil, err
	}
	return n.write(ctx, kindPut, r.Raw, r)
}

// DeleteRange deletes the keys of a range.
func (n *Node) DeleteRange(ctx context.Context, r *wire.DeleteRangeRequest) (mem.BufferSlice, error) {
	return n.write(ctx, kindDeleteRange, r.Raw, r)
}

// Txn runs a transaction; one that writes nothing is answered from one state of the store, without the log.
func (n *Node) Txn(ctx context.Context, r *pb.TxnRequest, raw []byte) (mem.BufferSlice, error) {
	if err := n.checkSpace(ctx, txnCost(r)); err != nil {
		return nil, err
	}
	if !txnWrites(r) {
		t := n.metrics.readTxns.begin()
		resp, err := n.readTxn(ctx, r)
		t.end(err)
		return resp, err
	}
	return n.write(ctx, kindTxn, raw, r)
}

func (n *Node) readTxn(ctx context.Context, r *pb.TxnRequest) (mem.BufferSlice, error) {
	if !txnSerializable(r) {
		if err := n.linearizableKeys(ctx); err != nil {
			return nil, err
		}
	}
	id, err := n.identify(ctx)
	if err != nil {
		return nil, err
	}
	g := guard{auth: n.auth, leases: n.leases}
	if err := g.permit(id, r); err != nil {
		return nil, err
	}
	view := n.store.View()
	defer view.Close()
	run := txnRun{request: r, before: view, revision: view.Revision(), compacted: view.CompactRevision()}
	if err := run.prepare(); err != nil {
		return nil, apiError(err)
	}
	succeeded, ops, err := run.execute(nil)
	if err != nil {
		return nil, apiError(err)
	}
	// One with another in it goes through the log at etcd, where a change of users matters only to what touches keys. And nobody may
	// send one that touches none, whether authentication is on or not.
	if nests(r) || id.User == "" {
		err = g.permit(id, r)
	} else {
		err = n.auth.Unchanged(id.Revision)
	}
	if err != nil {
		return nil, err
	}
	return wire.EncodeTxn(n.headerAt(view.Revision()), succeeded, ops), nil
}

// write proposes a request whose result is an encoded response.
func (n *Node) write(ctx context.Context, k kind, raw []byte, decoded any) (mem.BufferSlice, error) {
	as, err := n.identify(ctx)
	if err != nil {
		return nil, err
	}
	res, err := n.propose(ctx, k, as, raw, decoded)
	if err != nil {
		return nil, err
	}
	return res.resp.(mem.BufferSlice), nil
}

// Compact forgets what only revisions before r.Revision need. With Physical it returns when that is off the disk
// too, so that a crash does not bring it back.
func (n *Node) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	if err := n.permitAdmin(ctx); err != nil {
		return nil, err
	}
	res, err := n.proposeMessage(ctx, kindCompact, r)
	if r.Physical && res.physical != nil { // also when an earlier compaction went as far: it may still be at work
		select {
		case <-res.physical:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-n.stopped:
			return nil, rpctypes.ErrGRPCStopped
		}
		if err := n.store.Commit(); err != nil {
			return nil, apiError(err)
		}
	}
	if err != nil {
		return nil, err
	}
	return &pb.CompactionResponse{Header: n.pbHeader()}, nil
}

// Parts of a RangeStream have at most streamPartKeys keys and, but for a single larger key, streamPartBytes.
const (
	streamPartKeys  = 8 << 10
	streamPartBytes = 1 << 20
)

// RangeStream answers a range in parts, all of one revision. The last part has the header, more and the count.
//
// The revision is pinned by its number, as at etcd, so a stream that a slow client stretches over a compaction
// ends with ErrCompacted. Holding a view of the store instead would let that client keep freed pages in the file.
func (n *Node) RangeStream(ctx context.Context, r *wire.RangeRequest, send func(mem.BufferSlice) error) error {
	if !r.Serializable {
		if err := n.linearizableKeys(ctx); err != nil {
			return err
		}
	}
	id, err := n.permitRange(ctx, r.Key, r.RangeEnd)
	if err != nil {
		return err
	}
	part, left := *r, r.Limit
	var header wire.Header
	var total int64 // keys in the whole range
	for first := true; ; first = false {
		if !r.CountOnly {
			part.Limit = streamPartKeys
			if r.Limit > 0 {
				part.Limit = min(part.Limit, left)
			}
		}
		a, err := readPart(n.store, &part, mvcc.RangeOptions{NoTotal: !first, MaxBytes: streamPartBytes})
		if err != nil {
			return apiError(err)
		}
		if first {
			header, total = n.headerAt(a.revision), a.count
			if part.Revision <= 0 {
				part.Revision = a.revision
			}
		}
		if err := n.PermitUser(id.User, r.Key, r.RangeEnd); err != nil {
			return err
		}
		left -= int64(len(a.kvs))
		if !a.more || r.Limit > 0 && left == 0 {
			return send(wire.EncodeRangeStream(header, a.kvs, a.more, total))
		}
		if err := send(wire.EncodeRangeStream(wire.Header{}, a.kvs, false, 0)); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		var last wire.KeyValue
		if err := last.Unmarshal(a.kvs[len(a.kvs)-1]); err != nil {
			return apiError(err)
		}
		part.Key = append(append(make([]byte, 0, len(last.Key)+1), last.Key...), 0)
	}
}
