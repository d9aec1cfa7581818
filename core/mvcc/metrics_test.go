package mvcc

import (
	"io"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// gather returns what s has, by name; of a histogram, how many it has counted.
func gather(t *testing.T, s *Store) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(s)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			values[f.GetName()] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return values
}

func expect(t *testing.T, s *Store, want map[string]float64) {
	t.Helper()
	got := gather(t, s)
	for name, v := range want {
		if have, ok := got[name]; !ok || have != v {
			t.Errorf("%s: got %v (there: %v), want %v", name, have, ok, v)
		}
	}
}

func TestOperationsAreCountedAsEtcdCountsThem(t *testing.T) {
	s := openTemp(t, manual())
	e := s.Begin(2, 1)
	tx := e.Txn() // one operation is no transaction
	tx.Put([]byte("a"), []byte("12"), 0)
	tx.Commit()
	tx = e.Txn()
	tx.Put([]byte("b"), []byte("345"), 0)
	tx.Put([]byte("c"), nil, 0)
	if _, err := tx.Range([]byte("a"), nil, RangeOptions{}); err != nil {
		t.Fatal(err)
	}
	tx.Commit()
	tx = e.Txn()
	tx.DeleteRange([]byte("b"), []byte("z")) // two keys
	tx.Commit()
	tx = e.Txn()
	tx.Put([]byte("b"), []byte("again"), 0)
	tx.Commit()
	e.End()
	if _, err := s.Range([]byte("a"), nil, RangeOptions{}); err != nil {
		t.Fatal(err)
	}
	v := s.View()
	for range 2 {
		if _, err := v.Range([]byte("a"), nil, RangeOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	v.Close()
	expect(t, s, map[string]float64{
		"etcd_mvcc_put_total":                         4,
		"etcd_mvcc_delete_total":                      1,
		"etcd_mvcc_range_total":                       4,
		"etcd_mvcc_txn_total":                         2,
		"etcd_debugging_mvcc_total_put_size_in_bytes": 3 + 4 + 1 + 6,
		"etcd_debugging_mvcc_keys_total":              2,
		"etcd_debugging_mvcc_current_revision":        5,
		"etcd_debugging_mvcc_compact_revision":        -1,
	})
}

func TestKeysAreCountedAnewWhenTheStoreIsOpened(t *testing.T) {
	path := t.TempDir() + "/db"
	s := mustOpen(t, path, manual())
	e := s.Begin(2, 1)
	for _, key := range []string{"a", "b", "c"} {
		tx := e.Txn()
		tx.Put([]byte(key), nil, 0)
		tx.Commit()
	}
	tx := e.Txn()
	tx.DeleteRange([]byte("b"), nil)
	tx.Commit()
	e.End()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	expect(t, s, map[string]float64{"etcd_debugging_mvcc_keys_total": 2}) // after Close too
	s = mustOpen(t, path, manual())
	defer s.Close()
	expect(t, s, map[string]float64{"etcd_debugging_mvcc_keys_total": 2, "etcd_mvcc_put_total": 0})
}

func TestWorkOnTheFileIsMeasured(t *testing.T) {
	s := openTemp(t, manual())
	expect(t, s, map[string]float64{"etcd_disk_backend_commit_duration_seconds": 0, "etcd_mvcc_db_open_read_transactions": 1})
	e := s.Begin(2, 1)
	for range 5 {
		tx := e.Txn()
		tx.Put([]byte("a"), make([]byte, 1000), 0)
		tx.Commit()
	}
	e.End()
	if err := s.Commit(); err != nil {
		t.Fatal(err)
	}
	expect(t, s, map[string]float64{
		"etcd_disk_backend_commit_duration_seconds":                     1,
		"etcd_debugging_disk_backend_commit_spill_duration_seconds":     1,
		"etcd_debugging_disk_backend_commit_write_duration_seconds":     1,
		"etcd_debugging_disk_backend_commit_rebalance_duration_seconds": 1,
		"etcd_mvcc_db_total_size_in_bytes":                              float64(s.Size()),
		"etcd_mvcc_db_total_size_in_use_in_bytes":                       float64(s.SizeInUse()),
	})

	e = s.Begin(3, 1)
	done, err := e.Compact(5)
	if err != nil {
		t.Fatal(err)
	}
	e.End()
	<-done
	if _, _, err := s.HashKV(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Hash(); err != nil {
		t.Fatal(err)
	}
	if err := s.Defragment(); err != nil {
		t.Fatal(err)
	}
	snapshot, err := s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := snapshot.WriteTo(io.Discard); err != nil {
		t.Fatal(err)
	}
	if err := snapshot.Close(); err != nil {
		t.Fatal(err)
	}
	expect(t, s, map[string]float64{
		"etcd_debugging_mvcc_compact_revision":                             5,
		"etcd_debugging_mvcc_db_compaction_keys_total":                     3,
		"etcd_debugging_mvcc_db_compaction_total_duration_milliseconds":    1,
		"etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds": 1,
		"etcd_mvcc_hash_duration_seconds":                                  1,
		"etcd_mvcc_hash_rev_duration_seconds":                              1,
		"etcd_disk_backend_defrag_duration_seconds":                        1,
		"etcd_disk_defrag_inflight":                                        0,
		"etcd_disk_backend_snapshot_duration_seconds":                      1,
	})
	got := gather(t, s)
	if got["etcd_debugging_mvcc_db_compaction_last"] == 0 || got["etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds"] == 0 {
		t.Errorf("got %v, want the time and the steps of the compaction", got)
	}
}
