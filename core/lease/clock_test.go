package lease

import (
	"sync"
	"time"
)

// fakeClock moves only by advance.
type fakeClock struct {
	// slept receives how long each At waits, so that a test can wait until WaitExpired sleeps and see for how long.
	slept chan time.Duration

	mu     sync.Mutex
	now    time.Time
	alarms []alarm
}

type alarm struct {
	at time.Time
	c  chan time.Time
}

func newFakeClock() *fakeClock {
	return &fakeClock{now: time.Unix(1_700_000_000, 0), slept: make(chan time.Duration, 16)}
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) At(t time.Time) <-chan time.Time {
	c.mu.Lock()
	a := alarm{t, make(chan time.Time, 1)}
	c.alarms = append(c.alarms, a)
	left := t.Sub(c.now)
	c.ring()
	c.mu.Unlock()
	c.slept <- left
	return a.c
}

func (c *fakeClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	c.ring()
}

// ring sounds the alarms whose time has come. c.mu is held.
func (c *fakeClock) ring() {
	kept := c.alarms[:0]
	for _, a := range c.alarms {
		if a.at.After(c.now) {
			kept = append(kept, a)
		} else {
			a.c <- c.now
		}
	}
	c.alarms = kept
}
