package reads

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func TestForwardedReadsAreCountedByKind(t *testing.T) {
	s := newScene(t, Config{})
	read := func(serializable bool) *pb.RequestOp {
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("z"), Serializable: serializable}}}
	}
	s.mustForward("z", true, nil)
	s.mustForward("z", true, nil)
	s.mustForward("z", false, nil)
	s.mustFailTxn(&pb.TxnRequest{Success: []*pb.RequestOp{read(true), read(true)}}, ErrForward)
	s.mustFailTxn(&pb.TxnRequest{Success: []*pb.RequestOp{read(true), read(false)}}, ErrForward)
	s.keeper.CountForward(true)
	s.keeper.CountForward(false)
	if got := s.keeper.Stats(); got.Forwarded != 7 || got.ForwardedSerializable != 4 {
		t.Errorf("%d are forwarded, %d of them serializable", got.Forwarded, got.ForwardedSerializable)
	}
}
