package grpcapi

import (
	"bytes"
	"context"
	"sync"
	"testing"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// revisions is a store that is no more than its history: what a watch service needs of one.
type revisions struct {
	t    testing.TB
	hub  *coalesce.Hub
	feed *coalesce.Feed

	write sync.Mutex // one write at a time, until it is published

	mu        sync.RWMutex // guards the fields below
	history   []coalesce.Batch
	compacted int64
}

func newRevisions(t testing.TB, ringBytes int) *revisions {
	r := &revisions{t: t}
	r.hub, r.feed = coalesce.NewStoreHub(r, r.revision, ringBytes)
	t.Cleanup(r.hub.Close)
	return r
}

// change is one operation of a write: a put, or a deletion if value is nil.
type change struct {
	key   string
	value []byte
}

func put(key, value string) change { return change{key, []byte(value)} }
func del(key string) change        { return change{key, nil} }

// commit makes one revision of the changes. A deletion of a key that is not there makes no event.
func (r *revisions) commit(changes ...change) {
	r.write.Lock()
	defer r.write.Unlock()
	b := coalesce.Batch{Revision: r.revision() + 1}
	for _, c := range changes {
		prev := r.at(c.key, b.Revision)
		if c.value == nil {
			if prev != nil {
				b.Events = append(b.Events, wire.NewDeleteEvent([]byte(c.key), b.Revision))
			}
			continue
		}
		kv := wire.KeyValue{
			Key: []byte(c.key), Value: c.value, ModRevision: b.Revision, CreateRevision: b.Revision, Version: 1,
		}
		if prev != nil {
			kv.CreateRevision, kv.Version = prev.CreateRevision, prev.Version+1
		}
		e, err := wire.NewPutEvent(kv.Append(nil))
		if err != nil {
			r.t.Error(err)
		}
		b.Events = append(b.Events, e)
	}
	r.publish(b)
}

// publish makes b the next revision. Who calls it has r.write.
func (r *revisions) publish(b coalesce.Batch) {
	r.mu.Lock()
	r.history = append(r.history, b)
	r.mu.Unlock()
	r.feed.Publish(b)
}

func (r *revisions) compact(rev int64) {
	r.mu.Lock()
	r.compacted = rev
	r.mu.Unlock()
	r.hub.Compacted(rev)
}

// revision is the newest; the first write makes revision 2, as in etcd.
func (r *revisions) revision() int64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return int64(len(r.history)) + 1
}

func (r *revisions) header() wire.Header {
	return wire.Header{ClusterID: 11, MemberID: 12, Revision: r.revision(), RaftTerm: 13}
}

// at is the key's value just before rev, nil if there was none.
func (r *revisions) at(key string, rev int64) *wire.KeyValue {
	kv := &wire.KeyValue{}
	b := r.Prev([]byte(key), rev)
	if b == nil {
		return nil
	}
	if err := kv.Unmarshal(b); err != nil {
		r.t.Error(err)
	}
	return kv
}

// Prev is part of coalesce.Source. A value is gone when it was overwritten at or before the compact revision.
func (r *revisions) Prev(key []byte, rev int64) []byte {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if rev <= r.compacted {
		return nil
	}
	for i := min(int(rev)-2, len(r.history)) - 1; i >= 0; i-- {
		for _, e := range r.history[i].Events {
			if !bytes.Equal(e.Key, key) {
				continue
			}
			if e.Delete {
				return nil
			}
			kv := wire.KeyValue{}
			return kvOfPut(r.t, e, &kv)
		}
	}
	return nil
}

// kvOfPut decodes the KeyValue of a put event and returns its encoding.
func kvOfPut(t testing.TB, e wire.Event, kv *wire.KeyValue) []byte {
	raw := e.Data[1:] // the only field is kv, whose tag is one byte
	for raw[0] >= 0x80 {
		raw = raw[1:]
	}
	raw = raw[1:] // behind the length
	if err := kv.Unmarshal(raw); err != nil {
		t.Error(err)
	}
	return raw
}

// History is part of coalesce.Source.
func (r *revisions) History(_ context.Context, in coalesce.Range, from int64, yield func(coalesce.Batch) bool) (int64, error) {
	r.mu.RLock()
	history, compacted := r.history, r.compacted
	r.mu.RUnlock()
	if from < compacted {
		return 0, &coalesce.CompactedError{CompactRevision: compacted}
	}
	for _, b := range history[max(from-2, 0):] {
		part := coalesce.Batch{Revision: b.Revision}
		for _, e := range b.Events {
			if isIn(e.Key, in.Key, in.End) {
				part.Events = append(part.Events, e)
			}
		}
		if len(part.Events) > 0 && !yield(part) {
			return b.Revision + 1, nil
		}
	}
	return int64(len(history)) + 2, nil
}

func isIn(k, key, end []byte) bool {
	switch {
	case len(end) == 0:
		return bytes.Equal(k, key)
	case bytes.Equal(end, []byte{0}):
		return bytes.Compare(k, key) >= 0
	}
	return bytes.Compare(k, key) >= 0 && bytes.Compare(k, end) < 0
}
