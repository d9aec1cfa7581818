package grpcapi

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"weir/grpcapi/wire"
)

// These are the checks that etcd makes before a request reaches its store, in its order, because with several
// mistakes in one request the first decides the error.

func checkRange(key []byte, order, target int32) error {
	if len(key) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	if _, ok := pb.RangeRequest_SortOrder_name[order]; !ok {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	if _, ok := pb.RangeRequest_SortTarget_name[target]; !ok {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	return nil
}

func checkRangeStream(r *wire.RangeRequest) error {
	if err := checkRange(r.Key, r.SortOrder, r.SortTarget); err != nil {
		return err
	}
	sorted := r.SortOrder == int32(pb.RangeRequest_NONE) ||
		r.SortOrder == int32(pb.RangeRequest_ASCEND) && r.SortTarget == int32(pb.RangeRequest_KEY)
	if !sorted {
		return status.Error(codes.Unimplemented, "RangeStream does not support custom sort orders")
	}
	if r.MinModRevision != 0 || r.MaxModRevision != 0 || r.MinCreateRevision != 0 || r.MaxCreateRevision != 0 {
		return status.Error(codes.Unimplemented, "RangeStream does not support revision filters")
	}
	return nil
}

func checkPut(key []byte, valueLen int, lease int64, ignoreValue, ignoreLease bool) error {
	switch {
	case len(key) == 0:
		return rpctypes.ErrGRPCEmptyKey
	case ignoreValue && valueLen != 0:
		return rpctypes.ErrGRPCValueProvided
	case ignoreLease && lease != 0:
		return rpctypes.ErrGRPCLeaseProvided
	}
	return nil
}

func checkDelete(key []byte) error {
	if len(key) == 0 {
		return rpctypes.ErrGRPCEmptyKey
	}
	return nil
}

// checkTxn checks every operation of a transaction. A nested one may have maxOps less what its parent has, so that
// the depth of the recursion is bounded by maxOps (and by protobuf, which decodes no more than 10,000 levels).
func checkTxn(r *pb.TxnRequest, maxOps int) error {
	ops := max(len(r.Compare), len(r.Success), len(r.Failure))
	if ops > maxOps {
		return rpctypes.ErrGRPCTooManyOps
	}
	for _, c := range r.Compare {
		if len(c.Key) == 0 {
			return rpctypes.ErrGRPCEmptyKey
		}
	}
	for _, branch := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range branch {
			if err := checkOp(op, maxOps-ops); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOp(op *pb.RequestOp, maxOps int) error {
	switch o := op.Request.(type) {
	case *pb.RequestOp_RequestRange:
		r := o.RequestRange
		return checkRange(r.Key, int32(r.SortOrder), int32(r.SortTarget))
	case *pb.RequestOp_RequestPut:
		r := o.RequestPut
		return checkPut(r.Key, len(r.Value), r.Lease, r.IgnoreValue, r.IgnoreLease)
	case *pb.RequestOp_RequestDeleteRange:
		return checkDelete(o.RequestDeleteRange.Key)
	case *pb.RequestOp_RequestTxn:
		return checkTxn(o.RequestTxn, maxOps)
	default:
		return rpctypes.ErrGRPCKeyNotFound // an operation without content, in etcd's words
	}
}

// entryOverhead is what etcd's raft entry adds to a request besides its field: a header with an id of 9 or 10 bytes.
const entryOverhead = 14

// checkSize refuses a write whose raft entry would exceed the limit. It counts the entry as etcd does, so that the
// same request is refused by both. Reads are bounded only by gRPC.
func checkSize(raw wire.Raw, limit int) error {
	if protowire.SizeTag(1)+protowire.SizeBytes(len(raw))+entryOverhead > limit {
		return rpctypes.ErrGRPCRequestTooLarge
	}
	return nil
}

// readOnly tells whether etcd answers the transaction without raft. Nested transactions count as writes.
func readOnly(r *pb.TxnRequest) bool {
	for _, branch := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range branch {
			if op.GetRequestRange() == nil {
				return false
			}
		}
	}
	return true
}
