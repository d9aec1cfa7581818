package statuspage

import (
	"math"
	"strconv"
	"sync"
	"time"
)

// Chart is a few lines over the last hour.
type Chart struct {
	ID    string // of the element: letters only
	Title string
	Unit  Unit
	Lines []Line
}

// Line is one number over time.
type Line struct {
	Name  string
	Grows bool // it is a counter, and how fast it grows is shown, per second
}

// Unit is what the numbers of a chart are.
type Unit string

// The units.
const (
	Number    Unit = ""
	PerSecond Unit = "/s"
	Seconds   Unit = "s"
	ByteCount Unit = "B"
	Percent   Unit = "%"
)

const (
	// samplePeriod apart are the samples, of which there are those of an hour.
	samplePeriod = 5 * time.Second
	maxSamples   = int(time.Hour / samplePeriod)
)

// history has the samples of the last hour, the oldest of which the newest replaces: 8 bytes for each line, 60 KiB for ten.
// All methods may be called concurrently.
type history struct {
	grows []bool // of all lines of all charts

	mu      sync.Mutex // guards the fields below
	samples [][]float64
	next    int       // the place of the next
	before  []float64 // what was measured for the newest
	at      time.Time // when
}

func newHistory(charts []Chart) *history {
	h := &history{}
	for _, c := range charts {
		for _, l := range c.Lines {
			h.grows = append(h.grows, l.Grows)
		}
	}
	return h
}

// add makes a sample of what was measured: NaN is not known, and so is how fast a counter grows that has started anew.
func (h *history) add(now time.Time, measured []float64) (sample []float64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	sample = make([]float64, len(h.grows))
	for i, grows := range h.grows {
		switch {
		case !grows:
			sample[i] = measured[i]
		case h.before == nil || measured[i] < h.before[i]:
			sample[i] = math.NaN()
		default:
			sample[i] = (measured[i] - h.before[i]) / now.Sub(h.at).Seconds()
		}
	}
	h.before, h.at = append(h.before[:0], measured...), now
	if len(h.samples) < maxSamples {
		h.samples = append(h.samples, sample)
	} else {
		h.samples[h.next] = sample
	}
	h.next = (h.next + 1) % maxSamples
	return sample
}

// json is all samples, the oldest first.
func (h *history) json() []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := []byte{'['}
	first := 0
	if len(h.samples) == maxSamples {
		first = h.next
	}
	for i := range h.samples {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendSample(b, h.samples[(first+i)%len(h.samples)])
	}
	return append(b, ']')
}

// appendSample is a sample as JSON, which has no NaN.
func appendSample(b []byte, sample []float64) []byte {
	b = append(b, '[')
	for i, v := range sample {
		if i > 0 {
			b = append(b, ',')
		}
		if math.IsNaN(v) || math.IsInf(v, 0) {
			b = append(b, "null"...)
		} else {
			b = strconv.AppendFloat(b, v, 'g', 5, 64)
		}
	}
	return append(b, ']')
}
