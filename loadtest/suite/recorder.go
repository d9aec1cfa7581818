package suite

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"weir/loadtest/load"
	"weir/loadtest/report"
)

// Recorder counts what the clients of one turn are answered, and how long it took. It counts only between start and stop.
// Each goroutine that reports answers has a Track of its own, so that they do not wait for each other.
//
// What is under way at stop has not been answered, and with answers alone nobody would see a system that serves some clients and lets
// others wait. All loads wait for those answers too, so that Done learns of them. How long they were waited for until stop is a
// lower bound of their latency, and counts as one if it is above the 99th percentile of what was answered: below that it says
// nothing, as most of it is what any request has behind it. Who has waited since before start fails the turn: see starving.
// Rejected: the latencies of all that was begun between start and stop, to its end. Who waits since before start is not among it,
// and what comes after stop comes from servers that nobody loads any more.
type Recorder struct {
	on      atomic.Bool
	started time.Time                 // is set before on
	stopped atomic.Pointer[time.Time] // nil before stop

	mu               sync.Mutex // guards the fields below
	tracks           []*Track
	extra            map[string]float64
	due, independent int64 // as in report.Turn
}

// starving is how long nobody may wait who is given nothing between start and stop. Less may be one stall of a disk in a short turn.
const starving = time.Second

// Track is the part of a Recorder that belongs to one goroutine.
type Track struct {
	recorder *Recorder
	answered atomic.Int64            // all, whether they count or not
	latency  *hdrhistogram.Histogram // in microseconds
	bytes    int64
	waiting  []time.Duration // for how long, until stop, what was under way then
}

// Track returns a new track. Any goroutine may call it.
func (r *Recorder) Track() *Track {
	t := &Track{recorder: r, latency: load.NewHistogram()}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tracks = append(r.tracks, t)
	return t
}

// Extra sets a number that only this scenario has, by its name with unit. Any goroutine may call it.
func (r *Recorder) Extra(name string, value float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.extra == nil {
		r.extra = map[string]float64{}
	}
	r.extra[name] = value
}

// Due says that operations are due at a fixed rate, each of so many writes bringing about so many of them: see report.Turn. Any
// goroutine may call it.
func (r *Recorder) Due(writes, each int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.due, r.independent = writes*each, writes
}

// Independent says how many of the latencies are independent of each other, if not all are. Any goroutine may call it.
func (r *Recorder) Independent(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.independent = n
}

func (r *Recorder) start() {
	r.started = time.Now()
	r.on.Store(true)
}

func (r *Recorder) stop() {
	now := time.Now()
	r.stopped.Store(&now)
	r.on.Store(false)
}

// Window is from when to when it has counted. A Load may ask when it was told to stop; both are zero if the turn has failed before.
func (r *Recorder) Window() (from, until time.Time) {
	if stopped := r.stopped.Load(); stopped != nil {
		return r.started, *stopped
	}
	return time.Time{}, time.Time{}
}

// took is how long it counts.
func (r *Recorder) took() time.Duration {
	from, until := r.Window()
	return until.Sub(from)
}

// Measuring tells whether what is answered now counts.
func (r *Recorder) Measuring() bool { return r.on.Load() }

// Done counts an operation that was begun, or due, at a moment, and was answered now with so many bytes of values. An operation
// that was begun before the measuring counts too: as many are cut off at its end.
func (t *Track) Done(begun time.Time, bytes int) {
	t.answered.Add(1)
	if !t.recorder.on.Load() {
		if stopped := t.recorder.stopped.Load(); stopped != nil && begun.Before(*stopped) {
			t.waiting = append(t.waiting, stopped.Sub(begun))
		}
		return
	}
	load.Record(t.latency, time.Since(begun))
	t.bytes += int64(bytes)
}

// answered is how many operations were answered so far, whether they count or not.
func (r *Recorder) answered() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all int64
	for _, t := range r.tracks {
		all += t.answered.Load()
	}
	return all
}

// turn is what was counted. Nobody may have a track any more.
func (r *Recorder) turn() (report.Turn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := load.NewHistogram()
	t := report.Turn{Took: r.took(), Due: r.due, Independent: r.independent, Extra: r.extra}
	var waiting []time.Duration
	for _, track := range r.tracks {
		all.Merge(track.latency)
		t.Bytes += track.bytes
		waiting = append(waiting, track.waiting...)
	}
	if t.Operations = all.TotalCount(); t.Operations == 0 {
		return t, errors.New("nothing was answered in the time that was measured")
	}
	slow := time.Duration(all.ValueAtPercentile(99)) * time.Microsecond
	starved := 0
	for _, d := range waiting {
		if d > slow {
			load.Record(all, d)
		}
		if d > max(t.Took, starving) {
			starved++
		}
	}
	if starved > 0 {
		return t, fmt.Errorf("%d operations were waited for throughout the %v that were measured, one of them for %v, while %d others were "+
			"answered", starved, t.Took.Round(time.Millisecond), slices.Max(waiting).Round(time.Millisecond), t.Operations)
	}
	ms := func(percentile float64) float64 { return float64(all.ValueAtPercentile(percentile)) / 1e3 }
	t.Latency = report.Latency{P50: ms(50), P90: ms(90), P99: ms(99), P999: ms(99.9), Max: float64(all.Max()) / 1e3}
	for _, percentile := range []float64{1, 5, 10, 25, 50, 75, 90, 95, 99, 99.5, 99.9, 99.95, 99.99, 100} {
		t.Latency.Curve = append(t.Latency.Curve, report.Point{X: percentile, Y: ms(percentile)})
	}
	return t, nil
}
