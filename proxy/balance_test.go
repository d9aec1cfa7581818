package proxy

import (
	"math/rand/v2"
	"testing"
)

func TestShed(t *testing.T) {
	for name, c := range map[string]struct {
		own    int
		others []int
		want   []int // round by round, while nothing changes
	}{
		"alone or without news of others": {1000, nil, []int{0, 0, 0, 0}},
		"as many as others":               {1000, []int{1000, 990}, []int{0, 0, 0, 0}},
		"within a fifth":                  {120, []int{90, 90}, []int{0, 0, 0, 0}},
		"few":                             {10, []int{0}, []int{0, 0, 0, 0}},
		"far more":                        {1000, []int{100, 100}, []int{0, 250}},
		"not more than the surplus":       {1400, []int{1000, 1000}, []int{0, 267}},
		"less than others":                {10, []int{1000, 1000}, []int{0, 0, 0, 0}},
	} {
		var b balancer
		for round, want := range c.want {
			if got := b.shed(c.own, c.others); got != want {
				t.Errorf("%s, round %d: %d to move, want %d", name, round, got, want)
			}
		}
	}
}

// One proxy is full when others come. Who is asked to move comes to any of them. They end up near each other, and then nobody
// moves any more.
func TestShedComesToRest(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	counts, told := []int{3000, 0, 0}, []int{3000, 0, 0}
	balancers := make([]balancer, len(counts))
	moved, last := 0, 0
	for round := range 500 {
		copy(told, counts)
		for i := range balancers {
			others := append(append([]int{}, told[:i]...), told[i+1:]...)
			n := balancers[i].shed(counts[i], others)
			counts[i] -= n
			for range n {
				counts[random.IntN(len(counts))]++
			}
			if moved += n; n > 0 {
				last = round
			}
		}
	}
	for _, n := range counts {
		if n > 1210 {
			t.Errorf("they have %v", counts)
		}
	}
	if last > 100 || moved > 6000 {
		t.Errorf("%d moves, the last in round %d", moved, last)
	}
}

// Clients that always come back are asked less and less often.
func TestClientsThatComeBackAreLeftAlone(t *testing.T) {
	var b balancer
	attempts := 0
	for range 10_000 {
		if b.shed(1000, []int{0, 0}) > 0 {
			attempts++
		}
	}
	if attempts > 30 || attempts < 10 {
		t.Errorf("they were asked %d times", attempts)
	}
}
