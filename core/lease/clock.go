package lease

import "time"

// Clock is the time that leases live by. It must never go back.
type Clock interface {
	// Now returns the present. Only differences between its results matter.
	Now() time.Time
	// After returns a channel that receives once, when d has passed.
	After(d time.Duration) <-chan time.Time
}

// SystemClock is the monotonic clock of the machine: setting its date changes nothing.
type SystemClock struct{}

// Now returns time.Now(), whose differences are monotonic.
func (SystemClock) Now() time.Time { return time.Now() }

// After is time.After.
func (SystemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }
