package wire

import (
	"bytes"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

func TestWriteResponsesAreWrittenAsProtobufDoes(t *testing.T) {
	rnd := newRand()
	for range 500 {
		h, deleted := randomHeader(rnd), randomInt(rnd)
		kvs, encoded := randomKVs(t, rnd, 4)

		var prev []byte
		put := &pb.PutResponse{Header: h.proto()}
		if len(kvs) > 0 {
			put.PrevKv, prev = kvs[0], encoded[0]
		}
		want := mustMarshal(t, put)
		checkBuffers(t, "EncodePut", EncodePut(h, prev), want)
		checkEncoded(t, "AppendPut", AppendPut([]byte("x"), h, prev), append([]byte("x"), want...))

		want = mustMarshal(t, &pb.DeleteRangeResponse{Header: h.proto(), Deleted: deleted, PrevKvs: kvs})
		checkBuffers(t, "EncodeDeleteRange", EncodeDeleteRange(h, deleted, encoded), want)
		got := AppendDeleteRange([]byte("x"), h, deleted, encoded)
		checkEncoded(t, "AppendDeleteRange", got, append([]byte("x"), want...))
	}
}

func TestPreviousKeyValueMayBeEmptyButPresent(t *testing.T) {
	want := mustMarshal(t, &pb.PutResponse{Header: &pb.ResponseHeader{}, PrevKv: &mvccpb.KeyValue{}})
	checkEncoded(t, "EncodePut", EncodePut(Header{}, []byte{}).Materialize(), want)
	checkEncoded(t, "AppendPut", AppendPut(nil, Header{}, []byte{}), want)
}

func TestTxnResponseIsWrittenAsProtobufDoes(t *testing.T) {
	rnd := newRand()
	for range 500 {
		h, inner := randomHeader(rnd), Header{Revision: 1 + rnd.Int64N(1000)}
		kvs, encoded := randomKVs(t, rnd, 3)
		succeeded := rnd.IntN(2) == 0

		// The same answers, once as messages and once as bytes, in the top transaction and again in a nested one.
		answers := []*pb.ResponseOp{
			{Response: &pb.ResponseOp_ResponsePut{ResponsePut: &pb.PutResponse{Header: inner.proto()}}},
			{Response: &pb.ResponseOp_ResponseRange{ResponseRange: &pb.RangeResponse{
				Header: inner.proto(), Kvs: kvs, More: true, Count: 9,
			}}},
			{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: &pb.DeleteRangeResponse{
				Header: inner.proto(), Deleted: 2, PrevKvs: kvs,
			}}},
		}[:rnd.IntN(4)]
		bodies := []struct {
			op   TxnOp
			body []byte
		}{
			{TxnPut, AppendPut(nil, inner, nil)},
			{TxnRange, AppendRange(nil, inner, encoded, true, 9)},
			{TxnDeleteRange, AppendDeleteRange(nil, inner, 2, encoded)},
		}
		var ops []byte
		for i := range answers {
			ops = AppendTxnOp(ops, bodies[i].op, bodies[i].body)
		}
		nested := &pb.TxnResponse{Header: &pb.ResponseHeader{}, Succeeded: !succeeded, Responses: answers}
		nestedBytes := AppendTxn(nil, Header{}, !succeeded, ops)
		checkEncoded(t, "AppendTxn", nestedBytes, mustMarshal(t, nested))

		resp := &pb.TxnResponse{Header: h.proto(), Succeeded: succeeded, Responses: answers}
		checkBuffers(t, "EncodeTxn", EncodeTxn(h, succeeded, ops), mustMarshal(t, resp))

		resp.Responses = append(slices.Clone(answers), &pb.ResponseOp{Response: &pb.ResponseOp_ResponseTxn{ResponseTxn: nested}})
		ops = AppendTxnOp(bytes.Clone(ops), TxnNested, nestedBytes)
		checkBuffers(t, "EncodeTxn with a nested one", EncodeTxn(h, succeeded, ops), mustMarshal(t, resp))
	}
}
