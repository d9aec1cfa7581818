package cache

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"weir/grpcapi/wire"
)

// snapshotModel feeds a Snapshot of a range from a store, as a watch would, and knows what it has to answer.
type snapshotModel struct {
	*testStore
	span   span // of the snapshot
	snap   *Snapshot
	from   int64 // it was loaded at
	at     int64 // it has been told of everything up to
	forgot int64 // greatest revision given to Forget
	limit  int
	oldest int64 // as last seen
}

func TestSnapshotIsThePastOfItsStore(t *testing.T) {
	forSeeds(t, 20, func(t *testing.T, rnd *rand.Rand) {
		m := snapshotModel{testStore: newTestStore(t, rnd)}
		for range rnd.IntN(100) {
			m.write()
		}
		m.load()
		for step := range 250 {
			m.step()
			m.checkNumbers()
			if step%50 == 0 {
				m.checkAllViews()
			}
			for range 3 {
				m.checkAnswer()
			}
		}
		m.checkAllViews()
	})
}

// load makes the snapshot at the newest revision.
func (m *snapshotModel) load() {
	if m.span = (span{"\x00", "\x00"}); m.rnd.IntN(2) == 0 {
		m.span = m.testStore.span()
	}
	m.from, m.limit = m.rev(), m.rnd.IntN(200_000)
	l := NewLoader()
	for _, kv := range m.read(m.from, m.span) {
		if err := l.Add(mustMarshal(m.t, kv)); err != nil {
			m.t.Fatal(err)
		}
	}
	m.snap = l.Snapshot(m.from, m.limit)
	m.at, m.oldest = m.from, m.from
}

func (m *snapshotModel) step() {
	switch m.rnd.IntN(20) {
	case 0:
		m.forgot = max(m.forgot, m.at-m.rnd.Int64N(20)+5)
		m.snap.Forget(m.forgot)
	case 1:
		m.snap.Forget(m.forgot - m.rnd.Int64N(5)) // said already
	case 2:
		m.limit = m.rnd.IntN(200_000)
		if m.rnd.IntN(3) == 0 {
			m.limit = m.rnd.IntN(5000)
		}
		m.snap.SetHistoryBytes(m.limit)
	case 3:
		m.snap.Advance(m.at - m.rnd.Int64N(5)) // said already
	case 4: // what the snapshot has: before its newest change
		rev := m.snap.state.Load().newest().rev - m.rnd.Int64N(3)
		if err := m.snap.Apply(rev, []wire.Event{wire.NewDeleteEvent([]byte(m.span.key), rev)}); err != nil {
			m.t.Fatal(err)
		}
	default:
		var mine []wire.Event
		for _, e := range m.write() {
			if m.span.has(string(e.Key)) {
				mine = append(mine, e)
			}
		}
		if len(mine) == 0 && m.rnd.IntN(2) == 0 {
			return // who follows the range is not told at once
		}
		m.at = m.rev()
		if len(mine) == 0 {
			m.snap.Advance(m.at)
			return
		}
		if err := m.snap.Apply(m.at, mine); err != nil {
			m.t.Fatal(err)
		}
	}
}

func (m *snapshotModel) checkNumbers() {
	m.t.Helper()
	oldest := m.snap.Oldest()
	if m.snap.Revision() != m.at || oldest < max(m.oldest, m.from, m.forgot) {
		m.t.Fatalf("oldest %d, revision %d; want %d or later, and %d", oldest, m.snap.Revision(), max(m.oldest, m.from, m.forgot), m.at)
	}
	m.oldest = oldest
	if want := len(m.read(m.at, m.span)); m.snap.Keys() != want {
		m.t.Fatalf("%d keys at revision %d, want %d", m.snap.Keys(), m.at, want)
	}
	if n := m.snap.HistoryBytes(); n > m.limit || n < 0 {
		m.t.Fatalf("history of %d bytes, bound %d", n, m.limit)
	}
}

// view returns the state at rev, and checks that it is there exactly if it ought to be.
func (m *snapshotModel) view(rev int64) (View, bool) {
	m.t.Helper()
	v, ok := m.snap.View(rev)
	if want := rev <= 0 || m.oldest <= rev && rev <= m.at; ok != want {
		m.t.Fatalf("view at %d: %v, want %v; snapshot from %d to %d", rev, ok, want, m.oldest, m.at)
	}
	if want := max(rev, 0); ok && (want == 0 && v.Revision() != m.at || want > 0 && v.Revision() != want) {
		m.t.Fatalf("view at %d is of revision %d", rev, v.Revision())
	}
	return v, ok
}

// checkAllViews holds each revision's whole range against the store's.
func (m *snapshotModel) checkAllViews() {
	m.t.Helper()
	changed := map[int64][][]byte{}
	for rev := int64(-1); rev <= m.rev()+2; rev++ {
		v, ok := m.view(rev)
		if !ok {
			continue
		}
		kvs, count := v.Range([]byte{0}, []byte{0}, 0)
		m.checkKVs(kvs, m.read(v.Revision(), m.span))
		if count != int64(len(kvs)) {
			m.t.Fatalf("count %d of %d keys", count, len(kvs))
		}
		if v.Changed() > v.Revision() || v.Changed() < m.from {
			m.t.Fatalf("changed at %d, view of %d", v.Changed(), v.Revision())
		}
		if before, ok := changed[v.Changed()]; ok && !slices.EqualFunc(before, kvs, bytes.Equal) {
			m.t.Fatalf("two states with the change %d", v.Changed())
		}
		changed[v.Changed()] = kvs
	}
}

func (m *snapshotModel) checkKVs(got [][]byte, want []*mvccpb.KeyValue) {
	m.t.Helper()
	if len(got) != len(want) {
		m.t.Fatalf("%d KeyValues, want %d", len(got), len(want))
	}
	for i, kv := range want {
		if b := mustMarshal(m.t, kv); !bytes.Equal(got[i], b) {
			m.t.Fatalf("KeyValue %d is %x, want %x (%v)", i, got[i], b, kv)
		}
	}
}

// checkAnswer asks for a random range within the snapshot's, with random options, at a random revision.
func (m *snapshotModel) checkAnswer() {
	m.t.Helper()
	v, ok := m.view(m.oldest + m.rnd.Int64N(max(1, m.at-m.oldest+1)))
	if !ok || m.rnd.IntN(3) == 0 {
		v, _ = m.view(0)
	}
	asked := m.testStore.span()
	var there []*mvccpb.KeyValue
	for _, kv := range m.read(v.Revision(), asked) {
		if m.span.has(string(kv.Key)) {
			there = append(there, kv)
		}
	}
	limit := m.rnd.Int64N(6)
	kvs, count := v.Range([]byte(asked.key), []byte(asked.end), limit)
	wantKVs := there
	if limit > 0 {
		wantKVs = there[:min(len(there), int(limit))]
	}
	m.checkKVs(kvs, wantKVs)
	if count != int64(len(there)) {
		m.t.Fatalf("range %q at %d: count %d, want %d", asked, v.Revision(), count, len(there))
	}

	request := m.request(asked)
	var r wire.RangeRequest
	if err := r.Unmarshal(mustMarshal(m.t, request)); err != nil {
		m.t.Fatal(err)
	}
	got, err := v.Answer(&r)
	if err != nil {
		m.t.Fatal(err)
	}
	want := answer(request, there)
	if got.More != want.More || got.Count != want.Count {
		m.t.Fatalf("%v at %d: more %v, count %d; want %v, %d", request, v.Revision(), got.More, got.Count, want.More, want.Count)
	}
	m.checkKVs(got.KVs, want.Kvs)
}
