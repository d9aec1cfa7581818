package identities

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"time"
)

// ledger is which rights there were when. When exactly a change took effect nobody knows: some time between its request and
// its answer. Its methods may be called concurrently.
type ledger struct {
	mu      sync.Mutex // guards all below
	periods []period
}

// period is how long there were some rights.
type period struct {
	*rights
	change string // that began it
	// They began between these two: when the change to them was asked for, and when it was answered.
	asked, answered time.Duration
}

// end of time.
const forever = time.Duration(math.MaxInt64)

// changed records new rights.
func (l *ledger) changed(change string, asked, answered time.Duration, now *rights) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.periods = append(l.periods, period{now, change, asked, answered})
}

// String tells what was changed when, for a log.
func (l *ledger) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var s strings.Builder
	for _, p := range l.periods {
		fmt.Fprintf(&s, "%v to %v: %s\n", p.asked, p.answered, p.change)
	}
	return s.String()
}

// now are the rights after the last change that was answered.
func (l *ledger) now() *rights {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.periods[len(l.periods)-1].rights
}

// any tells whether there may have been a moment from one time to another at which there were such rights.
func (l *ledger) any(from, to time.Duration, such func(*rights) bool) bool {
	for _, p := range l.during(from, to) {
		if such(p.rights) {
			return true
		}
	}
	return false
}

// during are the periods of which there may have been a moment from one time to another.
func (l *ledger) during(from, to time.Duration) []period {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []period
	for i, p := range l.periods {
		over := forever
		if i+1 < len(l.periods) {
			over = l.periods[i+1].answered
		}
		if p.asked <= to && over >= from {
			all = append(all, p)
		}
	}
	return all
}

// stretch is a time throughout which there certainly were such rights as were asked for, from one moment to another.
type stretch struct {
	from, to time.Duration
	over     time.Duration // from when on there were certainly others
}

// stretches are those that have ended, each as long as can be.
func (l *ledger) stretches(such func(*rights) bool) (all []stretch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	within := false
	for _, p := range l.periods {
		is := such(p.rights)
		switch {
		case is && !within:
			all = append(all, stretch{from: p.answered, to: forever, over: forever})
		case !is && within:
			last := &all[len(all)-1]
			last.to, last.over = p.asked, p.answered
		}
		within = is
	}
	if within {
		all = all[:len(all)-1]
	}
	return all
}

// settle finds out of which issues a token can be.
func (l *ledger) settle(id *identity) {
	if id == nil || id.isMadeUp || id.issues != nil {
		return
	}
	for _, p := range l.during(id.asked, id.given) {
		if p.enabled && p.has(id.user) {
			id.issues = append(id.issues, p.issue(id.user))
		}
	}
}
