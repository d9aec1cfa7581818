package core

import (
	"math/bits"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// operation is what durations are told apart by: a kind of request in the log, or a read.
type operation byte

const (
	opUnknown operation = 0
	opRange   operation = 62 // what is not in the log
	opReadTxn operation = 63

	operations = 64
)

// operationNames are those of etcd's metrics.
var operationNames = [operations]string{
	opUnknown: "Unknown",
	opRange:   "Range",
	opReadTxn: "ReadonlyTxn",

	kindPut:                  "Put",
	kindDeleteRange:          "DeleteRange",
	kindTxn:                  "Txn",
	kindCompact:              "Compaction",
	kindLeaseGrant:           "LeaseGrant",
	kindLeaseRevoke:          "LeaseRevoke",
	kindLeaseCheckpoint:      "LeaseCheckpoint",
	kindAlarm:                "Alarm",
	kindAuthEnable:           "AuthEnable",
	kindAuthDisable:          "AuthDisable",
	kindAuthenticate:         "Authenticate",
	kindUserAdd:              "AuthUserAdd",
	kindUserDelete:           "AuthUserDelete",
	kindUserChangePassword:   "AuthUserChangePassword",
	kindUserGrantRole:        "AuthUserGrantRole",
	kindUserRevokeRole:       "AuthUserRevokeRole",
	kindRoleAdd:              "AuthRoleAdd",
	kindRoleDelete:           "AuthRoleDelete",
	kindRoleGrantPermission:  "AuthRoleGrantPermission",
	kindRoleRevokePermission: "AuthRoleRevokePermission",
	kindClusterVersion:       "ClusterVersionSet",
	kindDowngrade:            "DowngradeInfoSet",
	kindMemberAttr:           "ClusterMemberAttrSet",
}

func (k kind) operation() operation {
	switch {
	case k == kindLeaseExpire:
		return operation(kindLeaseRevoke)
	case k >= operations || operationNames[k] == "":
		return opUnknown
	}
	return operation(k)
}

// durations are histograms of how long operations took: one for each operation and outcome that there has been. As at
// etcd there is none of what never happened.
//
// It is not a prometheus.HistogramVec, because that looks a histogram up by its labels every time, and because one
// measured read counts for several; see readTimer. All methods may be called concurrently and take no lock.
type durations struct {
	desc   *prometheus.Desc
	labels func(o operation, success bool) []string // values, as desc has the names
	first  time.Duration                            // upper bound of the first bucket; that of each next one is twice as high
	bounds []float64                                // of all buckets but the last one, in seconds
	made   [operations][2]atomic.Pointer[histogram] // the second of a pair is of successes
}

// newDurations has etcd's buckets: the first is of what took at most that long.
func newDurations(name, help string, first time.Duration, buckets int, labelNames []string, labels func(operation, bool) []string) *durations {
	return &durations{
		desc: prometheus.NewDesc(name, help, labelNames, nil), labels: labels,
		first: first, bounds: prometheus.ExponentialBuckets(first.Seconds(), 2, buckets),
	}
}

// observe notes that count operations took this long each.
func (d *durations) observe(o operation, success bool, took time.Duration, count int) {
	of := &d.made[o][0]
	if success {
		of = &d.made[o][1]
	}
	h := of.Load()
	if h == nil {
		of.CompareAndSwap(nil, &histogram{counts: make([]atomic.Uint64, len(d.bounds)+1)})
		h = of.Load()
	}
	bucket := bits.Len64(uint64(max(took-1, 0) / d.first))
	h.counts[min(bucket, len(d.bounds))].Add(uint64(count))
	h.nanoseconds.Add(int64(took) * int64(count))
}

func (d *durations) collect(ch chan<- prometheus.Metric) {
	for o := range operation(operations) {
		for i := range d.made[o] {
			if h := d.made[o][i].Load(); h != nil {
				total, upTo := h.sums(d.bounds)
				sum := time.Duration(h.nanoseconds.Load()).Seconds()
				ch <- prometheus.MustNewConstHistogram(d.desc, total, sum, upTo, d.labels(o, i == 1)...)
			}
		}
	}
}

// histogram counts durations.
type histogram struct {
	counts      []atomic.Uint64 // by bucket; the last one has no bound
	nanoseconds atomic.Int64    // of all together
}

// sums returns how many durations there are, and how many of them are up to each bound.
func (h *histogram) sums(bounds []float64) (total uint64, upTo map[float64]uint64) {
	upTo = make(map[float64]uint64, len(bounds))
	for i, bound := range bounds {
		total += h.counts[i].Load()
		upTo[bound] = total
	}
	return total + h.counts[len(bounds)].Load(), upTo
}

// stopwatch tells the time since it was made, for half of what time.Now costs, which reads the clock of the wall too.
type stopwatch struct{ made time.Time }

func newStopwatch() stopwatch { return stopwatch{time.Now()} }

func (s stopwatch) now() time.Duration { return time.Since(s.made) }

// readTimer measures reads: each of the first measuredFirst, and then one of measuredEach, which counts for all of these.
// To measure every read would cost it three looks at the clock, 100 ns or more, a tenth of what it takes; this way it is
// one atomic add.
type readTimer struct {
	begun  atomic.Uint64
	clock  stopwatch
	reads  operation
	whole  *durations // waiting included
	answer *durations // of the store alone; nil if answering is never called
}

const (
	measuredFirst = 64
	measuredEach  = 32
)

// readTime is one read. The zero value is a read that is not measured.
type readTime struct {
	timer         *readTimer
	count         int // of reads that it stands for
	start, waited time.Duration
}

func (t *readTimer) begin() readTime {
	n := t.begun.Add(1)
	switch {
	case n <= measuredFirst:
		return readTime{timer: t, count: 1, start: t.clock.now()}
	case n%measuredEach == 0:
		return readTime{timer: t, count: measuredEach, start: t.clock.now()}
	}
	return readTime{}
}

// answering notes that the read has waited for what it had to, and that the store is asked now.
func (r *readTime) answering() {
	if r.timer != nil {
		r.waited = r.timer.clock.now()
	}
}

// end notes that the read is over.
func (r *readTime) end(err error) {
	if r.timer == nil {
		return
	}
	now := r.timer.clock.now()
	r.timer.whole.observe(r.timer.reads, err == nil, now-r.start, r.count)
	if r.waited > 0 {
		r.timer.answer.observe(r.timer.reads, err == nil, now-r.waited, r.count)
	}
}

func successLabel(success bool) string { return strconv.FormatBool(success) }
