package load

import (
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// The longest latency that a histogram tells, and the shortest.
const (
	longest  = 2 * time.Minute
	shortest = time.Microsecond
)

// NewHistogram takes latencies in microseconds, with an error below 1 %. See Record.
func NewHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(shortest.Microseconds(), longest.Microseconds(), 2)
}

// Record adds a latency. One that is too long or too short to be told is the longest, or the shortest, that is.
func Record(h *hdrhistogram.Histogram, took time.Duration) {
	_ = h.RecordValue(min(max(took, shortest), longest).Microseconds()) // is within the bounds
}
