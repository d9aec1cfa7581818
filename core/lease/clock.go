package lease

import "time"

// Clock is the time that leases live by. It must never go back.
type Clock interface {
	// Now returns the present. Only differences between its results matter.
	Now() time.Time
	// At returns a channel that receives once, when it is t or later. (With a duration instead, a clock that is moved by
	// a test between Now and the call would be waited for too long.)
	At(t time.Time) <-chan time.Time
}

// SystemClock is the monotonic clock of the machine: setting its date changes nothing.
type SystemClock struct{}

// Now returns time.Now(), whose differences are monotonic.
func (SystemClock) Now() time.Time { return time.Now() }

// At returns a channel that receives at t, a sum of a result of Now and a duration.
func (SystemClock) At(t time.Time) <-chan time.Time { return time.After(time.Until(t)) }
