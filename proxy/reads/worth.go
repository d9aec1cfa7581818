package reads

import (
	"math"
	"time"
)

// What ranges are worth is measured in microseconds of upstream's work. These are about what etcd takes for a read, with its
// transport, on one core.
const (
	getWork      = 80.0  // of any read
	bytesPerWork = 400.0 // of its answer, for each microsecond more
	eventWork    = 10.0  // of an event: upstream's to send, and the proxy's to apply
)

// work is what a read with an answer of so many bytes costs.
func work(bytes float64) float64 { return getWork + bytes/bytesPerWork }

// size is how much there is in a range.
type size struct {
	keys  float64
	bytes float64 // of encoded KeyValues
}

const (
	// usualKey is the size of a KeyValue of which nothing is known.
	usualKey = 512
	// keyMemory is about what a snapshot takes for each key besides the KeyValue.
	keyMemory = 48
	// memorable is how many keys are remembered in full; before that they count half, a quarter, and so on.
	memorable = 10_000
)

// learn adds what has been seen of a range, and lets what was seen long ago count less.
func (s *size) learn(seen size) {
	s.keys += seen.keys
	s.bytes += seen.bytes
	if s.keys > memorable {
		s.keys /= 2
		s.bytes /= 2
	}
}

// perKey is how large a KeyValue is.
func (s size) perKey() float64 {
	if s.keys == 0 {
		return usualKey
	}
	return max(1, s.bytes/s.keys)
}

// memory is about what a snapshot of it takes, in bytes.
func (s size) memory() int { return int(s.bytes + keyMemory*s.keys) }

// price is what it costs to load it, once to read and once more because all that is read is kept.
func (s size) price() float64 { return 2 * work(s.bytes) }

// decaying is a sum of which half is left after a while, which is the same in all calls.
type decaying struct {
	sum float64
	at  time.Time
}

func (d *decaying) add(now time.Time, x float64, half time.Duration) {
	d.sum, d.at = d.value(now, half)+x, now
}

func (d decaying) value(now time.Time, half time.Duration) float64 {
	if d.sum == 0 {
		return 0
	}
	return d.sum * math.Exp2(-float64(now.Sub(d.at))/float64(half))
}

// rate is how much comes in a second, if as much has come all the time.
func (d decaying) rate(now time.Time, half time.Duration) float64 {
	return d.value(now, half) * math.Ln2 / half.Seconds()
}
