package linearizable

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/loadtest/proc"
)

// faults does harm to a site, one thing at a time, and mends it. It is one goroutine's, but for disturbed.
type faults struct {
	*site
	rng   *rand.Rand
	truth *Follower
	done  map[string]int

	mu          sync.Mutex // guards all below
	outages     []outage
	compactions []Compaction
}

// outage is a time in which a member was away or its role changed. The last one may not have ended yet.
type outage struct{ from, to time.Duration }

// settling is how long after an outage the proxies may take to be back with a member that is up to date.
const settling = time.Second

func newFaults(s *site, truth *Follower) *faults {
	f := &faults{site: s, rng: rand.New(rand.NewPCG(s.rng.Uint64(), 0)), truth: truth, done: map[string]int{}}
	return f
}

// fault is one thing that may be done.
type fault struct {
	name   string
	weight int
	do     func(context.Context) error
}

// run does harm until ctx ends; then all is mended.
func (f *faults) run(ctx context.Context) error {
	all := []fault{{"compaction", 4, f.compact}, {"connections reset", 2, f.reset}, {"member killed", 1, f.killMember}, {"member paused", 2, f.pauseMember}}
	if len(f.Proxies) > 0 {
		all = append(all, fault{"proxy killed", 3, f.killProxy}, fault{"proxy paused", 3, f.pauseProxy})
	}
	if len(f.Cluster.Members) > 1 {
		all = append(all, fault{"leader moved", 2, f.moveLeader})
	}
	if len(f.lines) > 0 {
		all = append(all, fault{"line cut", 2, f.cutLine})
	}
	total := 0
	for _, one := range all {
		total += one.weight
	}
	for f.pause(ctx, 800*time.Millisecond) {
		n := f.rng.IntN(total)
		i := slices.IndexFunc(all, func(one fault) bool {
			n -= one.weight
			return n < 0
		})
		if err := all[i].do(ctx); err != nil {
			return err
		}
		f.done[all[i].name]++
	}
	return nil
}

// pause waits for a random time, and tells whether ctx goes on. Nothing is expected to happen meanwhile: the moment when
// it ends is the point.
func (f *faults) pause(ctx context.Context, below time.Duration) bool {
	t := time.NewTimer(time.Duration(f.rng.Int64N(int64(below))))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (f *faults) reset(context.Context) error {
	f.conns.reset(f.rng)
	return nil
}

func (f *faults) killProxy(ctx context.Context) error {
	p := pick(f.rng, f.Proxies)
	f.countHits(p)
	if err := p.Kill(); err != nil {
		return err
	}
	f.pause(ctx, 200*time.Millisecond)
	return p.Restart()
}

func (f *faults) pauseProxy(ctx context.Context) error {
	return f.stopFor(ctx, pick(f.rng, f.Proxies).Process, time.Second)
}

func (f *faults) stopFor(ctx context.Context, p *proc.Process, below time.Duration) error {
	if err := p.Pause(); err != nil {
		return err
	}
	f.pause(ctx, below)
	return p.Resume()
}

func (f *faults) cutLine(context.Context) error {
	return f.disturb(func() error {
		pick(f.rng, f.lines).Break()
		return nil
	})
}

// disturb notes an outage that ends when all members answer linearizable reads again.
func (f *faults) disturb(do func() error) error {
	f.mu.Lock()
	i := len(f.outages)
	f.outages = append(f.outages, outage{from: f.Now(), to: 1 << 62})
	f.mu.Unlock()
	if err := do(); err != nil {
		return err
	}
	if err := f.Cluster.WaitReady(f.site.Ctx); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.outages[i].to = f.Now()
	return nil
}

// disturbed is Promises.Disturbed.
func (f *faults) disturbed(from, to time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.ContainsFunc(f.outages, func(o outage) bool { return o.from <= to && from <= o.to+settling })
}

func (f *faults) killMember(ctx context.Context) error {
	m := pick(f.rng, f.Cluster.Members)
	return f.disturb(func() error {
		if err := m.Kill(); err != nil {
			return err
		}
		f.pause(ctx, 300*time.Millisecond)
		return m.Restart()
	})
}

// pauseMember prefers the leader. One that is paused for long enough believes to be the leader when it goes on, while there
// is another.
func (f *faults) pauseMember(ctx context.Context) error {
	m := pick(f.rng, f.Cluster.Members)
	if leader := f.leader(ctx); leader >= 0 && chance(f.rng, 60) {
		m = f.Cluster.Members[leader]
	}
	return f.disturb(func() error { return f.stopFor(ctx, m.Process, 1500*time.Millisecond) })
}

func (f *faults) moveLeader(ctx context.Context) error {
	from := f.leader(ctx)
	if from < 0 {
		return nil
	}
	to, err := f.status(ctx, (from+1+f.rng.IntN(len(f.admins)-1))%len(f.admins))
	if err != nil {
		return nil // it is about to end
	}
	return f.disturb(func() error {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		// It may have been replaced meanwhile, and the other one may be too far behind.
		_, _ = pb.NewMaintenanceClient(f.admins[from]).MoveLeader(ctx, &pb.MoveLeaderRequest{TargetID: to.Header.MemberId})
		return nil
	})
}

// compact forgets what the truth has been told of, since its watch must never be cancelled.
func (f *faults) compact(ctx context.Context) error {
	c := Compaction{Revision: f.truth.Newest() - f.rng.Int64N(80)*f.rng.Int64N(2), Call: f.Now()}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err := pb.NewKVClient(pick(f.rng, f.admins)).Compact(ctx, &pb.CompactionRequest{Revision: c.Revision, Physical: chance(f.rng, 30)})
	if err == nil {
		c.Return = f.Now()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.compactions = append(f.compactions, c) // it may have been done although it failed
	return nil
}
