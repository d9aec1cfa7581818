package bench

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"weir/loadtest/load"
)

// tracks have the latencies of what came on a load's connections while it was measured.
type tracks struct {
	measuring atomic.Bool
	all       []*track
}

// track is of one connection.
type track struct {
	measuring *atomic.Bool

	mu      sync.Mutex              // guards latency
	latency *hdrhistogram.Histogram // in microseconds
}

// add adds a track, for the i-th connection. It must not be called concurrently.
func (t *tracks) add(int) load.Track {
	one := &track{measuring: &t.measuring, latency: load.NewHistogram()}
	t.all = append(t.all, one)
	return one
}

// reset forgets all latencies.
func (t *tracks) reset() {
	for _, one := range t.all {
		one.mu.Lock()
		one.latency.Reset()
		one.mu.Unlock()
	}
}

// latencies are those of all connections.
func (t *tracks) latencies() *hdrhistogram.Histogram {
	all := load.NewHistogram()
	for _, one := range t.all {
		one.mu.Lock()
		all.Merge(one.latency)
		one.mu.Unlock()
	}
	return all
}

// Done is an answer, now, to what was begun at a moment.
func (t *track) Done(begun time.Time, _ int) {
	if !t.measuring.Load() {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	load.Record(t.latency, time.Since(begun))
}
