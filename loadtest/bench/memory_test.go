package bench

import (
	"errors"
	"io"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

func TestMemoryOfAProxyIsMeasured(t *testing.T) {
	o := MemoryOptions{Keys: 20_000, Reads: 1000}
	r, err := RunMemory(t.Context(), bin, o, func(s string) { t.Log(s) })
	if err != nil {
		t.Fatal(err)
	}
	if r.Keys != o.Keys || r.Bytes != int64(o.Keys)*(15+memoryValueSize) || r.Reads != o.Reads || len(r.RSSDuring) != MemorySamples {
		t.Errorf("%+v", r)
	}
	if r.Heap <= 0 || r.LoadTook <= 0 || r.ReadsTook <= 0 || r.HitRatio <= 0 || r.HitRatio > 1 {
		t.Errorf("%+v", r)
	}
}

func TestAnAnswerThatLacksAKeyIsAnError(t *testing.T) {
	kv := &mvccpb.KeyValue{Key: []byte("k"), Value: []byte("v"), ModRevision: 3}
	m, err := proto.Marshal(&pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 7}, Kvs: []*mvccpb.KeyValue{kv, kv}, Count: 2})
	if err != nil {
		t.Fatal(err)
	}
	for keys, wrong := range map[int]bool{1: true, 2: false, 3: true} {
		if _, err := (&distinctReader{keys: keys}).Check(m); (err != nil) != wrong {
			t.Errorf("of %d keys: %v", keys, err)
		}
	}
}

func TestNoTwoOfManyReadsAreTheSame(t *testing.T) {
	d := &distinctRequests{keys: 30, end: 1000}
	seen := map[string]bool{}
	for range d.end {
		request, keys, err := d.next()
		if err != nil {
			t.Fatal(err)
		}
		if seen[string(request)] {
			t.Fatalf("%q comes twice", request)
		}
		seen[string(request)] = true
		var r pb.RangeRequest
		if err := proto.Unmarshal(request, &r); err != nil {
			t.Fatal(err)
		}
		if len(r.RangeEnd) > 0 != (keys > 0) || keys > listed {
			t.Errorf("%v is to have %d keys", &r, keys)
		}
	}
	if _, _, err := d.next(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last: %v", err)
	}
}
