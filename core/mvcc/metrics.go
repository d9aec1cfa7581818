package mvcc

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	bolt "go.etcd.io/bbolt"
)

// metrics are those of a Store. Names, units and buckets are etcd's (server/storage/mvcc/metrics.go and
// server/storage/backend/metrics.go, etcd 3.7), and so is what is counted, unless it is said.
//
// A read or write adds to one or two counters when it ends, each with one atomic add.
type metrics struct {
	// Operations, those of transactions too. A txn is a transaction of several operations.
	ranges, puts, deletes, txns prometheus.Counter
	putBytes                    prometheus.Gauge // of keys and values
	keys                        prometheus.Gauge // that have a value now

	commit, rebalance, spill, write prometheus.Histogram // of one transaction of bbolt, and its parts
	defrag, snapshot                prometheus.Histogram
	defragmenting                   prometheus.Gauge
	hash, hashRev                   prometheus.Histogram // Hash, HashKV

	compaction      prometheus.Histogram // of a whole one, in the file
	compactionPause prometheus.Histogram // of its steps, while no other commit is possible
	indexPause      prometheus.Histogram // of its steps in the index, while the writer waits
	compacted       prometheus.Counter   // revisions deleted
	lastCompaction  prometheus.Gauge     // when it ended; 0 if none has since the start

	all []prometheus.Collector
}

func newMetrics(s *Store) *metrics {
	m := &metrics{}
	counter := func(c *prometheus.Counter, name, help string) {
		*c = prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		m.all = append(m.all, *c)
	}
	gauge := func(g *prometheus.Gauge, name, help string) {
		*g = prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
		m.all = append(m.all, *g)
	}
	// Buckets begin at first, and each is twice as wide as the one before it.
	histogram := func(h *prometheus.Histogram, name, help string, first float64, buckets int) {
		*h = prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: name, Help: help, Buckets: prometheus.ExponentialBuckets(first, 2, buckets),
		})
		m.all = append(m.all, *h)
	}
	value := func(name, help string, get func() int64) {
		m.all = append(m.all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(get()) }))
	}

	counter(&m.ranges, "etcd_mvcc_range_total", "Ranges read on this member.")
	counter(&m.puts, "etcd_mvcc_put_total", "Puts applied on this member.")
	counter(&m.deletes, "etcd_mvcc_delete_total", "Deletions of ranges applied on this member.")
	counter(&m.txns, "etcd_mvcc_txn_total", "Transactions of more than one operation on this member.")
	gauge(&m.putBytes, "etcd_debugging_mvcc_total_put_size_in_bytes", "Bytes of the keys and values put on this member.")
	gauge(&m.keys, "etcd_debugging_mvcc_keys_total", "Keys in the store.")
	value("etcd_debugging_mvcc_current_revision", "Newest revision of the store.", s.Revision)
	value("etcd_debugging_mvcc_compact_revision", "Revision of the last compaction.", s.CompactRevision)

	value("etcd_mvcc_db_total_size_in_bytes", "Bytes of the store's file.", s.Size)
	value("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the store's file that are in use: what defragmentation would leave.", s.SizeInUse)
	value("etcd_mvcc_db_open_read_transactions", "Read transactions of bbolt that are open. Many readers share one.", s.openReads)

	histogram(&m.commit, "etcd_disk_backend_commit_duration_seconds", "How long bbolt took to commit, in seconds.", 0.001, 14)
	histogram(&m.rebalance, "etcd_debugging_disk_backend_commit_rebalance_duration_seconds", "How long a commit took to rebalance pages, in seconds.", 0.001, 14)
	histogram(&m.spill, "etcd_debugging_disk_backend_commit_spill_duration_seconds", "How long a commit took to spill pages, in seconds.", 0.001, 14)
	histogram(&m.write, "etcd_debugging_disk_backend_commit_write_duration_seconds", "How long a commit took to write to the disk, in seconds.", 0.001, 14)
	histogram(&m.defrag, "etcd_disk_backend_defrag_duration_seconds", "How long defragmentations took, in seconds.", 0.1, 13)
	gauge(&m.defragmenting, "etcd_disk_defrag_inflight", "Whether the store is being defragmented: 1 if so, else 0.")
	histogram(&m.snapshot, "etcd_disk_backend_snapshot_duration_seconds", "How long snapshots took to be sent, in seconds.", 0.01, 17)
	histogram(&m.hash, "etcd_mvcc_hash_duration_seconds", "How long hashing the whole store took, in seconds.", 0.01, 15)
	histogram(&m.hashRev, "etcd_mvcc_hash_rev_duration_seconds", "How long hashing the store at a revision took, in seconds.", 0.01, 15)

	histogram(&m.compaction, "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", "How long compactions took in the file, in milliseconds.", 100, 14)
	histogram(&m.compactionPause, "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds", "How long the steps of compactions in the file took, in milliseconds.", 1, 13)
	histogram(&m.indexPause, "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds", "How long the steps of compactions in the index took, in milliseconds.", 0.5, 14)
	counter(&m.compacted, "etcd_debugging_mvcc_db_compaction_keys_total", "Revisions that compactions have deleted.")
	gauge(&m.lastCompaction, "etcd_debugging_mvcc_db_compaction_last", "Unix time at which the last compaction ended; 0 if none has since the start.")
	return m
}

// Describe is part of prometheus.Collector.
func (s *Store) Describe(ch chan<- *prometheus.Desc) {
	for _, c := range s.metrics.all {
		c.Describe(ch)
	}
}

// Collect is part of prometheus.Collector. It may be called at any time, also after Close.
func (s *Store) Collect(ch chan<- prometheus.Metric) {
	for _, c := range s.metrics.all {
		c.Collect(ch)
	}
}

// openReads is how many read transactions bbolt has open.
func (s *Store) openReads() int64 {
	tx := s.state.Load().tx
	if tx == nil || !tx.acquire() {
		return 0 // it is being replaced
	}
	defer tx.release()
	return int64(tx.tx.DB().Stats().OpenTxN)
}

// transaction counts what one transaction has done.
func (m *metrics) transaction(ranges, puts, deletes, putBytes int) {
	add := func(c prometheus.Counter, n int) {
		if n > 0 {
			c.Add(float64(n))
		}
	}
	add(m.ranges, ranges)
	add(m.puts, puts)
	add(m.deletes, deletes)
	if puts > 0 {
		m.putBytes.Add(float64(putBytes))
	}
	if ranges+puts+deletes > 1 {
		m.txns.Inc()
	}
}

// committed notes a commit of bbolt that began at start.
func (m *metrics) committed(start time.Time, stats bolt.TxStats) {
	m.commit.Observe(time.Since(start).Seconds())
	m.rebalance.Observe(stats.GetRebalanceTime().Seconds())
	m.spill.Observe(stats.GetSpillTime().Seconds())
	m.write.Observe(stats.GetWriteTime().Seconds())
}

func milliseconds(since time.Time) float64 {
	return float64(time.Since(since)) / float64(time.Millisecond)
}
