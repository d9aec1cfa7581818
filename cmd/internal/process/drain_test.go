package process

import (
	"strings"
	"testing"
	"time"

	"weir/internal/bubble"
)

func TestDrainIsCheckedForContradictions(t *testing.T) {
	for name, c := range map[string]struct {
		drain Drain
		want  string // "" is that it is possible
	}{
		"default":           {Drain{0, 10 * time.Second}, ""},
		"cut at once":       {Drain{0, 0}, ""},
		"delay in it":       {Drain{5 * time.Second, 10 * time.Second}, ""},
		"delay of all":      {Drain{10 * time.Second, 10 * time.Second}, "--drain-delay=10s leaves nothing"},
		"delay and no time": {Drain{time.Second, 0}, "--drain-delay=1s leaves nothing"},
		"negative delay":    {Drain{-1, 1}, "--drain-delay=-1ns is not possible"},
		"negative timeout":  {Drain{0, -1}, "--drain-timeout=-1ns is not possible"},
	} {
		err := c.drain.Check()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}

// The delay and the time for clients to leave come one after the other, and something is left for what comes behind the clients.
func TestDrainKeepsItsTime(t *testing.T) {
	for name, c := range map[string]struct {
		drain             Drain
		delay, spread, to time.Duration
	}{
		"default":     {Drain{0, 10 * time.Second}, 0, 4500 * time.Millisecond, 9 * time.Second},
		"with delay":  {Drain{5 * time.Second, 15 * time.Second}, 5 * time.Second, 4500 * time.Millisecond, 14 * time.Second},
		"short":       {Drain{0, time.Second}, 0, 450 * time.Millisecond, 900 * time.Millisecond},
		"cut at once": {Drain{}, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				began := time.Now()
				g := c.drain.begin(t.Context())
				defer g.Close()
				g.WaitDelay()
				if took := time.Since(began); took != c.delay {
					t.Errorf("the delay took %v, want %v", took, c.delay)
				}
				if got := g.Spread(); got != c.spread {
					t.Errorf("clients have %v to leave, want %v", got, c.spread)
				}
				<-g.Over().Done()
				if took := time.Since(began); took != c.to {
					t.Errorf("all is cut after %v, want %v", took, c.to)
				}
			})
		})
	}
}
