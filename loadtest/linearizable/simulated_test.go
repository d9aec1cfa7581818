package linearizable

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// simulated is a run without a store: a truth, and clients that were answered as it was.
type simulated struct {
	*requests
	truth *Truth
	rev   int64
}

// simulate does n random requests of some clients. Each takes effect at one moment between its call and its return, and some are
// never answered.
func simulate(rng *rand.Rand, n int, spanning bool) *simulated {
	const clients = 5
	s := &simulated{truth: NewTruth(), rev: 1}
	s.requests = newRequests(1, 5, spanning, func() int64 { return s.rev })
	var free [clients]time.Duration // when the client can send its next request
	now, overlap := time.Duration(0), time.Duration(1+rng.IntN(40))
	for range n {
		client := rng.IntN(clients)
		now = max(now, free[client]) + 10
		o := &Op{
			Request: s.next(rng), Server: "store", Proxy: true, Client: client, Conn: int64(client % 3),
			Call: now - upTo(rng, min(overlap, now-free[client])), Return: now + upTo(rng, overlap),
		}
		lost := chance(rng, 5)
		if !lost || chance(rng, 50) {
			o.Response = s.answer(&o.Request)
		}
		if lost {
			o.Response, o.Err = nil, status.Error(codes.Unavailable, "lost")
		}
		free[client] = o.Return + 1
		s.Ops = append(s.Ops, o)
	}
	return s
}

// upTo is a random time.
func upTo(rng *rand.Rand, d time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(d))) }

// answer does a request at the newest revision.
func (s *simulated) answer(r *Request) *Response {
	a := &Response{Succeeded: s.truth.compare(r.Compare, s.rev), Stale: -1}
	o := &Op{Request: *r, Response: a}
	next := s.rev + 1
	for _, step := range o.branch() {
		var result Result
		switch step.Kind {
		case Put:
			kv := KV{Key: step.Key, Value: step.Value, Create: next, Mod: next, Version: 1}
			if old := s.truth.At(next, step.Key, ""); len(old) > 0 {
				kv.Create, kv.Version = old[0].Create, old[0].Version+1
			}
			s.truth.Add(kv)
			s.rev = next
		case DeleteRange:
			for _, kv := range s.truth.At(next, step.Key, step.End) {
				s.truth.Add(KV{Key: kv.Key, Mod: next})
				s.rev = next
				result.Deleted++
			}
		default:
			result = s.readAt(step, s.rev)
		}
		a.Results = append(a.Results, result)
	}
	a.Revision = s.rev
	return a
}

func (s *simulated) readAt(step Step, rev int64) Result {
	if step.Read.Revision != 0 {
		rev = step.Read.Revision
	}
	return step.Read.of(s.truth.At(rev, step.Key, step.End))
}

// undisturbed promises that nothing is older than age.
func undisturbed(age time.Duration) Promises {
	return Promises{MaxStaleness: age, Disturbed: func(time.Duration, time.Duration) bool { return false }}
}

// eachSimulated runs a test on many runs.
func eachSimulated(t *testing.T, n int, run func(t *testing.T, rng *rand.Rand, s *simulated)) {
	first := *seed
	if first == 0 {
		first = rand.Uint64()
	}
	for i := range uint64(n) {
		t.Run(fmt.Sprintf("seed=%d", first+i), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(first+i, 0))
			run(t, rng, simulate(rng, 40, rng.IntN(2) == 0))
		})
	}
}
