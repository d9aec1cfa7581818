package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"weir/loadtest/proc"
	"weir/loadtest/target"
)

// RecoveryOptions are how RunRecovery measures. All must be positive.
type RecoveryOptions struct {
	Targets []target.Kind // each of more than two members
	Rounds  int           // in each of which each target loses its leader
	// Election is --election-timeout, a tenth of which is --heartbeat-interval.
	Election time.Duration
	Dir      string // as in ClusterOptions
}

// RecoveryResult is how one target went on when its leader was killed.
type RecoveryResult struct {
	Target target.Kind

	turns []recoveryTurn
}

// recoveryTurn is what was measured in one turn. The first two are counted from the kill, the last from when the member that
// was killed is started again.
type recoveryTurn struct{ write, all, back time.Duration }

// FirstWrite is how long after the kill the first write was acknowledged that was begun after it, in milliseconds.
func (r *RecoveryResult) FirstWrite() Spread {
	return spreadOf(r.turns, func(t recoveryTurn) float64 { return milliseconds(t.write) })
}

// All is FirstWrite of the last of those who are left: after it all of them serve.
func (r *RecoveryResult) All() Spread {
	return spreadOf(r.turns, func(t recoveryTurn) float64 { return milliseconds(t.all) })
}

// Back is how long the member that was killed takes from its start to its first linearizable read, in milliseconds.
func (r *RecoveryResult) Back() Spread {
	return spreadOf(r.turns, func(t recoveryTurn) float64 { return milliseconds(t.back) })
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

// RunRecovery kills the leaders of clusters with SIGKILL, one cluster after another, and returns results in the order of
// Targets. progress is told what is going on. The data is below a temporary directory, which is removed.
func RunRecovery(ctx context.Context, bin *proc.Bin, o RecoveryOptions, progress func(string)) (results []*RecoveryResult, err error) {
	for _, kind := range o.Targets {
		if kind.Members() < 3 {
			return nil, fmt.Errorf("%s has too few members to lose one", kind)
		}
	}
	args := []string{
		fmt.Sprintf("--election-timeout=%d", o.Election.Milliseconds()),
		fmt.Sprintf("--heartbeat-interval=%d", max(1, o.Election.Milliseconds()/10)),
	}
	var targets []*target.Target
	clean, err := startClusters(ctx, bin, o.Targets, o.Dir, args, func(tg *target.Target) error {
		targets = append(targets, tg)
		results = append(results, &RecoveryResult{Target: tg.Kind})
		return nil
	})
	defer func() { err = errors.Join(err, clean()) }()
	if err != nil {
		return nil, err
	}
	for round := range o.Rounds {
		for i, tg := range targets {
			progress(fmt.Sprintf("recovery, round %d of %d: %s", round+1, o.Rounds, tg.Kind))
			t, err := loseLeader(ctx, tg)
			if err != nil {
				return nil, fmt.Errorf("recovery of %s: %w", tg.Kind, err)
			}
			results[i].turns = append(results[i].turns, t)
		}
	}
	return results, nil
}

// loseLeader is one turn.
func loseLeader(ctx context.Context, tg *target.Target) (t recoveryTurn, err error) {
	leader, err := leaderOf(ctx, tg)
	if err != nil {
		return t, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	left := slices.DeleteFunc(slices.Clone(entries(tg)), func(s *target.Server) bool { return s == leader })
	var conns []*grpc.ClientConn // up before the kill
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for _, s := range left {
		conn, err := target.Dial(s.Addr)
		if err != nil {
			return t, err
		}
		conns = append(conns, conn)
		if err := probe(ctx, conn); err != nil {
			return t, fmt.Errorf("write before the kill to %s: %w", s.Name(), err)
		}
	}
	killed := time.Now()
	if err := leader.Kill(); err != nil {
		return t, err
	}
	serves := make([]time.Duration, len(conns))
	var probing sync.WaitGroup
	for i, conn := range conns {
		probing.Go(func() {
			serves[i] = probeUntilServed(ctx, conn).Sub(killed)
		})
	}
	probing.Wait()
	t.write, t.all = slices.Min(serves), slices.Max(serves)
	if ctx.Err() != nil {
		return t, fmt.Errorf("no write succeeds after the kill of %s: %w", leader.Name(), ctx.Err())
	}
	started := time.Now()
	if err := leader.Restart(); err != nil {
		return t, err
	}
	if err := leader.WaitReady(ctx, target.Serves(leader.Addr)); err != nil {
		return t, err
	}
	t.back = time.Since(started)
	return t, nil
}

// probeEvery is how far apart the writes are that look for service.
const probeEvery = 5 * time.Millisecond

// probeUntilServed begins a write again and again, and returns when one has succeeded, or ctx ended. It does not wait for those
// that were begun before: each may take as long as the server lets it, and what is wanted is when the server could serve.
func probeUntilServed(ctx context.Context, conn *grpc.ClientConn) time.Time {
	probing, stop := context.WithCancel(ctx)
	served := make(chan time.Time, 1)
	var probes sync.WaitGroup
	defer probes.Wait()
	defer stop()
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for {
		probes.Go(func() {
			if probe(probing, conn) == nil {
				select {
				case served <- time.Now():
				default: // another was first
				}
			}
		})
		select {
		case <-tick.C:
		case at := <-served:
			return at
		case <-ctx.Done():
			return time.Now()
		}
	}
}

func probe(ctx context.Context, conn *grpc.ClientConn) error {
	_, err := pb.NewKVClient(conn).Put(ctx, &pb.PutRequest{Key: []byte("probe")})
	return err
}
