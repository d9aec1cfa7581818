package wal

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/raft/v3/raftpb"
)

func TestEachBatchIsMeasured(t *testing.T) {
	l, _ := newLog(t)
	const batches = 3
	for i := range uint64(batches) {
		durable := make(chan error, 1)
		l.Append(nil, []*raftpb.Entry{entry(1, i+1, "v")}, func(err error) { durable <- err })
		if err := <-durable; err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(l)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		m := f.GetMetric()[0]
		got[f.GetName()] = m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
	}
	for _, name := range []string{"etcd_disk_wal_fsync_duration_seconds", "etcd_disk_wal_write_duration_seconds"} {
		if got[name] != batches {
			t.Errorf("%s: got %v, want %v", name, got[name], batches)
		}
	}
	if bytes := got["etcd_disk_wal_write_bytes_total"]; bytes < batches*sectorSize {
		t.Errorf("got %v bytes, want a sector or more for each batch", bytes)
	}
}
