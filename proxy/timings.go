package proxy

import (
	"math/bits"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// timings are how long a member took to answer in about the last minute, and how often it did not. The zero value has none.
//
// Counted is how many calls took how long, in steps of an eighth and less, for a few seconds at a time: however many calls there
// are, all of the minute count, in a few KiB. Rejected: the latest few hundred calls. Of a busy member they are those of
// a moment, in which what is slow now and then does not happen.
type timings struct {
	mu       sync.Mutex // guards the fields below
	spells   [timingSpells]spell
	answered uint64
	failed   uint64
}

// spell is the calls that ended in one spellLength.
type spell struct {
	number int64 // of spellLengths
	took   [timingSteps]uint32
}

const (
	spellLength  = 10 * time.Second
	timingSpells = 6

	// Steps begin at a microsecond or so, and double every 1<<subSteps of them: the last is more than a minute.
	subSteps    = 3
	lowestBit   = 10 // of nanoseconds
	timingSteps = (37 - lowestBit) << subSteps
)

// add notes a call that has ended with err.
func (t *timings) add(began, ended time.Time, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch status.Code(err) {
	case codes.Canceled: // by who called: it says nothing of the member
		return
	case codes.Unavailable, codes.DeadlineExceeded, codes.Internal, codes.Unknown: // the connection's, or of who cannot do anything
		t.failed++
		return
	}
	t.answered++
	n := spellNumber(ended)
	s := &t.spells[n%timingSpells]
	if s.number != n {
		*s = spell{number: n}
	}
	s.took[stepOf(ended.Sub(began))]++
}

func spellNumber(at time.Time) int64 { return at.UnixNano() / int64(spellLength) }

// stepOf is the step in which a call counts that took so long.
func stepOf(took time.Duration) int {
	ns := uint64(max(took, 1<<lowestBit))
	top := bits.Len64(ns) - 1
	sub := ns >> (top - subSteps) & (1<<subSteps - 1)
	return min((top-lowestBit)<<subSteps+int(sub), timingSteps-1)
}

// middle is how long calls take that count in a step, about.
func middle(step int) time.Duration {
	top := lowestBit + step>>subSteps
	width := time.Duration(1) << (top - subSteps)
	return 1<<top + time.Duration(step&(1<<subSteps-1))*width + width/2
}

// quantiles are the median and the 99th percentile of the last minute before now; 0 if there is nothing to tell from.
func (t *timings) quantiles(now time.Time) (median, p99 time.Duration) {
	var took [timingSteps]uint64
	all, n := uint64(0), spellNumber(now)
	t.mu.Lock()
	for i := range t.spells {
		if s := &t.spells[i]; s.number <= n-timingSpells || s.number > n {
			continue
		}
		for step, count := range t.spells[i].took {
			took[step] += uint64(count)
			all += uint64(count)
		}
	}
	t.mu.Unlock()
	seen := uint64(0)
	for step, count := range took {
		seen += count
		if median == 0 && seen > all/2 {
			median = middle(step)
		}
		if count > 0 && seen > all*99/100 {
			return median, middle(step)
		}
	}
	return 0, 0
}

// counts are how many calls were answered, and how many not.
func (t *timings) counts() (answered, failed uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.answered, t.failed
}
