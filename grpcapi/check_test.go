package grpcapi

import (
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/wire"
)

// Operations and transactions in few letters, for tables.

func getOp(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key)}}}
}

func putOp(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key)}}}
}

func delOp(key, end string) *pb.RequestOp {
	r := &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: r}}
}

func txnOp(then, otherwise []*pb.RequestOp) *pb.RequestOp {
	r := &pb.TxnRequest{Success: then, Failure: otherwise}
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r}}
}

func ops(o ...*pb.RequestOp) []*pb.RequestOp { return o }

func times(n int, f func(i int) *pb.RequestOp) []*pb.RequestOp {
	list := make([]*pb.RequestOp, n)
	for i := range list {
		list[i] = f(i)
	}
	return list
}

func TestSingleRequestsAreRefusedWithEtcdsErrors(t *testing.T) {
	cases := []struct {
		name string
		got  error
		want error
	}{
		{"range", checkRange([]byte("k"), 0, 0), nil},
		{"range with every order and target", checkRange([]byte("k"), 2, 4), nil},
		{"range without key", checkRange(nil, 0, 0), rpctypes.ErrGRPCEmptyKey},
		{"range without key, bad order", checkRange(nil, 9, 0), rpctypes.ErrGRPCEmptyKey},
		{"range with unknown order", checkRange([]byte("k"), 3, 0), rpctypes.ErrGRPCInvalidSortOption},
		{"range with negative order", checkRange([]byte("k"), -1, 0), rpctypes.ErrGRPCInvalidSortOption},
		{"range with unknown target", checkRange([]byte("k"), 0, 5), rpctypes.ErrGRPCInvalidSortOption},

		{"put", checkPut([]byte("k"), 1, 1, false, false), nil},
		{"put that ignores", checkPut([]byte("k"), 0, 0, true, true), nil},
		{"put without key", checkPut(nil, 1, 1, true, true), rpctypes.ErrGRPCEmptyKey},
		{"put with ignored value and lease", checkPut([]byte("k"), 1, 1, true, true), rpctypes.ErrGRPCValueProvided},
		{"put with ignored lease", checkPut([]byte("k"), 0, 1, true, true), rpctypes.ErrGRPCLeaseProvided},

		{"delete", checkDelete([]byte("k")), nil},
		{"delete without key", checkDelete(nil), rpctypes.ErrGRPCEmptyKey},

		{"stream", checkRangeStream(&wire.RangeRequest{Key: []byte("k"), SortOrder: 1, SortTarget: 0}), nil},
		{"stream with target and no order", checkRangeStream(&wire.RangeRequest{Key: []byte("k"), SortTarget: 3}), nil},
		{"stream without key", checkRangeStream(&wire.RangeRequest{SortOrder: 2}), rpctypes.ErrGRPCEmptyKey},
		{"stream descending", checkRangeStream(&wire.RangeRequest{Key: []byte("k"), SortOrder: 2, MinModRevision: 1}),
			status.Error(codes.Unimplemented, "RangeStream does not support custom sort orders")},
		{"stream by version", checkRangeStream(&wire.RangeRequest{Key: []byte("k"), SortOrder: 1, SortTarget: 1}),
			status.Error(codes.Unimplemented, "RangeStream does not support custom sort orders")},
		{"stream with filter", checkRangeStream(&wire.RangeRequest{Key: []byte("k"), MaxCreateRevision: -1}),
			status.Error(codes.Unimplemented, "RangeStream does not support revision filters")},
	}
	for _, c := range cases {
		if errText(c.got) != errText(c.want) {
			t.Errorf("%s: got %v, want %v", c.name, c.got, c.want)
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestTxnsAreRefusedWithEtcdsErrors(t *testing.T) {
	badPut := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
		RequestPut: &pb.PutRequest{Key: []byte("k"), Value: []byte("v"), IgnoreValue: true}}}
	badRange := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{
		RequestRange: &pb.RangeRequest{Key: []byte("k"), SortOrder: 7}}}
	get := func(int) *pb.RequestOp { return getOp("k") }
	compare := func(key string) []*pb.Compare { return []*pb.Compare{{Key: []byte(key)}} }

	cases := []struct {
		name string
		txn  *pb.TxnRequest
		want error
	}{
		{"empty", &pb.TxnRequest{}, nil},
		{"most operations", &pb.TxnRequest{Success: times(8, get), Failure: times(8, get)}, nil},
		{"too many then", &pb.TxnRequest{Success: times(9, get)}, rpctypes.ErrGRPCTooManyOps},
		{"too many else", &pb.TxnRequest{Failure: times(9, get)}, rpctypes.ErrGRPCTooManyOps},
		{"too many compares", &pb.TxnRequest{Compare: make([]*pb.Compare, 9)}, rpctypes.ErrGRPCTooManyOps},
		{"compare without key comes before a bad operation",
			&pb.TxnRequest{Compare: compare(""), Success: ops(badPut)}, rpctypes.ErrGRPCEmptyKey},
		{"then comes before else",
			&pb.TxnRequest{Compare: compare("k"), Success: ops(badPut), Failure: ops(getOp(""))}, rpctypes.ErrGRPCValueProvided},
		{"bad range", &pb.TxnRequest{Success: ops(badRange)}, rpctypes.ErrGRPCInvalidSortOption},
		{"delete without key", &pb.TxnRequest{Failure: ops(delOp("", "z"))}, rpctypes.ErrGRPCEmptyKey},
		{"operation without content", &pb.TxnRequest{Success: ops(&pb.RequestOp{})}, rpctypes.ErrGRPCKeyNotFound},
		{"nested within what is left", &pb.TxnRequest{Success: ops(getOp("k"), getOp("k"), txnOp(times(5, get), nil))}, nil},
		{"nested beyond what is left",
			&pb.TxnRequest{Success: ops(getOp("k"), getOp("k"), txnOp(times(6, get), nil))}, rpctypes.ErrGRPCTooManyOps},
		{"nested bad", &pb.TxnRequest{Failure: ops(txnOp(nil, ops(badPut)))}, rpctypes.ErrGRPCValueProvided},
		{"eight deep", &pb.TxnRequest{Success: ops(nest(7, getOp("k")))}, nil},
		{"nine deep", &pb.TxnRequest{Success: ops(nest(8, getOp("k")))}, rpctypes.ErrGRPCTooManyOps},
	}
	for _, c := range cases {
		if got := checkTxn(c.txn, 8); errText(got) != errText(c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

// nest puts op below depth transactions.
func nest(depth int, op *pb.RequestOp) *pb.RequestOp {
	for range depth {
		op = txnOp(ops(op), nil)
	}
	return op
}

func TestNestingThatProtobufDoesNotReadIsAnError(t *testing.T) {
	raw, err := proto.Marshal(&pb.TxnRequest{Success: ops(nest(6000, getOp("k")))})
	if err != nil {
		t.Fatal(err)
	}
	k := kv{maxRequestBytes: 3 << 19, maxTxnOps: 1 << 20}
	if _, err := k.txn(t.Context(), raw); status.Code(err) != codes.Internal {
		t.Errorf("got %v, want Internal, as grpc answers what it cannot decode", err)
	}
}

// The numbers were measured with etcd 3.7.3 and a limit of 1.5 MiB: with a key of one byte it takes a value of
// 1,572,839 bytes and refuses one more.
func TestSizeLimitIsThatOfEtcdsRaftEntry(t *testing.T) {
	const limit = 3 << 19
	for size, want := range map[int]error{1_572_839: nil, 1_572_840: rpctypes.ErrGRPCRequestTooLarge} {
		raw, err := proto.Marshal(&pb.PutRequest{Key: []byte("k"), Value: []byte(strings.Repeat("x", size))})
		if err != nil {
			t.Fatal(err)
		}
		if got := checkSize(raw, limit); got != want {
			t.Errorf("value of %d bytes: got %v, want %v", size, got, want)
		}
	}
}

func TestReadOnlyTxnsAreThoseEtcdAnswersWithoutRaft(t *testing.T) {
	cases := []struct {
		txn  *pb.TxnRequest
		want bool
	}{
		{&pb.TxnRequest{}, true},
		{&pb.TxnRequest{Success: ops(getOp("a")), Failure: ops(getOp("b"))}, true},
		{&pb.TxnRequest{Success: ops(getOp("a")), Failure: ops(putOp("b"))}, false},
		{&pb.TxnRequest{Success: ops(delOp("a", ""))}, false},
		{&pb.TxnRequest{Success: ops(txnOp(ops(getOp("a")), nil))}, false},
	}
	for _, c := range cases {
		if got := readOnly(c.txn); got != c.want {
			t.Errorf("%v: got %v", c.txn, got)
		}
	}
}
