package identities

import (
	"context"
	"fmt"
	"maps"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// history is what the store says has been written since revision 1: nothing is compacted in these tests.
type history struct {
	events   []*mvccpb.Event
	versions map[string][]version // by key, in the order of revisions
	keys     []string             // sorted
	last     int64                // revision
}

// version is what became of a key at a revision.
type version struct {
	rev int64
	kv  *mvccpb.KeyValue // nil if it was deleted
}

// readHistory watches all keys at a member until a revision that has been written.
func readHistory(ctx context.Context, member pb.WatchClient, last int64) (*history, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := member.Watch(ctx)
	if err != nil {
		return nil, fmt.Errorf("watch the history: %w", err)
	}
	create := &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: 1, PrevKv: true}
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		return nil, fmt.Errorf("watch the history: %w", err)
	}
	h := &history{versions: map[string][]version{}, last: last}
	for {
		r, err := stream.Recv()
		if err != nil {
			return nil, fmt.Errorf("read the history: %w", err)
		}
		if r.Canceled {
			return nil, fmt.Errorf("read the history: %s", r.CancelReason)
		}
		for _, e := range r.Events {
			h.add(e)
		}
		if n := len(h.events); n > 0 && h.events[n-1].Kv.ModRevision >= last {
			h.keys = slices.Sorted(maps.Keys(h.versions))
			return h, nil
		}
	}
}

func (h *history) add(e *mvccpb.Event) {
	h.events = append(h.events, e)
	v := version{rev: e.Kv.ModRevision}
	if e.Type == mvccpb.PUT {
		v.kv = e.Kv
	}
	key := string(e.Kv.Key)
	h.versions[key] = append(h.versions[key], v)
}

// at is the pair of a key at a revision; nil if there was none.
func (h *history) at(key string, rev int64) *mvccpb.KeyValue {
	all := h.versions[key]
	i, found := slices.BinarySearchFunc(all, rev, func(v version, rev int64) int { return int(v.rev - rev) })
	if !found {
		i--
	}
	if i < 0 {
		return nil
	}
	return all[i].kv
}

// in are the pairs of a range at a revision, sorted.
func (h *history) in(key, end string, rev int64) (kvs []*mvccpb.KeyValue) {
	for _, k := range h.keys {
		if !within(k, key, end) {
			continue
		}
		if kv := h.at(k, rev); kv != nil {
			kvs = append(kvs, kv)
		}
	}
	return kvs
}

// within tells whether a key is in a range, or is the range's key if end is empty.
func within(k, key, end string) bool { return permission{key: key, end: end}.contains(k) }

// answer is the only right answer to a range request at a revision, without its header.
func (h *history) answer(r *pb.RangeRequest, rev int64) *pb.RangeResponse {
	if r.Revision > 0 {
		rev = r.Revision
	}
	kvs := h.in(string(r.Key), string(r.RangeEnd), rev)
	a := &pb.RangeResponse{Count: int64(len(kvs))}
	if r.CountOnly {
		return a
	}
	if r.Limit > 0 && int64(len(kvs)) > r.Limit {
		kvs, a.More = kvs[:r.Limit], true
	}
	for _, kv := range kvs {
		if r.KeysOnly {
			kv = &mvccpb.KeyValue{Key: kv.Key, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version}
		}
		a.Kvs = append(a.Kvs, kv)
	}
	return a
}
