package wire

import (
	"bytes"
	"math/rand/v2"
	"sort"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// selectModel says in terms of protobuf messages what Select has to do, as etcd 3.7 has been seen to do it.
func selectModel(r *pb.RangeRequest, kvs []*mvccpb.KeyValue) (selected []*mvccpb.KeyValue, more bool) {
	filtered := r.MinModRevision != 0 || r.MaxModRevision != 0 || r.MinCreateRevision != 0 || r.MaxCreateRevision != 0
	keyOrder := r.SortOrder == pb.RangeRequest_NONE ||
		r.SortOrder == pb.RangeRequest_ASCEND && r.SortTarget == pb.RangeRequest_KEY
	for i, kv := range kvs {
		if r.Limit > 0 && int64(i) > r.Limit && keyOrder && !filtered {
			break
		}
		if r.MinModRevision != 0 && kv.ModRevision < r.MinModRevision ||
			r.MaxModRevision != 0 && kv.ModRevision > r.MaxModRevision ||
			r.MinCreateRevision != 0 && kv.CreateRevision < r.MinCreateRevision ||
			r.MaxCreateRevision != 0 && kv.CreateRevision > r.MaxCreateRevision {
			continue
		}
		selected = append(selected, proto.CloneOf(kv))
	}
	if r.SortOrder != pb.RangeRequest_NONE || r.SortTarget != pb.RangeRequest_KEY {
		var by sort.Interface = sorter{selected, map[pb.RangeRequest_SortTarget]func(a, b *mvccpb.KeyValue) bool{
			pb.RangeRequest_KEY:     func(a, b *mvccpb.KeyValue) bool { return bytes.Compare(a.Key, b.Key) < 0 },
			pb.RangeRequest_VERSION: func(a, b *mvccpb.KeyValue) bool { return a.Version < b.Version },
			pb.RangeRequest_CREATE:  func(a, b *mvccpb.KeyValue) bool { return a.CreateRevision < b.CreateRevision },
			pb.RangeRequest_MOD:     func(a, b *mvccpb.KeyValue) bool { return a.ModRevision < b.ModRevision },
			pb.RangeRequest_VALUE:   func(a, b *mvccpb.KeyValue) bool { return bytes.Compare(a.Value, b.Value) < 0 },
		}[r.SortTarget]}
		if r.SortOrder == pb.RangeRequest_DESCEND {
			by = sort.Reverse(by)
		}
		sort.Sort(by)
	}
	if r.Limit > 0 && int64(len(selected)) > r.Limit {
		selected, more = selected[:r.Limit], true
	}
	for _, kv := range selected {
		if r.KeysOnly {
			kv.Value = nil
			if r.SortTarget != pb.RangeRequest_VALUE {
				kv.Lease = 0
			}
		}
	}
	return selected, more
}

type sorter struct {
	kvs  []*mvccpb.KeyValue
	less func(a, b *mvccpb.KeyValue) bool
}

func (s sorter) Len() int           { return len(s.kvs) }
func (s sorter) Swap(i, j int)      { s.kvs[i], s.kvs[j] = s.kvs[j], s.kvs[i] }
func (s sorter) Less(i, j int) bool { return s.less(s.kvs[i], s.kvs[j]) }

// checkSelect makes a store of n keys in which many are equal in everything but the key, selects from it, and
// holds the result against the model: with all of the range, and with only FetchLimit of it.
func checkSelect(t *testing.T, m *pb.RangeRequest, n int, seed uint64) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 0))
	var kvs []*mvccpb.KeyValue
	var encoded, before [][]byte
	for i := range n {
		kv := &mvccpb.KeyValue{
			Key: []byte{'k', byte(i >> 8), byte(i)}, CreateRevision: 1 + rnd.Int64N(8), ModRevision: 1 + rnd.Int64N(8),
			Version: 1 + rnd.Int64N(4), Lease: rnd.Int64N(2), Value: make([]byte, rnd.IntN(4)),
		}
		kvs = append(kvs, kv)
		encoded = append(encoded, mustMarshal(t, kv))
		before = append(before, bytes.Clone(encoded[i]))
	}
	want, wantMore := selectModel(m, kvs)

	var r RangeRequest
	if err := r.Unmarshal(mustMarshal(t, m)); err != nil {
		t.Fatal(err)
	}
	fetched := encoded
	if limit := r.FetchLimit(); limit > 0 && limit < int64(n) {
		fetched = encoded[:limit]
	}
	for _, given := range [][][]byte{encoded, fetched} {
		got, more, err := r.Select(given)
		if err != nil {
			t.Fatal(err)
		}
		if more != wantMore || len(got) != len(want) {
			t.Fatalf("%v of %d keys (seed %d): got %d, more %v; want %d, more %v", m, n, seed, len(got), more, len(want), wantMore)
		}
		for i := range got {
			if b := mustMarshal(t, want[i]); !bytes.Equal(got[i], b) {
				t.Fatalf("%v of %d keys (seed %d): number %d is %x, want %x", m, n, seed, i, got[i], b)
			}
		}
	}
	for i := range encoded {
		if !bytes.Equal(encoded[i], before[i]) {
			t.Fatalf("%v changed KeyValue %d of its input", m, i)
		}
	}
}

func TestSelectDoesWhatEtcdDoes(t *testing.T) {
	rnd := newRand()
	for order := range pb.RangeRequest_SortOrder_name {
		for target := range pb.RangeRequest_SortTarget_name {
			for flags := range 16 {
				m := &pb.RangeRequest{
					SortOrder: pb.RangeRequest_SortOrder(order), SortTarget: pb.RangeRequest_SortTarget(target),
					KeysOnly: flags&1 != 0,
				}
				if flags&2 != 0 {
					m.Limit = 1 + rnd.Int64N(20)
				}
				if flags&4 != 0 {
					m.MinModRevision, m.MaxModRevision = rnd.Int64N(5), rnd.Int64N(9)
				}
				if flags&8 != 0 {
					m.MinCreateRevision, m.MaxCreateRevision = rnd.Int64N(5), rnd.Int64N(9)
				}
				for _, n := range []int{0, 1, 2, 12, 13, 100} { // the sort is another one up to 12
					checkSelect(t, m, n, rnd.Uint64())
				}
			}
		}
	}
}

func TestSelectWithoutOptionsCopiesNothing(t *testing.T) {
	kvs := benchmarkKVs(3, 10)
	r := RangeRequest{Limit: 2}
	got, more, err := r.Select(kvs)
	if err != nil || !more || len(got) != 2 || &got[0] != &kvs[0] {
		t.Fatalf("got %d, more %v, error %v; want the first 2 of the same slice", len(got), more, err)
	}
	if n := testing.AllocsPerRun(10, func() { got, more, err = r.Select(kvs) }); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func TestSelectRefusesWhatItCannotRead(t *testing.T) {
	good, bad := benchmarkKVs(1, 10)[0], []byte{0x0a, 0x7f}
	for _, c := range []struct {
		name string
		r    RangeRequest
		kv   []byte
	}{
		{"unknown order", RangeRequest{SortOrder: 3}, good},
		{"negative order", RangeRequest{SortOrder: -1}, good},
		{"unknown target", RangeRequest{SortTarget: 5}, good},
		{"malformed when sorted", RangeRequest{SortTarget: sortByMod}, bad},
		{"malformed when filtered", RangeRequest{MinModRevision: 1}, bad},
		{"malformed when keys only", RangeRequest{KeysOnly: true}, bad},
	} {
		if got, more, err := c.r.Select([][]byte{c.kv}); err == nil || got != nil || more {
			t.Errorf("%s: got %x, more %v, error %v", c.name, got, more, err)
		}
	}
}

func FuzzSelect(f *testing.F) {
	f.Add(mustMarshal(f, &pb.RangeRequest{SortTarget: pb.RangeRequest_MOD, Limit: 3}), uint16(40), uint64(1))
	f.Add(mustMarshal(f, &pb.RangeRequest{
		SortOrder: pb.RangeRequest_DESCEND, SortTarget: pb.RangeRequest_VALUE, KeysOnly: true, MaxModRevision: 6,
	}), uint16(300), uint64(2))
	f.Fuzz(func(t *testing.T, request []byte, n uint16, seed uint64) {
		m := &pb.RangeRequest{}
		if proto.Unmarshal(request, m) != nil || n > 1000 ||
			pb.RangeRequest_SortOrder_name[int32(m.SortOrder)] == "" || pb.RangeRequest_SortTarget_name[int32(m.SortTarget)] == "" {
			return // no request that reaches Select
		}
		checkSelect(t, m, int(n), seed)
	})
}
