package proxy

import (
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// timings are how long a member took to answer of late, and how often it did not. The zero value has none.
type timings struct {
	mu       sync.Mutex // guards the fields below
	recent   [512]timing
	next     int
	answered uint64
	failed   uint64
}

type timing struct {
	ended time.Time
	took  time.Duration
}

// timingsLife is how old a timing may be that still says something.
const timingsLife = time.Minute

// add notes a call that has ended.
func (t *timings) add(began time.Time, err error) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if unanswered(err) {
		t.failed++
		return
	}
	t.answered++
	t.recent[t.next] = timing{now, now.Sub(began)}
	t.next = (t.next + 1) % len(t.recent)
}

// unanswered tells whether err is the connection's, or that of a member that cannot do anything.
func unanswered(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Internal, codes.Unknown:
		return true
	}
	return false
}

// quantiles are the median and the 99th percentile of the last minute; 0 if there is nothing to tell from.
func (t *timings) quantiles() (median, p99 time.Duration) {
	after := time.Now().Add(-timingsLife)
	t.mu.Lock()
	var took []time.Duration
	for i := range t.recent {
		if t.recent[i].ended.After(after) {
			took = append(took, t.recent[i].took)
		}
	}
	t.mu.Unlock()
	if len(took) == 0 {
		return 0, 0
	}
	slices.Sort(took)
	return took[len(took)/2], took[len(took)*99/100]
}

// counts are how many calls were answered, and how many not.
func (t *timings) counts() (answered, failed uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.answered, t.failed
}
