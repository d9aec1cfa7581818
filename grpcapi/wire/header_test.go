package wire

import (
	"bytes"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

func TestHeaderIsWrittenAsProtobufDoes(t *testing.T) {
	rnd := newRand()
	for range 500 {
		h := randomHeader(rnd)
		want := append([]byte("x"), mustMarshal(t, &pb.CompactionResponse{Header: h.proto()})...)
		checkEncoded(t, "Header.Append", h.Append([]byte("x")), want)
	}
}

func TestHeaderIsFoundInAnyResponse(t *testing.T) {
	rnd := newRand()
	for range 200 {
		h := randomHeader(rnd)
		kvs, _ := randomKVs(t, rnd, 3)
		for _, m := range []proto.Message{
			&pb.RangeResponse{Header: h.proto(), Kvs: kvs, More: true, Count: 9},
			&pb.PutResponse{Header: h.proto()},
			&pb.TxnResponse{Header: h.proto(), Succeeded: true, Responses: []*pb.ResponseOp{{}}},
			&pb.StatusResponse{Header: h.proto(), Version: "3.7.3", DbSize: 1 << 40},
			&pb.CompactionResponse{Header: h.proto()},
		} {
			b := mustMarshal(t, m)
			for what, b := range map[string][]byte{
				"first":                b,
				"behind other fields":  append(appendMessage(appendVarint(nil, 2, 5), 12, []byte("more")), b...),
				"before what is wrong": append(bytes.Clone(b), 0xff),
			} {
				if got, err := UnmarshalHeader(b); err != nil || got != h {
					t.Fatalf("%s in %v: got %+v, error %v, want %+v", what, m, got, err, h)
				}
			}
		}
	}
	if got, err := UnmarshalHeader(appendVarint(nil, 2, 5)); err != nil || got != (Header{}) {
		t.Fatalf("a response without header has %+v, error %v", got, err)
	}
}

func TestMalformedResponseHasNoHeader(t *testing.T) {
	for _, b := range [][]byte{{0x0a}, {0x0a, 0x02, 0x08}, {0x0a, 0x01, 0x08}, {0x12, 0x05}, {0x80}} {
		if h, err := UnmarshalHeader(b); err == nil {
			t.Errorf("%x has the header %+v", b, h)
		}
	}
}

var headers = []*pb.ResponseHeader{
	{},
	{ClusterId: 1 << 63, MemberId: 127, Revision: -1, RaftTerm: 128},
}

func checkDecodeHeader(t *testing.T, b []byte) {
	t.Helper()
	checkDecode(t, b, &Header{}, &pb.ResponseHeader{})
}

func TestHeaderDecodesAsProtobufDecodesIt(t *testing.T) {
	for _, m := range headers {
		b := mustMarshal(t, m)
		for n := range len(b) + 1 {
			checkDecodeHeader(t, b[:n:n])
		}
	}
	for _, odd := range oddFields {
		checkDecodeHeader(t, odd.field)
	}
}

func TestHeaderOfAStreamIsFoundInItsLastPart(t *testing.T) {
	kvs := benchmarkKVs(3, 600)
	last := EncodeRangeStream(benchmarkHeader, kvs, true, 9).Materialize()
	if h, err := UnmarshalStreamHeader(last); err != nil || h != benchmarkHeader {
		t.Errorf("got %+v, %v", h, err)
	}
	if h, err := UnmarshalStreamHeader(EncodeRangeStream(Header{}, kvs, false, 0).Materialize()); err != nil || h != (Header{}) {
		t.Errorf("got %+v, %v from a part without one", h, err)
	}
	for n := range len(last) {
		if h, err := UnmarshalStreamHeader(last[:n:n]); n > 0 && err == nil && h == benchmarkHeader {
			t.Fatalf("the first %d bytes are taken for the whole", n)
		}
	}
}

func FuzzHeader(f *testing.F) {
	for _, m := range headers {
		seeds(f, m)
	}
	f.Fuzz(checkDecodeHeader)
}

func BenchmarkUnmarshalHeader(b *testing.B) {
	b.ReportAllocs()
	msg := AppendRange(nil, benchmarkHeader, benchmarkKVs(100, 256), false, 100)
	for b.Loop() {
		if _, err := UnmarshalHeader(msg); err != nil {
			b.Fatal(err)
		}
	}
}
