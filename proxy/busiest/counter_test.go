package busiest

import (
	"fmt"
	"math"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestBusyNamesAreFoundAmongManyOthers(t *testing.T) {
	var c Counter
	now := time.Unix(1000, 0)
	// A thousand samples a second of names of which each is seen once, ten of one name and five of another.
	for i := range 300 * 1000 {
		if i%100 == 0 {
			c.add(now, "busiest")
		}
		if i%200 == 0 {
			c.add(now, "busy")
		}
		c.add(now, fmt.Sprint(i))
		now = now.Add(time.Millisecond)
	}
	top := c.top(now, 2)
	if len(c.names) > maxNames || len(top) != 2 || top[0].Name != "busiest" || top[1].Name != "busy" {
		t.Fatalf("got %v of %d", top, len(c.names))
	}
	if c.top(now, 10*maxNames); len(c.names) > maxNames {
		t.Errorf("%d names are kept", len(c.names))
	}
}

func TestRateIsWhatWasSeenAndFades(t *testing.T) {
	var c Counter
	now := time.Unix(1000, 0)
	for range 10 * 60 * 10 { // ten samples a second for ten minutes
		c.add(now, "steady")
		now = now.Add(100 * time.Millisecond)
	}
	if top := c.top(now, 1); math.Abs(top[0].PerSecond-10*Step) > Step/4 {
		t.Errorf("got %v a second", top[0].PerSecond)
	}
	now = now.Add(halfLife)
	if top := c.top(now, 1); math.Abs(top[0].PerSecond-5*Step) > Step/4 {
		t.Errorf("after a half-life: got %v a second", top[0].PerSecond)
	}
	now = now.Add(2 * rebase)
	c.add(now, "new")
	if top := c.top(now, 9); len(top) != 1 || top[0].Name != "new" {
		t.Errorf("after an hour: got %v", top)
	}
}

func TestOneInStepIsSampled(t *testing.T) {
	n, of := 0, 1000*Step
	for range of {
		if Sampled() {
			n++
		}
	}
	if n < 800 || n > 1200 {
		t.Errorf("%d of %d", n, of)
	}
}

func BenchmarkSampled(b *testing.B) {
	for b.Loop() {
		Sampled()
	}
}
