package wire

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/mem"
)

// A fixed seed: the same messages in every run.
func newRand() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

// randomInt prefers the values at which the length of a varint changes.
func randomInt(rnd *rand.Rand) int64 {
	switch rnd.IntN(4) {
	case 0:
		return 0
	case 1:
		return int64(rnd.IntN(300))
	case 2:
		return -rnd.Int64()
	}
	return int64(1) << rnd.IntN(63)
}

func randomHeader(rnd *rand.Rand) Header {
	return Header{
		ClusterID: uint64(randomInt(rnd)), MemberID: uint64(randomInt(rnd)),
		Revision: randomInt(rnd), RaftTerm: uint64(randomInt(rnd)),
	}
}

func (h Header) proto() *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: h.ClusterID, MemberId: h.MemberID, Revision: h.Revision, RaftTerm: h.RaftTerm}
}

// randomKVs returns up to n KeyValues, with values on both sides of shareFrom, and their encodings.
func randomKVs(t *testing.T, rnd *rand.Rand, n int) ([]*mvccpb.KeyValue, [][]byte) {
	var kvs []*mvccpb.KeyValue
	var encoded [][]byte
	for i := range rnd.IntN(n + 1) {
		kv := &mvccpb.KeyValue{
			Key: fmt.Appendf(nil, "key-%03d", i), CreateRevision: randomInt(rnd), ModRevision: randomInt(rnd),
			Version: randomInt(rnd), Lease: randomInt(rnd), Value: make([]byte, rnd.IntN(40)),
		}
		if rnd.IntN(3) == 0 {
			kv.Value = make([]byte, rnd.IntN(2*shareFrom))
		}
		kvs = append(kvs, kv)
		encoded = append(encoded, mustMarshal(t, kv))
	}
	return kvs, encoded
}

func checkEncoded(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Fatalf("%s:\n got %x\nwant %x", what, got, want)
	}
}

// checkBuffers also wants no buffer to be empty: the transport would handle it for nothing.
func checkBuffers(t *testing.T, what string, got mem.BufferSlice, want []byte) {
	t.Helper()
	checkEncoded(t, what, got.Materialize(), want)
	for i, b := range got {
		if b.Len() == 0 {
			t.Fatalf("%s: buffer %d of %d is empty", what, i, len(got))
		}
	}
}

func TestRangeResponseIsWrittenAsProtobufDoes(t *testing.T) {
	rnd := newRand()
	for range 500 {
		h, more, count := randomHeader(rnd), rnd.IntN(2) == 0, randomInt(rnd)
		kvs, encoded := randomKVs(t, rnd, 5)
		resp := &pb.RangeResponse{Header: h.proto(), Kvs: kvs, More: more, Count: count}
		want := mustMarshal(t, resp)
		checkBuffers(t, "EncodeRange", EncodeRange(h, encoded, more, count), want)
		checkEncoded(t, "AppendRange", AppendRange([]byte("x"), h, encoded, more, count), append([]byte("x"), want...))

		body := AppendRangeBody([]byte("x"), encoded, more, count)
		checkEncoded(t, "AppendRangeBody", body, append([]byte("x"), want[len(h.Append(nil)):]...))
		checkBuffers(t, "WithHeader", WithHeader(h, body[1:]), want)

		parts := h.Append(nil)
		for _, kv := range encoded {
			parts = append(appendPrefix(parts, 2, len(kv)), kv...)
		}
		checkEncoded(t, "joined by hand", AppendRangeEnd(parts, more, count), want)

		if h != (Header{}) {
			last := mustMarshal(t, &pb.RangeStreamResponse{RangeResponse: resp})
			checkBuffers(t, "last of stream", EncodeRangeStream(h, encoded, more, count), last)
		}
		part := mustMarshal(t, &pb.RangeStreamResponse{RangeResponse: &pb.RangeResponse{Kvs: kvs}})
		checkBuffers(t, "part of stream", EncodeRangeStream(Header{}, encoded, false, 0), part)
	}
}

func TestLongestHeaderIsWhole(t *testing.T) {
	h := Header{ClusterID: math.MaxUint64, MemberID: math.MaxUint64, Revision: -1, RaftTerm: math.MaxUint64}
	got := EncodeRange(h, nil, true, -1)
	checkBuffers(t, "EncodeRange", got, mustMarshal(t, &pb.RangeResponse{Header: h.proto(), More: true, Count: -1}))
}

func TestLargeKeyValuesAreSharedAndSmallOnesJoined(t *testing.T) {
	small, large := make([]byte, shareFrom-1), make([]byte, shareFrom)
	if got := EncodeRange(Header{}, [][]byte{small, small}, false, 2); len(got) != 1 {
		t.Errorf("small ones are in %d buffers, want 1", len(got))
	}
	got := EncodeRange(Header{}, [][]byte{small, large, small, small, large}, false, 5)
	if len(got) != 5 {
		t.Fatalf("got %d buffers, want small, large, small, large, end", len(got))
	}
	for _, i := range []int{1, 3} {
		if &got[i].ReadOnlyData()[0] != &large[0] {
			t.Errorf("buffer %d is a copy", i)
		}
	}
}

func TestLargeBodyIsSharedAndSmallOneCopied(t *testing.T) {
	h := Header{Revision: 7}
	for _, n := range []int{0, shareFrom - 1, shareFrom} {
		body := make([]byte, n)
		got := WithHeader(h, body)
		if n < shareFrom {
			if len(got) != 1 {
				t.Errorf("a body of %d bytes makes %d buffers, want 1", n, len(got))
			}
		} else if len(got) != 2 || &got[1].ReadOnlyData()[0] != &body[0] {
			t.Errorf("a body of %d bytes is not the second of %d buffers", n, len(got))
		}
	}
}

func benchmarkKVs(n, size int) [][]byte {
	kvs := make([][]byte, n)
	for i := range kvs {
		kv := KeyValue{
			Key: fmt.Appendf(nil, "/registry/pods/default/web-%d", i), Value: make([]byte, size),
			CreateRevision: 123456, ModRevision: 234567 + int64(i), Version: 12,
		}
		kvs[i] = kv.Append(nil)
	}
	return kvs
}

var benchmarkHeader = Header{ClusterID: 14841639068965178418, MemberID: 10276657743932975437, Revision: 234567, RaftTerm: 7}

func BenchmarkEncodeRange(b *testing.B) {
	for _, c := range []struct{ n, size int }{{1, 256}, {1, 1024}, {100, 1024}} {
		kvs := benchmarkKVs(c.n, c.size)
		b.Run(fmt.Sprintf("%dx%d", c.n, c.size), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				EncodeRange(benchmarkHeader, kvs, false, int64(c.n))
			}
		})
	}
}

// BenchmarkShareOrCopy is what shareFrom was chosen by: the cost of a response, encoded and then copied to a
// connection's write buffer in frames of 16 KiB as gRPC does it, when all KeyValues are shared or all copied.
func BenchmarkShareOrCopy(b *testing.B) {
	for _, n := range []int{1, 100} {
		for _, size := range []int{256, 512, 1024, 2048, 4096, 16384} {
			kvs := benchmarkKVs(n, size)
			for _, way := range []struct {
				name  string
				limit int
			}{{"shared", 0}, {"copied", math.MaxInt}} {
				b.Run(fmt.Sprintf("%dx%d/%s", n, size, way.name), func(b *testing.B) {
					var head [maxHeaderSize]byte
					frame, conn := make([][]byte, 0, 16), make([]byte, 32<<10)
					for b.Loop() {
						out := join(benchmarkHeader.Append(head[:0]), 2, kvs, nil, way.limit)
						r := out.Reader()
						for r.Remaining() > 0 {
							n := min(r.Remaining(), 16<<10)
							var err error
							if frame, err = r.Peek(n, frame[:0]); err != nil {
								b.Fatal(err)
							}
							at := 0
							for _, part := range frame {
								at += copy(conn[at:], part)
							}
							if _, err = r.Discard(n); err != nil {
								b.Fatal(err)
							}
						}
						out.Free()
					}
				})
			}
		}
	}
}
