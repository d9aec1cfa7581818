package linearizable

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"

	"weir/loadtest/target"
)

// lanes is how many histories are made at the same time.
const lanes = 6

// load lets clients make histories at a site, and checks them.
type load struct {
	*site
	truth *follower
	told  atomic.Int64 // the newest revision that a client was told
	made  atomic.Int64 // how many histories were begun

	mu        sync.Mutex // guards all below
	histories []*History
	undecided int // histories that took too long to check
	wrong     []*History
}

// run makes histories until ctx ends, or one is wrong.
func (l *load) run(ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	for range lanes {
		rng := rand.New(rand.NewPCG(l.rng.Uint64(), 0))
		wg.Go(func() {
			for ctx.Err() == nil {
				id := l.made.Add(1)
				if *histories > 0 && id > *histories {
					return
				}
				h := l.history(rng, int(id))
				if l.check(h) == porcupine.Illegal {
					stop()
				}
			}
		})
	}
	wg.Wait()
}

// check notes a history and what porcupine says of it.
func (l *load) check(h *History) porcupine.CheckResult {
	result := h.Check()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.histories = append(l.histories, h)
	switch result {
	case porcupine.Illegal:
		l.wrong = append(l.wrong, h)
	case porcupine.Unknown:
		l.undecided++
	}
	return result
}

// history lets a few clients send requests at the same time, each one after another.
func (l *load) history(rng *rand.Rand, id int) *History {
	spanning := chance(rng, 60)
	keys, clients, each := 6, 5, 10
	if spanning {
		keys, clients, each = 5, 5, 6
	}
	next := newRequests(id, keys, spanning, l.told.Load)
	next.padding, next.streams = l.padding, l.member != target.Etcd35
	ops := make([][]*Op, clients)
	var wg sync.WaitGroup
	for client := range clients {
		own := rand.New(rand.NewPCG(rng.Uint64(), 0))
		wg.Go(func() { ops[client] = l.client(own, next, client, each) })
	}
	wg.Wait()
	for _, own := range ops {
		next.Ops = append(next.Ops, own...)
	}
	return next.History
}

// client sends n requests at the same server, over any of its connections. It gives up when it does not know what became of
// a write: each of those has to be tried at every place in the order, so one for each client is enough.
func (l *load) client(rng *rand.Rand, next *requests, client, n int) []*Op {
	var ops []*Op
	server := pick(rng, l.servers)
	for range n {
		if chance(rng, 10) {
			server = pick(rng, l.servers)
		}
		ctx, cancel := context.WithTimeout(l.Ctx, 200*time.Millisecond+time.Duration(rng.Int64N(int64(2*time.Second))))
		o := l.do(ctx, next.next(rng), client, pick(rng, server.links))
		cancel()
		ops = append(ops, o)
		if o.Response == nil {
			if o.writes() {
				break
			}
			continue
		}
		for told := l.told.Load(); told < o.Revision && !l.told.CompareAndSwap(told, o.Revision); {
			told = l.told.Load()
		}
	}
	return ops
}

// ops are those of all histories.
func (l *load) ops() []*Op {
	var all []*Op
	for _, h := range l.histories {
		all = append(all, h.Ops...)
	}
	return all
}

// end waits for the truth, when nobody writes any more. last is a write that marks its end.
func (l *load) end() (truth *Truth, last *Op) {
	l.Helper()
	last = l.do(l.Ctx, plain(Step{Kind: Put, Key: "/end", Value: fmt.Sprintf("end after %v", l.now())}), 0, l.servers[0].links[0])
	l.Must(last.Err)
	truth, err := l.truth.upTo(l.Ctx, last.Revision)
	l.Must(err)
	return truth, last
}

// finish compares everything with the truth.
func (l *load) finish(p Promises) {
	l.Helper()
	truth, last := l.end()
	violations := truth.Check(append(l.ops(), last), p)
	l.count(p)
	for _, p := range l.Proxies {
		l.countHits(p)
	}
	l.Logf("from memory: %+v", l.hits)
	if len(l.Proxies) > 0 && (l.hits.Linearizable == 0 || l.hits.Serializable == 0) {
		l.Error("nothing was read from memory: the test proves nothing")
	}
	if l.undecided*100 > len(l.histories) {
		l.Errorf("%d of %d histories took too long to check", l.undecided, len(l.histories))
	}
	if len(l.wrong)+len(violations) > 0 {
		l.report(truth, violations)
	}
}

// maxReported is of how many histories the evidence is kept.
const maxReported = 10

func (l *load) report(truth *Truth, violations []Violation) {
	l.Helper()
	r, err := NewReport()
	l.Must(err)
	of := map[*Op]*History{}
	for _, h := range l.histories {
		for _, o := range h.Ops {
			of[o] = h
		}
	}
	what := map[*History]string{}
	for _, h := range l.wrong {
		what[h] = "This history is not linearizable.\n"
	}
	for _, v := range violations {
		if h := of[v.Op]; h != nil {
			what[h] += fmt.Sprintln(v)
		} else {
			l.Error(v)
		}
	}
	l.Errorf("%d histories are not linearizable, and %d answers break a promise: see %s", len(l.wrong), len(violations), r.Dir)
	for h, text := range what {
		if r.files == maxReported {
			break
		}
		name, err := r.Add(text, h, truth)
		l.Must(err)
		l.Errorf("%s:\n%s", name, text)
	}
	for _, m := range l.Cluster.Members {
		l.Must(r.Text(m.Name+".log", m.Log()))
	}
	for i, p := range l.Proxies {
		l.Must(r.Text(fmt.Sprintf("proxy-%d.log", i+1), p.Log()))
	}
}

// count logs what a run was made of.
func (l *load) count(p Promises) {
	var answered, linearizable, proxied, checkedAge, stale, failed, open int
	for _, o := range l.ops() {
		switch {
		case o.Response == nil && o.writes():
			open++
		case o.Response == nil:
			failed++
		default:
			answered++
		}
		if o.Response == nil || o.writes() || !o.Proxy {
			continue
		}
		proxied++
		switch {
		case o.linearizable():
			linearizable++
		case o.Stale >= 0:
			stale++
		case !p.Disturbed(o.Call-p.MaxStaleness, o.Return):
			checkedAge++
		}
	}
	l.Logf("%d histories (%d undecided), %d requests answered, %d reads failed, %d writes of unknown outcome, %d connections; reads answered by proxies: %d, %d linearizable, %d stale, %d of which the age was checked",
		len(l.histories), l.undecided, answered, failed, open, l.conns.last.Load(), proxied, linearizable, stale, checkedAge)
}
