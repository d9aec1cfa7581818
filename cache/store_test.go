package cache

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"weir/grpcapi/wire"
)

// contents is one state of a store, by key.
type contents []*mvccpb.KeyValue

func (c contents) find(key string) (int, bool) {
	return slices.BinarySearchFunc(c, key, func(kv *mvccpb.KeyValue, key string) int { return strings.Compare(string(kv.Key), key) })
}

// testStore is a store that keeps the whole contents of each of its revisions.
type testStore struct {
	t      *testing.T
	rnd    *rand.Rand
	states []contents // by revision
	keys   []string   // that there may be
}

func newTestStore(t *testing.T, rnd *rand.Rand) *testStore {
	m := &testStore{t: t, rnd: rnd, states: []contents{nil, nil}}
	m.keys = []string{
		"\x00", "\x00\x00", "a", "a\x00", "a\xff", "aa", "b", "b/", "b/1", "b/10", "b/2", "b0", "c",
		strings.Repeat("c", 127), strings.Repeat("c", 128), strings.Repeat("c", 300), "\xff", "\xff\xff", "\xff\xff\x00",
	}
	for range rnd.IntN(150) {
		m.keys = append(m.keys, randomKey(rnd, 1000))
	}
	return m
}

func (m *testStore) rev() int64 { return int64(len(m.states) - 1) }

func (m *testStore) key() string { return m.keys[m.rnd.IntN(len(m.keys))] }

// write makes a revision of a few changes, several of which may be of one key, and returns them.
func (m *testStore) write() (events []wire.Event) {
	rev, next := m.rev()+1, slices.Clone(m.states[m.rev()])
	for len(events) == 0 {
		changes := 1 + m.rnd.IntN(3)
		if m.rnd.IntN(20) == 0 {
			changes = 100
		}
		var key string
		for range changes {
			if key == "" || m.rnd.IntN(3) > 0 { // else the same again
				key = m.key()
			}
			i, found := next.find(key)
			switch {
			case m.rnd.IntN(3) > 0:
				if !found {
					next = slices.Insert(next, i, nil)
				}
				next[i] = m.put(key, rev, next[i])
				e, err := wire.NewPutEvent(mustMarshal(m.t, next[i]))
				if err != nil {
					m.t.Fatal(err)
				}
				events = append(events, e)
			case found:
				next = slices.Delete(next, i, i+1)
				events = append(events, wire.NewDeleteEvent([]byte(key), rev))
			}
		}
	}
	m.states = append(m.states, next)
	return events
}

func (m *testStore) put(key string, rev int64, old *mvccpb.KeyValue) *mvccpb.KeyValue {
	kv := &mvccpb.KeyValue{
		Key: []byte(key), Value: bytes.Repeat([]byte{'v', byte(rev)}, m.rnd.IntN(20)),
		CreateRevision: rev, ModRevision: rev, Version: 1, Lease: m.rnd.Int64N(2),
	}
	if old != nil {
		kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
	}
	return kv
}

// span is a range as requests state it.
type span struct{ key, end string }

func (s span) has(key string) bool {
	switch s.end {
	case "":
		return key == s.key
	case "\x00":
		return key >= s.key
	}
	return s.key <= key && key < s.end
}

// span returns a range of some convention, empty ones too.
func (m *testStore) span() span {
	switch key := m.key(); m.rnd.IntN(6) {
	case 0:
		return span{key, ""}
	case 1:
		return span{key, "\x00"}
	case 2:
		return span{"\x00", "\x00"}
	case 3: // a prefix
		end := []byte(key)
		end[len(end)-1]++
		if end[len(end)-1] == 0 {
			return span{key, "\x00"}
		}
		return span{key, string(end)}
	case 4:
		return span{key + "?", ""}
	default:
		return span{key, m.key()} // half of them inverted
	}
}

// read returns the KeyValues of a range at a revision.
func (m *testStore) read(rev int64, s span) (kvs []*mvccpb.KeyValue) {
	for _, kv := range m.states[rev] {
		if s.has(string(kv.Key)) {
			kvs = append(kvs, kv)
		}
	}
	return kvs
}

// request returns a range request with some options.
func (m *testStore) request(s span) *pb.RangeRequest {
	r := &pb.RangeRequest{Key: []byte(s.key), RangeEnd: []byte(s.end)}
	maybe := func(n int64) int64 { return max(0, m.rnd.Int64N(2*n)-n) }
	if m.rnd.IntN(2) == 0 {
		r.Limit = maybe(10)
	}
	if m.rnd.IntN(3) == 0 {
		r.SortOrder = pb.RangeRequest_SortOrder(m.rnd.IntN(3))
		r.SortTarget = pb.RangeRequest_SortTarget(m.rnd.IntN(5))
	}
	if m.rnd.IntN(3) == 0 {
		r.MinModRevision, r.MaxModRevision = maybe(m.rev()), maybe(m.rev())
		r.MinCreateRevision, r.MaxCreateRevision = maybe(m.rev()), maybe(m.rev())
	}
	r.KeysOnly = m.rnd.IntN(4) == 0
	r.CountOnly = m.rnd.IntN(6) == 0
	r.Serializable = m.rnd.IntN(2) == 0
	return r
}

// answer says what etcd answers to r in a state whose KeyValues of the range are kvs: it reads, filters, sorts, limits
// and only then leaves values out. A limit cuts before all else if what is first by key is first in the answer.
func answer(r *pb.RangeRequest, kvs []*mvccpb.KeyValue) *pb.RangeResponse {
	res := &pb.RangeResponse{Count: int64(len(kvs))}
	if r.CountOnly {
		return res
	}
	filtered := r.MinModRevision != 0 || r.MaxModRevision != 0 || r.MinCreateRevision != 0 || r.MaxCreateRevision != 0
	byKey := r.SortTarget == pb.RangeRequest_KEY
	inOrder := r.SortOrder == pb.RangeRequest_NONE || r.SortOrder == pb.RangeRequest_ASCEND && byKey
	if r.Limit > 0 && inOrder && !filtered {
		kvs = kvs[:min(len(kvs), int(r.Limit)+1)]
	}
	for _, kv := range kvs {
		if (r.MinModRevision == 0 || kv.ModRevision >= r.MinModRevision) &&
			(r.MaxModRevision == 0 || kv.ModRevision <= r.MaxModRevision) &&
			(r.MinCreateRevision == 0 || kv.CreateRevision >= r.MinCreateRevision) &&
			(r.MaxCreateRevision == 0 || kv.CreateRevision <= r.MaxCreateRevision) {
			res.Kvs = append(res.Kvs, kv)
		}
	}
	if r.SortOrder != pb.RangeRequest_NONE || !byKey {
		order := sort.Interface(byTarget{res.Kvs, r.SortTarget})
		if r.SortOrder == pb.RangeRequest_DESCEND {
			order = sort.Reverse(order)
		}
		sort.Sort(order)
	}
	if r.Limit > 0 && len(res.Kvs) > int(r.Limit) {
		res.Kvs, res.More = res.Kvs[:r.Limit], true
	}
	if r.KeysOnly {
		for i, kv := range res.Kvs {
			bare := &mvccpb.KeyValue{
				Key: kv.Key, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version,
			}
			if r.SortTarget == pb.RangeRequest_VALUE {
				bare.Lease = kv.Lease
			}
			res.Kvs[i] = bare
		}
	}
	return res
}

// byTarget sorts as etcd does, with a sort that is not stable: what is equal in the target comes in an order of its own.
type byTarget struct {
	kvs    []*mvccpb.KeyValue
	target pb.RangeRequest_SortTarget
}

func (b byTarget) Len() int      { return len(b.kvs) }
func (b byTarget) Swap(i, j int) { b.kvs[i], b.kvs[j] = b.kvs[j], b.kvs[i] }
func (b byTarget) Less(i, j int) bool {
	x, y := b.kvs[i], b.kvs[j]
	switch b.target {
	case pb.RangeRequest_VERSION:
		return x.Version < y.Version
	case pb.RangeRequest_CREATE:
		return x.CreateRevision < y.CreateRevision
	case pb.RangeRequest_MOD:
		return x.ModRevision < y.ModRevision
	case pb.RangeRequest_VALUE:
		return bytes.Compare(x.Value, y.Value) < 0
	default:
		return bytes.Compare(x.Key, y.Key) < 0
	}
}
