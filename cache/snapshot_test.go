package cache

import (
	"fmt"
	"testing"

	"weir/grpcapi/wire"
)

func loadKVs(t testing.TB, rev int64, historyBytes int, kvs ...encoded) *Snapshot {
	t.Helper()
	l := NewLoader()
	for _, kv := range kvs {
		if err := l.Add(kv.bytes()); err != nil {
			t.Fatal(err)
		}
	}
	return l.Snapshot(rev, historyBytes)
}

func mustPut(t testing.TB, key, value string, rev int64) wire.Event {
	t.Helper()
	kv := wire.KeyValue{Key: []byte(key), Value: []byte(value), CreateRevision: 1, ModRevision: rev, Version: 2}
	e, err := wire.NewPutEvent(kv.Append(nil))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func mustApply(t testing.TB, s *Snapshot, rev int64, events ...wire.Event) {
	t.Helper()
	if err := s.Apply(rev, events); err != nil {
		t.Fatal(err)
	}
}

// values returns what is in a view, as key=value.
func values(t testing.TB, v View) (out string) {
	t.Helper()
	kvs, _ := v.Range([]byte{0}, []byte{0}, 0)
	for _, b := range kvs {
		var kv wire.KeyValue
		if err := kv.Unmarshal(b); err != nil {
			t.Fatal(err)
		}
		out += fmt.Sprintf("%s=%s ", kv.Key, kv.Value)
	}
	return out
}

// checkValues checks what is in the view at a revision; "none" if there is to be no view.
func checkValues(t testing.TB, s *Snapshot, rev int64, want string) {
	t.Helper()
	got := "none"
	if v, ok := s.View(rev); ok {
		got = values(t, v)
	}
	if got != want {
		t.Errorf("at revision %d: %q, want %q", rev, got, want)
	}
}

func TestRefusedEventsChangeNothing(t *testing.T) {
	s := loadKVs(t, 10, 1<<20, testKV("a", 1))
	s.Advance(12)
	good := mustPut(t, "a", "x", 13)
	malformed := mustPut(t, "b", "y", 13)
	malformed.Data = malformed.Data[:len(malformed.Data)-1]
	for _, c := range []struct {
		name   string
		rev    int64
		events []wire.Event
		want   string
	}{
		{"malformed", 13, []wire.Event{good, malformed}, `apply revision 13: event of key "b": KeyValue without a key`},
		{"other revision", 14, []wire.Event{good}, `apply revision 14: event of key "a" has revision 13`},
		{
			"advanced already", 12, []wire.Event{mustPut(t, "a", "x", 12)},
			"apply revision 12 to a snapshot that is at 12",
		},
	} {
		if err := s.Apply(c.rev, c.events); err == nil || err.Error() != c.want {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
		if s.Revision() != 12 || s.HistoryBytes() != 0 {
			t.Errorf("%s: at revision %d with %d bytes of history", c.name, s.Revision(), s.HistoryBytes())
		}
		checkValues(t, s, 0, "a=1 ")
	}
	mustApply(t, s, 13, good)
	checkValues(t, s, 12, "a=1 ")
	checkValues(t, s, 13, "a=x ")
}

func TestLastEventOfAKeyInARevisionCounts(t *testing.T) {
	s := loadKVs(t, 10, 1<<20, testKV("a", 1), testKV("b", 2))
	mustApply(t, s, 11, wire.NewDeleteEvent([]byte("b"), 11), mustPut(t, "a", "x", 11), mustPut(t, "b", "y", 11))
	checkValues(t, s, 11, "a=x b=y ")
	mustApply(t, s, 12, mustPut(t, "c", "z", 12), wire.NewDeleteEvent([]byte("a"), 12), wire.NewDeleteEvent([]byte("c"), 12))
	checkValues(t, s, 12, "b=y ")
	checkValues(t, s, 10, "a=1 b=2 ")
}

func TestRevisionWithoutEventsAdvances(t *testing.T) {
	s := loadKVs(t, 10, 1<<20, testKV("a", 1))
	mustApply(t, s, 12)
	mustApply(t, s, 11)
	v, _ := s.View(0)
	if s.Revision() != 12 || v.Revision() != 12 || v.Changed() != 10 {
		t.Errorf("revision %d, view of %d, changed %d", s.Revision(), v.Revision(), v.Changed())
	}
}

func TestSnapshotKeepsItsOwnMemory(t *testing.T) {
	s := loadKVs(t, 10, 1<<20, testKV("a", 1), testKV("b", 1))
	put, del := mustPut(t, "c", "x", 11), wire.NewDeleteEvent([]byte("b"), 11)
	mustApply(t, s, 11, put, del)
	clear(put.Data)
	clear(del.Data)
	checkValues(t, s, 11, "a=1 c=x ")
}

func TestCompactionEndsReadsBelowItsRevision(t *testing.T) {
	s := loadKVs(t, 10, 1<<20, testKV("a", 1))
	for rev := int64(12); rev <= 18; rev += 2 {
		mustApply(t, s, rev, mustPut(t, "a", fmt.Sprint(rev), rev))
	}
	s.Forget(15)
	checkValues(t, s, 13, "none")
	checkValues(t, s, 14, "none")
	checkValues(t, s, 15, "a=14 ")
	checkValues(t, s, 16, "a=16 ")
	if s.Oldest() != 15 {
		t.Errorf("oldest %d, want 15", s.Oldest())
	}

	s.Forget(18)
	if s.HistoryBytes() != 0 {
		t.Errorf("%d bytes of history that nobody may read", s.HistoryBytes())
	}

	// Further than the snapshot has come: only the newest state may be read, until it has caught up.
	s.Forget(21)
	checkValues(t, s, 18, "none")
	checkValues(t, s, 0, "a=18 ")
	mustApply(t, s, 20, mustPut(t, "a", "20", 20))
	checkValues(t, s, 20, "none")
	checkValues(t, s, 0, "a=20 ")
	mustApply(t, s, 22, mustPut(t, "a", "22", 22))
	checkValues(t, s, 20, "none")
	checkValues(t, s, 21, "a=20 ")
	checkValues(t, s, 22, "a=22 ")
}

func TestHistoryStaysWithinItsBytes(t *testing.T) {
	s := loadKVs(t, 1, 1<<40, testKV("a", 1))
	for rev := int64(2); rev <= 100; rev++ {
		mustApply(t, s, rev, mustPut(t, "a", "x", rev))
	}
	if s.Oldest() != 1 {
		t.Fatalf("oldest %d although there is room", s.Oldest())
	}
	all := s.HistoryBytes()
	s.SetHistoryBytes(all)
	if s.Oldest() != 1 || s.HistoryBytes() != all {
		t.Errorf("oldest %d with room for exactly what is there", s.Oldest())
	}
	s.SetHistoryBytes(all / 2)
	if n := s.HistoryBytes(); n > all/2-all/16 || n < all/3 || s.Oldest() < 50 || s.Oldest() > 70 {
		t.Errorf("%d bytes since revision %d; %d bytes are allowed", n, s.Oldest(), all/2)
	}
	s.SetHistoryBytes(0)
	if s.HistoryBytes() != 0 || s.Oldest() != 100 {
		t.Errorf("%d bytes since revision %d; none is allowed", s.HistoryBytes(), s.Oldest())
	}
	mustApply(t, s, 101, mustPut(t, "a", "x", 101))
	if s.HistoryBytes() != 0 || s.Oldest() != 101 {
		t.Errorf("%d bytes since revision %d; none is allowed", s.HistoryBytes(), s.Oldest())
	}
}

func TestViewOutlivesItsSnapshotsHistory(t *testing.T) {
	s := loadKVs(t, 1, 1<<20, testKV("a", 1))
	mustApply(t, s, 2, mustPut(t, "a", "x", 2))
	v, _ := s.View(1)
	s.Forget(2)
	s.SetHistoryBytes(0)
	mustApply(t, s, 3, wire.NewDeleteEvent([]byte("a"), 3))
	if got := values(t, v); got != "a=1 " || v.Revision() != 1 {
		t.Errorf("view of revision %d is now %q", v.Revision(), got)
	}
}

func TestGivenKeyValuesCannotBeAppendedTo(t *testing.T) {
	s := loadKVs(t, 1, 0, testKV("a", 1), testKV("b", 2))
	v, _ := s.View(0)
	kvs, _ := v.Range([]byte{0}, []byte{0}, 0)
	for _, kv := range kvs {
		if len(kv) != cap(kv) {
			t.Errorf("%d bytes with room for %d", len(kv), cap(kv))
		}
	}
}

func TestPlainGetAllocatesOnce(t *testing.T) {
	s := loadBench(t, 1000, 0)
	r := wire.RangeRequest{Key: benchKey(500)}
	n := testing.AllocsPerRun(100, func() {
		v, _ := s.View(0)
		if a, err := v.Answer(&r); err != nil || len(a.KVs) != 1 {
			t.Fatal(a, err)
		}
	})
	if n > 1 {
		t.Errorf("%v allocations", n)
	}
}

func TestAnswerRefusesWhatIsNoOrder(t *testing.T) {
	s := loadKVs(t, 1, 0, testKV("a", 1))
	v, _ := s.View(0)
	for _, r := range []wire.RangeRequest{{Key: []byte("a"), SortOrder: 3}, {Key: []byte("a"), SortTarget: 5, CountOnly: true}} {
		if a, err := v.Answer(&r); err == nil || a.KVs != nil || a.Count != 0 {
			t.Errorf("order %d, target %d: %v, error %v", r.SortOrder, r.SortTarget, a, err)
		}
	}
}
