package tenants

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestTransactionNeedsRoomForItsLargestBranch(t *testing.T) {
	ops := func(keys ...string) (ops []*pb.RequestOp) {
		for _, k := range keys {
			ops = append(ops, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(k)}}})
		}
		return ops
	}
	inside := func(success, failure []*pb.RequestOp) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{Success: success, Failure: failure}}}
	}
	inBubble(t, func(t *testing.T, s *store) {
		table := quotaTable(t, s, "max-keys: 3")
		synctest.Wait()
		for _, c := range []struct {
			req  *pb.TxnRequest
			fits bool
		}{
			{&pb.TxnRequest{Success: ops("a", "b", "c"), Failure: ops("d", "e", "f")}, true},
			{&pb.TxnRequest{Success: ops("a", "b", "c", "d")}, false},
			{&pb.TxnRequest{Success: ops("a"), Failure: ops("a", "b", "c", "d")}, false},
			{&pb.TxnRequest{Success: append(ops("a"), inside(ops("a"), ops("b", "c")))}, true},
			{&pb.TxnRequest{Success: append(ops("a"), inside(ops("b", "c"), ops("d")))}, false}, // both branches of an inner one count
		} {
			v, err := table.Enter(ann.ctx(t.Context()), pb.KV_Txn_FullMethodName, marshal(t, c.req))
			if c.fits != (err == nil) || err != nil && err != rpctypes.ErrGRPCNoSpace {
				t.Errorf("%v: %v", c.req, err)
			}
			if v != nil {
				v.Leave(nil, rpctypes.ErrGRPCDuplicateKey) // it is not done
			}
		}
	})
}

func TestReservationOfATransactionThatWroteNothingEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		table := quotaTable(t, s, "max-keys: 1")
		synctest.Wait()
		rev := s.write(map[string]int{"/elsewhere": 1})
		txn := &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("k")}}}}}
		v, err := table.Enter(ann.ctx(t.Context()), pb.KV_Txn_FullMethodName, marshal(t, txn))
		if err != nil {
			t.Fatal(err)
		}
		v.Leave(marshal(t, &pb.TxnResponse{Header: &pb.ResponseHeader{Revision: rev}}), nil)
		if err := putValue(t, table, s, "other", 1); err != rpctypes.ErrGRPCNoSpace {
			t.Errorf("before the watch has passed its revision: %v", err)
		}
		time.Sleep(2 * progressAfter)
		synctest.Wait()
		if err := putValue(t, table, s, "other", 1); err != nil {
			t.Errorf("after it has: %v", err)
		}
	})
}

func TestWriteOfWhichNobodyKnowsIsCountedForAWhile(t *testing.T) {
	inBubble(t, func(t *testing.T, s *store) {
		table := quotaTable(t, s, "max-keys: 1")
		synctest.Wait()
		v, err := table.Enter(ann.ctx(t.Context()), pb.KV_Put_FullMethodName, marshal(t, &pb.PutRequest{Key: []byte("k")}))
		if err != nil {
			t.Fatal(err)
		}
		v.Leave(nil, status.Error(codes.DeadlineExceeded, ""))
		time.Sleep(doubt - time.Second)
		if err := putValue(t, table, s, "other", 1); err != rpctypes.ErrGRPCNoSpace {
			t.Errorf("while it may be done: %v", err)
		}
		time.Sleep(2 * time.Second)
		if err := putValue(t, table, s, "other", 1); err != nil {
			t.Errorf("when it will not be done any more: %v", err)
		}
	})
}

func TestOnlyWhatCannotHaveBeenDoneNeedsNoRoom(t *testing.T) {
	for _, c := range []struct {
		err   error
		final bool
	}{
		{rpctypes.ErrGRPCEmptyKey, true},
		{rpctypes.ErrGRPCLeaseNotFound, true},
		{rpctypes.ErrGRPCPermissionDenied, true},
		{rpctypes.ErrGRPCInvalidAuthToken, true},
		{rpctypes.ErrGRPCCompacted, true},
		{rpctypes.ErrGRPCRequestTooLarge, true},
		{rpctypes.ErrGRPCRequestTooManyRequests, true},
		{hinted(time.Second), true},
		{rpctypes.ErrGRPCNoSpace, false}, // etcd does the write that fills it
		{status.Error(codes.ResourceExhausted, "grpc: received message larger than max (9 vs. 4)"), false},
		{status.Error(codes.Unimplemented, "grpc: Decompressor is not installed for grpc-encoding \"zstd\""), false},
		{rpctypes.ErrGRPCTimeout, false},
		{rpctypes.ErrGRPCNoLeader, false},
		{rpctypes.ErrGRPCCorrupt, false},
		{status.Error(codes.Internal, "stream terminated by RST_STREAM"), false},
		{status.FromContextError(context.DeadlineExceeded).Err(), false},
		{errors.New("something"), false},
	} {
		if got := isFinal(c.err); got != c.final {
			t.Errorf("%v: %v", c.err, got)
		}
	}
}
