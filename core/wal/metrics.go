package wal

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are those of a Log. Names, units and buckets are etcd's (server/storage/wal/metrics.go, etcd 3.7). A batch is
// written with one write and one sync, and each is measured once: etcd measures the writes of single records.
type metrics struct {
	sync, write prometheus.Histogram
	bytes       prometheus.Gauge
}

func newMetrics() metrics {
	histogram := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		})
	}
	return metrics{
		sync:  histogram("etcd_disk_wal_fsync_duration_seconds", "How long it took to make a batch of the log durable, in seconds."),
		write: histogram("etcd_disk_wal_write_duration_seconds", "How long it took to write a batch of the log, in seconds."),
		bytes: prometheus.NewGauge(prometheus.GaugeOpts{Name: "etcd_disk_wal_write_bytes_total", Help: "Bytes written to the log."}),
	}
}

// wrote notes a batch that was written and synced.
func (m metrics) wrote(bytes int, write, sync time.Duration) {
	m.bytes.Add(float64(bytes))
	m.write.Observe(write.Seconds())
	m.sync.Observe(sync.Seconds())
}

func (m metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.sync, m.write, m.bytes}
}

// SyncTimes is the metric of how long it took to make a batch durable.
func (l *Log) SyncTimes() prometheus.Collector { return l.metrics.sync }

// Describe is part of prometheus.Collector.
func (l *Log) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range l.metrics.all() {
		c.Describe(ch)
	}
}

// Collect is part of prometheus.Collector. It may be called at any time, also after Close.
func (l *Log) Collect(ch chan<- prometheus.Metric) {
	for _, c := range l.metrics.all() {
		c.Collect(ch)
	}
}
