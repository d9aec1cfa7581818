package wire

import (
	"bytes"
	"math/rand/v2"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// checkDecodeTxnResponse holds the decoder against protobuf, which looks into the answers too: no error when protobuf has
// none, and then the same branch and answers.
func checkDecodeTxnResponse(t *testing.T, b []byte) {
	t.Helper()
	input := bytes.Clone(b)
	var want pb.TxnResponse
	wantErr := proto.Unmarshal(b, &want)
	var r TxnResponse
	err := r.Unmarshal(b)
	switch {
	case wantErr != nil:
		return
	case err != nil:
		t.Fatalf("decode %x: error %v, protobuf has none", b, err)
	case r.Succeeded != want.Succeeded || len(r.Answers) != len(want.Responses):
		t.Fatalf("decode %x: succeeded %v with %d answers, want %v", b, r.Succeeded, len(r.Answers), &want)
	}
	for i, a := range r.Answers {
		op, m := answerOf(want.Responses[i])
		if a.Op != op || op == 0 && len(a.Body) > 0 {
			t.Fatalf("answer %d of %x is of kind %d, want %d", i, b, a.Op, op)
		}
		if op == 0 {
			continue
		}
		got := m.ProtoReflect().New().Interface()
		if err := proto.Unmarshal(a.Body, got); err != nil || !proto.Equal(got, m) {
			t.Fatalf("answer %d of %x is %v, want %v; error %v", i, b, got, m, err)
		}
		_ = append(a.Body, 0xff, 0xff)
	}
	if !bytes.Equal(b, input) {
		t.Fatalf("decoding %x, or appending to what came of it, changed it to %x", input, b)
	}
}

func answerOf(r *pb.ResponseOp) (TxnOp, proto.Message) {
	switch a := r.Response.(type) {
	case *pb.ResponseOp_ResponseRange:
		return TxnRange, a.ResponseRange
	case *pb.ResponseOp_ResponsePut:
		return TxnPut, a.ResponsePut
	case *pb.ResponseOp_ResponseDeleteRange:
		return TxnDeleteRange, a.ResponseDeleteRange
	case *pb.ResponseOp_ResponseTxn:
		return TxnNested, a.ResponseTxn
	}
	return 0, nil
}

var txnResponses = []*pb.TxnResponse{
	{},
	{Header: &pb.ResponseHeader{ClusterId: 1, Revision: 300}, Succeeded: true},
	{Header: &pb.ResponseHeader{Revision: 5}, Succeeded: true, Responses: []*pb.ResponseOp{
		{Response: &pb.ResponseOp_ResponseRange{ResponseRange: rangeResponses[2]}},
		{Response: &pb.ResponseOp_ResponseRange{ResponseRange: &pb.RangeResponse{}}},
		{},
		{Response: &pb.ResponseOp_ResponsePut{ResponsePut: &pb.PutResponse{Header: &pb.ResponseHeader{Revision: 5}}}},
		{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: &pb.DeleteRangeResponse{Deleted: 7}}},
		{Response: &pb.ResponseOp_ResponseTxn{ResponseTxn: &pb.TxnResponse{Succeeded: true}}},
	}},
}

func TestTxnResponseDecodesAsProtobufDecodesIt(t *testing.T) {
	for _, m := range txnResponses {
		b := mustMarshal(t, m)
		for n := range len(b) + 1 {
			checkDecodeTxnResponse(t, b[:n:n])
		}
	}
}

func TestTxnResponseInAnyOrderMeansWhatItDoesToProtobuf(t *testing.T) {
	rnd := newRand()
	for range 3000 {
		checkDecodeTxnResponse(t, randomTxnResponse(rnd))
	}
}

// randomTxnResponse returns a message that is well-formed but otherwise as unusual as can be: answers in several parts,
// and of several kinds in one operation.
func randomTxnResponse(rnd *rand.Rand) []byte {
	unknown := func() []byte { return appendMessage([]byte{0xa0, 0x06, 0x05}, 14, []byte("unknown")) }
	answer := func(op TxnOp) func() []byte {
		return func() []byte { return appendMessage(nil, byte(op), appendVarint(nil, 4, uint64(randomInt(rnd)))) }
	}
	op := func() []byte {
		return appendMessage(nil, 3, randomFields(rnd, 3, unknown, answer(TxnRange), answer(TxnRange), answer(TxnPut)))
	}
	succeeded := func() []byte { return appendVarint(nil, 2, uint64(rnd.IntN(2))) }
	header := func() []byte { return Header{Revision: randomInt(rnd)}.Append(nil) }
	return randomFields(rnd, 8, unknown, header, succeeded, op, op)
}

func TestOddFieldsOfATxnResponseAreTreatedAsProtobufTreatsThem(t *testing.T) {
	for _, odd := range oddFields {
		t.Run(odd.name, func(t *testing.T) {
			checkDecodeTxnResponse(t, odd.field)
			checkDecodeTxnResponse(t, appendMessage(nil, 3, odd.field))
		})
	}
	for _, malformed := range [][]byte{{0x1a, 0x7f}, {0x1a, 0x02, 0x0a, 0x7f}, {0x10}, {0x00, 0x01}} {
		var r TxnResponse
		if r.Unmarshal(malformed) == nil {
			t.Errorf("%x is decoded", malformed)
		}
	}
}

func FuzzTxnResponse(f *testing.F) {
	for _, m := range txnResponses {
		seeds(f, m)
	}
	f.Fuzz(checkDecodeTxnResponse)
}
