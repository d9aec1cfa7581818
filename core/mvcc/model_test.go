package mvcc

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/wire"
)

// model is what the store promises, in the simplest way: the whole map of keys for every revision.
type model struct {
	rev, compact int64
	states       map[int64]map[string]*mvccpb.KeyValue // by revision
	events       map[int64][]modelEvent
	buckets      map[Bucket]map[string]string
	index        uint64 // of the last entry
}

type modelEvent struct {
	deleted bool
	kv      *mvccpb.KeyValue // of a deletion: key and mod revision
}

func newModel() *model {
	return &model{
		rev: 1, compact: -1,
		states:  map[int64]map[string]*mvccpb.KeyValue{1: {}},
		events:  map[int64][]modelEvent{},
		buckets: map[Bucket]map[string]string{BucketLease: {}, BucketMembers: {}},
	}
}

// clone is enough of a copy for the original to go on: states and events are never changed once they are there.
func (m *model) clone() *model {
	c := *m
	c.states, c.events = maps.Clone(m.states), maps.Clone(m.events)
	c.buckets = map[Bucket]map[string]string{}
	for b, content := range m.buckets {
		c.buckets[b] = maps.Clone(content)
	}
	return &c
}

// modelTxn changes a model as Txn changes a Store.
type modelTxn struct {
	m      *model
	state  map[string]*mvccpb.KeyValue
	events []modelEvent
	leases []LeaseChange
}

func (m *model) txn() *modelTxn { return &modelTxn{m: m, state: maps.Clone(m.states[m.rev])} }

func (t *modelTxn) revision() int64 {
	if len(t.events) > 0 {
		return t.m.rev + 1
	}
	return t.m.rev
}

func (t *modelTxn) moveLease(key string, lease int64) {
	if was := t.state[key].GetLease(); was != lease {
		t.leases = append(t.leases, LeaseChange{Key: []byte(key), Old: was, New: lease})
	}
}

func (t *modelTxn) put(key, value string, lease int64) {
	rev := t.m.rev + 1
	kv := &mvccpb.KeyValue{
		Key: []byte(key), Value: []byte(value), Lease: lease, CreateRevision: rev, ModRevision: rev, Version: 1,
	}
	if old := t.state[key]; old != nil {
		kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
	}
	t.moveLease(key, lease)
	t.state[key] = kv
	t.events = append(t.events, modelEvent{kv: kv})
}

func (t *modelTxn) deleteRange(key, end string) int64 {
	keys := keysIn(t.state, key, end)
	for _, k := range keys {
		t.moveLease(k, 0)
		delete(t.state, k)
		t.events = append(t.events, modelEvent{true, &mvccpb.KeyValue{Key: []byte(k), ModRevision: t.m.rev + 1}})
	}
	return int64(len(keys))
}

// changed says whether the transaction has put a key of the range: it may not be changed again in the same revision.
func (t *modelTxn) changed(key, end string) bool {
	return slices.ContainsFunc(keysIn(t.state, key, end), func(k string) bool {
		return t.state[k].ModRevision == t.m.rev+1
	})
}

func (t *modelTxn) commit() {
	if len(t.events) == 0 {
		return
	}
	t.m.rev++
	t.m.states[t.m.rev], t.m.events[t.m.rev] = t.state, t.events
}

func keysIn(state map[string]*mvccpb.KeyValue, key, end string) []string {
	var keys []string
	for k := range state {
		if k == key && end == "" || k >= key && (end == "\x00" || k < end) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// rangeOf is what a read of the state at newest would return.
func rangeOf(newest, compact int64, stateAt func(int64) map[string]*mvccpb.KeyValue, key, end string, o RangeOptions) (RangeResult, error) {
	at := o.Revision
	switch {
	case at > newest:
		return RangeResult{}, ErrFutureRev
	case at <= 0:
		at = newest
	case at < compact:
		return RangeResult{}, ErrCompacted
	}
	state := stateAt(at)
	keys := keysIn(state, key, end)
	res := RangeResult{Revision: newest, Count: int64(len(keys))}
	if o.CountOnly {
		return res, nil
	}
	if o.Limit > 0 && int64(len(keys)) > o.Limit {
		keys = keys[:o.Limit]
		if o.NoTotal {
			res.Count = o.Limit
		}
	}
	for _, k := range keys {
		kv := state[k]
		if o.KeysOnly {
			kv = &mvccpb.KeyValue{
				Key: kv.Key, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version,
			}
		}
		res.KVs = append(res.KVs, encode(kv))
	}
	return res, nil
}

func (m *model) rangeOf(key, end string, o RangeOptions) (RangeResult, error) {
	return rangeOf(m.rev, m.compact, func(at int64) map[string]*mvccpb.KeyValue { return m.states[at] }, key, end, o)
}

func (t *modelTxn) rangeOf(key, end string, o RangeOptions) (RangeResult, error) {
	return rangeOf(t.revision(), t.m.compact, func(at int64) map[string]*mvccpb.KeyValue {
		if at == t.revision() {
			return t.state
		}
		return t.m.states[at]
	}, key, end, o)
}

// history is what History yields, as text.
func (m *model) history(key, end string, from int64) (string, error) {
	if from < m.compact {
		return "", ErrCompacted
	}
	var out strings.Builder
	for rev := from; rev <= m.rev; rev++ {
		var events []wire.Event
		for _, e := range m.events[rev] {
			if len(keysIn(map[string]*mvccpb.KeyValue{string(e.kv.Key): e.kv}, key, end)) > 0 {
				events = append(events, e.wire())
			}
		}
		if len(events) > 0 {
			writeEvents(&out, rev, events)
		}
	}
	return out.String(), nil
}

func (e modelEvent) wire() wire.Event {
	typ := mvccpb.Event_PUT
	if e.deleted {
		typ = mvccpb.Event_DELETE
	}
	data, err := proto.Marshal(&mvccpb.Event{Type: typ, Kv: e.kv})
	if err != nil {
		panic(err)
	}
	return wire.Event{Key: e.kv.Key, ModRev: e.kv.ModRevision, Delete: e.deleted, Data: data}
}

func writeEvents(out *strings.Builder, rev int64, events []wire.Event) {
	fmt.Fprintf(out, "%d:", rev)
	for _, e := range events {
		fmt.Fprintf(out, " %s %d %t %x;", e.Key, e.ModRev, e.Delete, e.Data)
	}
	out.WriteByte('\n')
}

func (m *model) prev(key string, rev int64) []byte {
	if rev <= 1 || rev-1 > m.rev || rev-1 < m.compact {
		return nil
	}
	if kv := m.states[rev-1][key]; kv != nil {
		return encode(kv)
	}
	return nil
}

// kept are the revisions that the file has after the last compaction, each as the hexadecimal key that it has there.
func (m *model) kept() []string {
	var keys []string
	for rev, events := range m.events {
		for sub, e := range events {
			r := revision{main: rev, sub: uint32(sub)}
			if e.deleted {
				r.flags = tombstone
			}
			if rev >= m.compact || m.states[m.compact][string(e.kv.Key)].GetModRevision() == rev && !e.deleted {
				keys = append(keys, string(r.appendKey(nil)))
			}
		}
	}
	slices.SortFunc(keys, cmp.Compare[string])
	return keys
}

func encode(kv *mvccpb.KeyValue) []byte {
	b, err := proto.Marshal(kv)
	if err != nil {
		panic(err)
	}
	return b
}
