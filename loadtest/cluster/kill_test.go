package cluster

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// victims are who is killed at the same moment, in the order in which the rounds take them.
var victims = []struct {
	name string
	of   func(leader int, rng *rand.Rand) []int
}{
	{"leader killed", func(leader int, _ *rand.Rand) []int { return []int{leader} }},
	{"follower killed", func(leader int, rng *rand.Rand) []int { return others(leader, rng)[:1] }},
	{"majority with the leader killed", func(leader int, rng *rand.Rand) []int { return []int{leader, others(leader, rng)[0]} }},
	{"majority of followers killed", func(leader int, rng *rand.Rand) []int { return others(leader, rng) }},
	{"all killed", func(int, *rand.Rand) []int { return []int{0, 1, 2} }},
}

// others are the members but one, in random order.
func others(one int, rng *rand.Rand) []int {
	all := []int{(one + 1) % members, (one + 2) % members}
	rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// Members are killed with SIGKILL under load, and nothing that was promised is lost.
func TestKilledMembersLoseNothing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind   target.Kind
		rounds int
	}{
		{target.Etcd37, min(*kills, len(victims))}, // proves the test
		{target.Core, *kills},
	} {
		t.Run(string(c.kind), func(t *testing.T) {
			t.Parallel()
			s := newScene(t, c.kind, targettest.SiteOptions{Timeout: time.Minute + time.Duration(c.rounds)*10*time.Second})
			for i := range c.rounds {
				v := victims[i%len(victims)]
				s.round(v.name, func() { s.kill(v.of(s.leader(), s.rng)) })
			}
			s.finish()
		})
	}
}

// kill kills members at once and starts them again a little later, at times killing one of them once more while it starts.
func (s *scene) kill(who []int) {
	s.Helper()
	var wg sync.WaitGroup
	for _, i := range who {
		wg.Go(func() {
			if err := s.Cluster.Members[i].Kill(); err != nil {
				s.Error(err)
			}
		})
	}
	wg.Wait()
	s.pause(time.Second)
	for n, i := range who {
		m := s.Cluster.Members[i]
		s.Must(m.Restart())
		if n == 0 && s.rng.IntN(3) == 0 {
			s.pause(100 * time.Millisecond)
			s.Must(m.Kill())
			s.Must(m.Restart())
		}
	}
}
