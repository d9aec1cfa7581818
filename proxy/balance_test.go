package proxy

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"weir/internal/bubble"
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

// Two proxies have all clients, and a third is registered that none comes to. However often the two sent each other clients, they
// would be too full: they do so less and less often.
func TestClientsAreNotSentToAndFroForEver(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	counts, moves := []int{500, 500}, 0
	balancers := make([]balancer, len(counts))
	moving := make([]bool, len(counts)) // which takes a round
	const rounds = 10 * maxRestRounds
	for range rounds {
		for i := range balancers {
			if moving[i] {
				moving[i] = false
				continue
			}
			n := balancers[i].shed(counts[i], []int{counts[1-i], 0})
			counts[i] -= n
			for range n {
				counts[random.IntN(len(counts))]++
			}
			if moving[i] = n > 0; moving[i] {
				moves++
			}
		}
	}
	if moves > rounds/30 {
		t.Errorf("they were asked %d times in %d rounds", moves, rounds)
	}
}

// A proxy tells how many connections it has while its key is its own or gone, and believes of others what can be.
func TestExchange(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f, dial := serveEtcd(t)
		p := newProxy(t, Config{Endpoints: []string{"a:1"}, Dial: dial, Registration: Registration{Prefix: "p", TTL: 60, URL: "me"}})
		time.Sleep(time.Second) // registered by then
		put := func(lease int64, url, metadata string) {
			key := "p/" + url
			f.keys[key] = &mvccpb.KeyValue{Key: []byte(key), Value: fmt.Appendf(nil, `{"Addr":%q,"Metadata":%q}`, url, metadata), Lease: lease}
		}
		f.do(func() {
			put(0, "a", `{"connections":7}`)
			put(0, "b", `{"connections":-1000000}`)
			put(0, "c", `{"connections":9000000000000000000}`)
			put(0, "d", `{"name":"it does not tell"}`)
		})
		const next = 77 // the lease of another process
		for _, c := range []struct {
			when  string
			own   int
			begin func()
			lease int64
			told  string
		}{
			{"at first", 100, func() {}, 1, `"connections\":100`},
			{"with the next process", 200, func() { f.leases[next] = 60; put(next, "me", `{"name":"next"}`) }, next, `"next`},
			{"when that has gone", 200, func() { f.end(next) }, 1, `"connections\":200`},
			{"without the key", 200, func() { delete(f.keys, "p/me") }, 1, `"connections\":200`},
		} {
			f.do(c.begin)
			others, err := p.registry.exchange(t.Context(), c.own)
			if err != nil || !slices.Equal(others, []int{7}) {
				t.Errorf("%s: others have %v, %v", c.when, others, err)
			}
			f.do(func() {
				if kv := f.keys["p/me"]; kv == nil || kv.Lease != c.lease || !strings.Contains(string(kv.Value), c.told) {
					t.Errorf("%s: the key is %v", c.when, kv)
				}
			})
		}
		p.Close()
	})
}
