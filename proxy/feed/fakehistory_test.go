package feed

import (
	"bytes"
	"maps"
	"slices"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// fakeHistory is all revisions of a store, never compacted: a member only pretends that they are.
type fakeHistory struct {
	revisions [][]*mvccpb.Event // from revision 2 on, without prev_kv
	versions  map[string][]fakeVersion
}

// fakeVersion is a key from a revision on; kv is nil when it has been deleted.
type fakeVersion struct {
	rev int64
	kv  *mvccpb.KeyValue
}

const firstRevision = 1 // of an empty store

func (h *fakeHistory) head() int64 { return firstRevision + int64(len(h.revisions)) }

// at returns the events of a revision.
func (h *fakeHistory) at(rev int64) []*mvccpb.Event { return h.revisions[rev-firstRevision-1] }

// get returns what key is at a revision, or nil.
func (h *fakeHistory) get(key []byte, rev int64) *mvccpb.KeyValue {
	vs := h.versions[string(key)]
	for i := len(vs) - 1; i >= 0; i-- {
		if vs[i].rev <= rev {
			return vs[i].kv
		}
	}
	return nil
}

// fakeOp is a put, or a deletion if value is nil.
type fakeOp struct {
	key   string
	value []byte
}

// write makes one revision of ops on different keys. Deletions of keys that are not there do nothing; if nothing is left
// to do there is no revision.
func (h *fakeHistory) write(ops []fakeOp) (made bool) {
	rev := h.head() + 1
	var events []*mvccpb.Event
	for _, op := range ops {
		old := h.get([]byte(op.key), rev)
		e := &mvccpb.Event{Kv: &mvccpb.KeyValue{Key: []byte(op.key), ModRevision: rev}}
		v := fakeVersion{rev: rev}
		switch {
		case op.value == nil && old == nil:
			continue
		case op.value == nil:
			e.Type = mvccpb.Event_DELETE
		default:
			e.Kv.Value, e.Kv.CreateRevision, e.Kv.Version = op.value, rev, 1
			if old != nil {
				e.Kv.CreateRevision, e.Kv.Version = old.CreateRevision, old.Version+1
			}
			v.kv = e.Kv
		}
		events = append(events, e)
		h.versions[op.key] = append(h.versions[op.key], v)
	}
	if len(events) == 0 {
		return false
	}
	h.revisions = append(h.revisions, events)
	return true
}

// until returns a copy of the history up to a revision.
func (h *fakeHistory) until(rev int64) *fakeHistory {
	past := &fakeHistory{revisions: slices.Clone(h.revisions[:rev-firstRevision]), versions: maps.Clone(h.versions)}
	for key, vs := range past.versions {
		n := 0
		for n < len(vs) && vs[n].rev <= rev {
			n++
		}
		past.versions[key] = slices.Clone(vs[:n])
	}
	return past
}

// fakeRangeEnd turns the range end of a request into etcd's inner form: nil is the single key, empty is no end.
func fakeRangeEnd(end []byte) []byte {
	switch {
	case len(end) == 0:
		return nil
	case len(end) == 1 && end[0] == 0:
		return []byte{}
	}
	return end
}

// fakeContains takes an end in etcd's inner form.
func fakeContains(key, end, k []byte) bool {
	switch {
	case end == nil:
		return bytes.Equal(key, k)
	case len(end) == 0:
		return bytes.Compare(key, k) <= 0
	}
	return bytes.Compare(key, k) <= 0 && bytes.Compare(k, end) < 0
}
