package wire

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// checkDecodeRangeResponse holds the decoder against protobuf: an error exactly when protobuf has one, else the same
// fields and KeyValues.
func checkDecodeRangeResponse(t *testing.T, b []byte) {
	t.Helper()
	input := bytes.Clone(b)
	want := &pb.RangeResponse{}
	wantErr := proto.Unmarshal(b, want)
	var r RangeResponse
	var kvs [][]byte
	err := r.Unmarshal(b, func(kv []byte) error {
		kvs = append(kvs, kv)
		return nil
	})
	if (err != nil) != (wantErr != nil) {
		t.Fatalf("decode %x: error %v, protobuf says %v", b, err, wantErr)
	}
	if err != nil {
		return
	}
	if r.More != want.More || r.Count != want.Count || len(kvs) != len(want.Kvs) ||
		r.Header.Revision != want.Header.GetRevision() || r.Header.RaftTerm != want.Header.GetRaftTerm() ||
		r.Header.ClusterID != want.Header.GetClusterId() || r.Header.MemberID != want.Header.GetMemberId() {
		t.Fatalf("decode %x:\n got %+v, %d KeyValues\nwant %v", b, r, len(kvs), want)
	}
	for i, kv := range kvs {
		got := want.Kvs[i].ProtoReflect().New().Interface()
		if err := proto.Unmarshal(kv, got); err != nil || !proto.Equal(got, want.Kvs[i]) {
			t.Fatalf("KeyValue %d of %x is %v, want %v; error %v", i, b, got, want.Kvs[i], err)
		}
		_ = append(kv, 0xff, 0xff)
	}
	if !bytes.Equal(b, input) {
		t.Fatalf("decoding %x, or appending to what came of it, changed it to %x", input, b)
	}
}

var rangeResponses = []*pb.RangeResponse{
	{},
	{Header: &pb.ResponseHeader{ClusterId: 1, MemberId: 1 << 63, Revision: 300, RaftTerm: 4}, Count: -1},
	{Header: &pb.ResponseHeader{Revision: 5}, Kvs: keyValues, More: true, Count: 1 << 40},
}

func TestRangeResponseDecodesAsProtobufDecodesIt(t *testing.T) {
	for _, m := range rangeResponses {
		b := mustMarshal(t, m)
		for n := range len(b) + 1 {
			checkDecodeRangeResponse(t, slices.Clip(b[:n]))
		}
	}
}

func TestRangeResponseInAnyOrderMeansWhatItDoesToProtobuf(t *testing.T) {
	rnd := newRand()
	for range 3000 {
		checkDecodeRangeResponse(t, randomRangeResponse(rnd))
	}
}

// randomRangeResponse returns a message that is well-formed but otherwise as unusual as can be.
func randomRangeResponse(rnd *rand.Rand) []byte {
	unknown := func() []byte { return appendMessage([]byte{0xa0, 0x06, 0x05}, 14, []byte("unknown")) }
	number := func(num byte) func() []byte {
		return func() []byte { return appendVarint(nil, num, uint64(randomInt(rnd))) }
	}
	kv := func() []byte {
		return appendMessage(nil, 2, randomFields(rnd, 7, unknown, number(2), number(3), number(4), number(6),
			func() []byte { return appendBytes(nil, 1, fmt.Sprint("key-", rnd.IntN(9))) },
			func() []byte { return appendBytes(nil, 5, make([]byte, rnd.IntN(300))) }))
	}
	header := func() []byte {
		return appendMessage(nil, 1, randomFields(rnd, 4, unknown, number(1), number(2), number(3), number(4)))
	}
	return randomFields(rnd, 12, unknown, number(3), number(4), header, kv, kv)
}

func TestOddFieldsOfARangeResponseAreTreatedAsProtobufTreatsThem(t *testing.T) {
	for _, odd := range oddFields {
		t.Run(odd.name, func(t *testing.T) {
			checkDecodeRangeResponse(t, odd.field)
			checkDecodeRangeResponse(t, appendMessage(nil, 1, odd.field))
			checkDecodeRangeResponse(t, appendMessage(nil, 2, odd.field))
		})
	}
}

func TestRangeResponseIsDecodedWithoutMemory(t *testing.T) {
	b := mustMarshal(t, rangeResponses[2])
	var r RangeResponse
	n := 0
	each := func(kv []byte) error {
		if n += len(kv); n < 0 {
			return errors.New("too much")
		}
		return nil
	}
	if allocs := testing.AllocsPerRun(100, func() {
		if r.Unmarshal(b, each) != nil || r.Unmarshal(b, nil) != nil {
			t.Fatal("not decoded")
		}
	}); allocs != 0 {
		t.Errorf("%v allocations, want none", allocs)
	}
}

func TestKeyValuesThatNobodyWantsArePassedOver(t *testing.T) {
	rnd := newRand()
	for range 1000 {
		b := randomRangeResponse(rnd)
		var with, without RangeResponse
		if err := with.Unmarshal(b, func([]byte) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if err := without.Unmarshal(b, nil); err != nil || without != with {
			t.Fatalf("decode %x without KeyValues: %+v, error %v; want %+v", b, without, err, with)
		}
	}
	malformed := AppendRangeEnd(appendMessage(nil, 2, []byte{0xff}), true, 7)
	var r RangeResponse
	if err := r.Unmarshal(malformed, nil); err != nil || r != (RangeResponse{More: true, Count: 7}) {
		t.Errorf("with a malformed KeyValue: %+v, error %v; want the rest", r, err)
	}
}

func TestAPartOfARangeStreamDecodesAsItsRangeResponse(t *testing.T) {
	for _, m := range rangeResponses {
		var want, got RangeResponse
		if err := want.Unmarshal(mustMarshal(t, m), nil); err != nil {
			t.Fatal(err)
		}
		kvs := 0
		err := got.UnmarshalStream(mustMarshal(t, &pb.RangeStreamResponse{RangeResponse: m}), func([]byte) error { kvs++; return nil })
		if err != nil || got != want || kvs != len(m.Kvs) {
			t.Errorf("decoded %+v with %d KeyValues, error %v; want %+v with %d", got, kvs, err, want, len(m.Kvs))
		}
	}
	var r RangeResponse
	if r.UnmarshalStream([]byte{0x0a, 0x7f}, nil) == nil {
		t.Error("a malformed part is decoded")
	}
}

func TestAnErrorEndsTheDecodingOfARangeResponse(t *testing.T) {
	b := mustMarshal(t, rangeResponses[2])
	want, calls := errors.New("enough"), 0
	var r RangeResponse
	if err := r.Unmarshal(b, func([]byte) error { calls++; return want }); err != want || calls != 1 {
		t.Fatalf("error %v after %d KeyValues, want %v after 1", err, calls, want)
	}
}

func FuzzRangeResponse(f *testing.F) {
	for _, m := range rangeResponses {
		seeds(f, m)
	}
	f.Fuzz(checkDecodeRangeResponse)
}

// BenchmarkRangeResponse is per KeyValue.
func BenchmarkRangeResponse(b *testing.B) {
	msg := AppendRange(nil, benchmarkHeader, benchmarkKVs(100, 256), false, 100)
	for name, each := range map[string]func([]byte) error{"each": func([]byte) error { return nil }, "none": nil} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			var r RangeResponse
			for i := 0; i < b.N; i += 100 {
				if err := r.Unmarshal(msg, each); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
