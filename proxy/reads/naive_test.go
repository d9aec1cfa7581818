package reads

import (
	"bytes"
	"maps"
	"slices"
	"sort"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/wire"
)

// naive is a store that keeps every state it ever had, and answers as etcd does in the plainest way: on generated
// messages, by looking at every key. It is what answers from memory are compared with.
type naive struct {
	states    []map[string]*mvccpb.KeyValue // by revision
	events    [][]wire.Event                // by revision
	compacted int64
}

func newNaive() *naive {
	return &naive{states: []map[string]*mvccpb.KeyValue{{}, {}}, events: make([][]wire.Event, 2)}
}

func (n *naive) revision() int64 { return int64(len(n.states) - 1) }

// op is a write: a nil value deletes.
type op struct {
	key   string
	value []byte
	lease int64
}

// write does ops, of different keys, in one revision. Who deletes what is not there does nothing.
func (n *naive) write(ops ...op) {
	next, rev := maps.Clone(n.states[n.revision()]), n.revision()+1
	var events []wire.Event
	for _, o := range ops {
		old := next[o.key]
		if o.value == nil {
			if old != nil {
				delete(next, o.key)
				events = append(events, wire.NewDeleteEvent([]byte(o.key), rev))
			}
			continue
		}
		kv := &mvccpb.KeyValue{Key: []byte(o.key), Value: o.value, CreateRevision: rev, ModRevision: rev, Version: 1, Lease: o.lease}
		if old != nil {
			kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
		}
		next[o.key] = kv
		e, err := wire.NewPutEvent(encode(kv))
		if err != nil {
			panic(err)
		}
		events = append(events, e)
	}
	if len(events) > 0 {
		n.states, n.events = append(n.states, next), append(n.events, events)
	}
}

// in returns the KeyValues of [key, end) at rev.
func (n *naive) in(key, end []byte, rev int64) []*mvccpb.KeyValue {
	var kvs []*mvccpb.KeyValue
	for _, name := range slices.Sorted(maps.Keys(n.states[rev])) {
		k := []byte(name)
		switch {
		case len(end) == 0 && !bytes.Equal(k, key):
		case bytes.Compare(k, key) < 0:
		case len(end) > 0 && !bytes.Equal(end, []byte{0}) && bytes.Compare(k, end) >= 0:
		default:
			kvs = append(kvs, n.states[rev][name])
		}
	}
	return kvs
}

// answer is etcd's to r when its newest revision is head.
func (n *naive) answer(r *pb.RangeRequest, head int64) (*pb.RangeResponse, error) {
	at := head
	if r.Revision > 0 {
		at = r.Revision
	}
	switch {
	case at > head:
		return nil, rpctypes.ErrGRPCFutureRev
	case at < n.compacted:
		return nil, rpctypes.ErrGRPCCompacted
	}
	kvs := n.in(r.Key, r.RangeEnd, at)
	resp := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: head}, Count: int64(len(kvs))}
	if r.CountOnly {
		return resp, nil
	}
	filtered := r.MinModRevision != 0 || r.MaxModRevision != 0 || r.MinCreateRevision != 0 || r.MaxCreateRevision != 0
	if r.SortOrder == pb.RangeRequest_NONE && !filtered && r.Limit > 0 && int64(len(kvs)) > r.Limit {
		kvs = kvs[:r.Limit+1]
	}
	kvs = slices.DeleteFunc(kvs, func(kv *mvccpb.KeyValue) bool {
		return r.MinModRevision != 0 && kv.ModRevision < r.MinModRevision || r.MaxModRevision != 0 && kv.ModRevision > r.MaxModRevision ||
			r.MinCreateRevision != 0 && kv.CreateRevision < r.MinCreateRevision || r.MaxCreateRevision != 0 && kv.CreateRevision > r.MaxCreateRevision
	})
	by := byTarget{kvs, r.SortTarget}
	if r.SortOrder == pb.RangeRequest_DESCEND {
		sort.Sort(sort.Reverse(by))
	} else if r.SortTarget != pb.RangeRequest_KEY {
		sort.Sort(by)
	}
	if r.Limit > 0 && int64(len(kvs)) > r.Limit {
		kvs, resp.More = kvs[:r.Limit], true
	}
	for _, kv := range kvs {
		if r.KeysOnly {
			kv = proto.Clone(kv).(*mvccpb.KeyValue)
			kv.Value = nil
			if r.SortTarget != pb.RangeRequest_VALUE {
				kv.Lease = 0
			}
		}
		resp.Kvs = append(resp.Kvs, kv)
	}
	return resp, nil
}

// txn is etcd's answer to a transaction of compares and ranges when its newest revision is head.
func (n *naive) txn(r *pb.TxnRequest, head int64) (*pb.TxnResponse, error) {
	resp := &pb.TxnResponse{Header: &pb.ResponseHeader{Revision: head}, Succeeded: true}
	for _, c := range r.Compare {
		resp.Succeeded = resp.Succeeded && n.holds(c, head)
	}
	ops := r.Success
	if !resp.Succeeded {
		ops = r.Failure
	}
	for _, op := range ops {
		a, err := n.answer(op.GetRequestRange(), head)
		if err != nil {
			return nil, err
		}
		resp.Responses = append(resp.Responses, &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: a}})
	}
	return resp, nil
}

// holds evaluates a compare of modification revisions or values.
func (n *naive) holds(c *pb.Compare, head int64) bool {
	kvs := n.in(c.Key, c.RangeEnd, head)
	if len(kvs) == 0 {
		if c.Target == pb.Compare_VALUE {
			return false
		}
		kvs = []*mvccpb.KeyValue{{}}
	}
	for _, kv := range kvs {
		order := bytes.Compare(kv.Value, c.GetValue())
		if c.Target == pb.Compare_MOD {
			order = int(kv.ModRevision - c.GetModRevision())
		}
		switch c.Result {
		case pb.Compare_EQUAL:
			if order != 0 {
				return false
			}
		case pb.Compare_GREATER:
			if order <= 0 {
				return false
			}
		default:
			panic("a compare that the naive store does not know")
		}
	}
	return true
}

// byTarget sorts as etcd does.
type byTarget struct {
	kvs    []*mvccpb.KeyValue
	target pb.RangeRequest_SortTarget
}

func (s byTarget) Len() int      { return len(s.kvs) }
func (s byTarget) Swap(i, j int) { s.kvs[i], s.kvs[j] = s.kvs[j], s.kvs[i] }
func (s byTarget) Less(i, j int) bool {
	a, b := s.kvs[i], s.kvs[j]
	switch s.target {
	case pb.RangeRequest_VERSION:
		return a.Version < b.Version
	case pb.RangeRequest_CREATE:
		return a.CreateRevision < b.CreateRevision
	case pb.RangeRequest_MOD:
		return a.ModRevision < b.ModRevision
	case pb.RangeRequest_VALUE:
		return bytes.Compare(a.Value, b.Value) < 0
	}
	return bytes.Compare(a.Key, b.Key) < 0
}

func encode(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}
