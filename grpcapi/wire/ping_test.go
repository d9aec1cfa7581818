package wire

import (
	"bytes"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

func TestPingsAndPongsAreWrittenAsProtobufDoes(t *testing.T) {
	rnd := newRand()
	for range 500 {
		h, id, ttl := randomHeader(rnd), randomInt(rnd), randomInt(rnd)
		checkEncoded(t, "ping", AppendPing([]byte("x"), id), append([]byte("x"), mustMarshal(t, &pb.LeaseKeepAliveRequest{ID: id})...))
		checkEncoded(t, "pong", AppendPong([]byte("x"), h, Pong{id, ttl}),
			append([]byte("x"), mustMarshal(t, &pb.LeaseKeepAliveResponse{Header: h.proto(), ID: id, TTL: ttl})...))
	}
}

func checkDecodePing(t *testing.T, b []byte) {
	t.Helper()
	want := &pb.LeaseKeepAliveRequest{}
	wantErr := proto.Unmarshal(b, want)
	if id, err := UnmarshalPing(b); (err != nil) != (wantErr != nil) || err == nil && id != want.ID {
		t.Errorf("ping %x: got %d, %v, protobuf says %d, %v", b, id, err, want.ID, wantErr)
	}
}

func checkDecodePong(t *testing.T, b []byte) {
	t.Helper()
	want := &pb.LeaseKeepAliveResponse{}
	wantErr := proto.Unmarshal(b, want)
	h, p, err := UnmarshalPong(b)
	if (err != nil) != (wantErr != nil) {
		t.Fatalf("pong %x: error %v, protobuf says %v", b, err, wantErr)
	}
	if w := want.GetHeader(); err == nil && (p != Pong{want.ID, want.TTL} ||
		h != Header{w.GetClusterId(), w.GetMemberId(), w.GetRevision(), w.GetRaftTerm()}) {
		t.Errorf("pong %x: got %+v, %+v, protobuf says %v", b, h, p, want)
	}
}

func TestPingsAndPongsDecodeAsProtobufDecodesThem(t *testing.T) {
	pong := mustMarshal(t, &pb.LeaseKeepAliveResponse{Header: headers[1], ID: -1, TTL: 1 << 40})
	twice := slices.Concat(pong, mustMarshal(t, &pb.LeaseKeepAliveResponse{Header: &pb.ResponseHeader{Revision: 5}, ID: 7}))
	for _, m := range [][]byte{nil, pong, twice, mustMarshal(t, &pb.LeaseKeepAliveRequest{ID: 1 << 62})} {
		for n := range len(m) + 1 {
			checkDecodePing(t, m[:n:n])
			checkDecodePong(t, m[:n:n])
		}
	}
	for _, odd := range oddFields {
		checkDecodePing(t, odd.field)
		checkDecodePong(t, odd.field)
		checkDecodePong(t, appendMessage(nil, 1, odd.field))
	}
}

func TestBatchOfPingsIsReadAsWritten(t *testing.T) {
	rnd := newRand()
	for range 300 {
		want := make([]int64, rnd.IntN(50))
		for i := range want {
			want[i] = randomInt(rnd)
		}
		b := AppendPings(nil, want)
		got, err := UnmarshalPings(b, []int64{5})
		if err != nil || got[0] != 5 || !slices.Equal(got[1:], want) {
			t.Fatalf("got %v, %v, want %v", got, err, want)
		}
		for n := 1; n < len(b); n++ {
			if _, err := UnmarshalPings(b[:n:n], nil); err == nil {
				t.Fatalf("the first %d bytes of %x are taken for the whole", n, b)
			}
		}
	}
	unpacked := AppendPing(AppendPing(append(appendVarint(nil, 9, 3), AppendPings(nil, []int64{1, 0})...), 2), 3)
	if got, err := UnmarshalPings(unpacked, nil); err != nil || !slices.Equal(got, []int64{1, 0, 2, 3}) {
		t.Errorf("unpacked: got %v, %v", got, err)
	}
}

func TestBatchOfPongsIsReadAsWritten(t *testing.T) {
	rnd := newRand()
	var got PongBatch
	for range 300 {
		want := PongBatch{Header: randomHeader(rnd)}
		for range rnd.IntN(20) {
			want.Pongs = append(want.Pongs, Pong{randomInt(rnd), randomInt(rnd)})
		}
		for range rnd.IntN(5) {
			want.Failures = append(want.Failures, PingFailure{randomInt(rnd), string(make([]byte, rnd.IntN(200))), rnd.Uint32()})
		}
		b := append(want.Append([]byte("x")), appendVarint(nil, 9, 3)...)[1:]
		if err := got.Unmarshal(b); err != nil || got.Header != want.Header ||
			!slices.Equal(got.Pongs, want.Pongs) || !slices.Equal(got.Failures, want.Failures) {
			t.Fatalf("got %+v, %v, want %+v", got, err, want)
		}
		if h, err := UnmarshalHeader(b); err != nil || h != want.Header {
			t.Fatalf("its header is read as %+v, %v", h, err)
		}
	}
}

func checkDecodeBatches(t *testing.T, b []byte) {
	t.Helper()
	input := bytes.Clone(b)
	var batch PongBatch
	if batch.Unmarshal(b) == nil {
		var again PongBatch
		if err := again.Unmarshal(batch.Append(nil)); err != nil || again.Header != batch.Header ||
			!slices.Equal(again.Pongs, batch.Pongs) || !slices.Equal(again.Failures, batch.Failures) {
			t.Fatalf("%x is read as %+v, and that, written and read again, as %+v, %v", b, batch, again, err)
		}
	}
	if ids, err := UnmarshalPings(b, nil); err == nil {
		if again, err := UnmarshalPings(AppendPings(nil, ids), nil); err != nil || !slices.Equal(again, ids) {
			t.Fatalf("%x is read as %v, and that, written and read again, as %v, %v", b, ids, again, err)
		}
	}
	if !bytes.Equal(b, input) {
		t.Fatalf("%x has become %x", input, b)
	}
}

func TestMalformedBatchesAreRefused(t *testing.T) {
	batch := PongBatch{Header: benchmarkHeader, Pongs: []Pong{{1, 2}, {3, 4}}, Failures: []PingFailure{{5, "why", 6}}}
	b := batch.Append(nil)
	for n := range len(b) {
		checkDecodeBatches(t, b[:n:n])
	}
	for _, bad := range [][]byte{{0x12, 0x01}, {0x12, 0x01, 0x08}, {0x1a, 0x01, 0x08}, {0x1a, 0x02, 0x12, 0x05}, {0x0a, 0x01, 0x08}, {0x80}} {
		if err := batch.Unmarshal(bad); err == nil {
			t.Errorf("%x is read as %+v", bad, batch)
		}
	}
	for _, bad := range [][]byte{{0x0a, 0x01}, {0x0a, 0x01, 0x80}, {0x08}, {0x80}} {
		if ids, err := UnmarshalPings(bad, nil); err == nil {
			t.Errorf("%x is read as %v", bad, ids)
		}
	}
	for _, odd := range oddFields {
		checkDecodeBatches(t, odd.field)
		checkDecodeBatches(t, appendMessage(nil, 2, odd.field))
		checkDecodeBatches(t, appendMessage(nil, 3, odd.field))
	}
}

func FuzzPings(f *testing.F) {
	batch := PongBatch{Header: benchmarkHeader, Pongs: []Pong{{1, 2}, {3, 4}}, Failures: []PingFailure{{5, "why", 6}}}
	f.Add(batch.Append(nil))
	f.Add(AppendPings(nil, []int64{1, -1, 1 << 40}))
	f.Add(AppendPing(nil, 9))
	f.Add(AppendPong(nil, benchmarkHeader, Pong{1, 2}))
	f.Fuzz(func(t *testing.T, b []byte) {
		checkDecodePing(t, b)
		checkDecodePong(t, b)
		checkDecodeBatches(t, b)
	})
}
