package bench

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"weir/loadtest/proc"
	"weir/loadtest/target"
)

// ClusterStartOptions are how RunClusterStart measures. All must be positive.
type ClusterStartOptions struct {
	Targets   []target.Kind // without proxies
	Keys      int
	ValueSize int // in bytes
	Writes    int // after each start of all members; at most Keys
	Rounds    int // in each of which each target is started
	Dir       string
}

// ClusterStartResult is how one target started with its data, and the memory that it took.
type ClusterStartResult struct {
	Target target.Kind

	turns []clusterStart
}

// clusterStart is what was measured in one turn.
type clusterStart struct {
	first, all, one time.Duration
	rss, written    []int64 // of each member, in bytes
}

// First is how long it took, in seconds, from the start of all members until one of them answered a linearizable read.
func (r *ClusterStartResult) First() Spread {
	return spreadOf(r.turns, func(t clusterStart) float64 { return t.first.Seconds() })
}

// All is First of the last member.
func (r *ClusterStartResult) All() Spread {
	return spreadOf(r.turns, func(t clusterStart) float64 { return t.all.Seconds() })
}

// One is First of one member that starts while the others serve.
func (r *ClusterStartResult) One() Spread {
	return spreadOf(r.turns, func(t clusterStart) float64 { return t.one.Seconds() })
}

// RSS is the physical memory of a member, in MiB, when all serve: of all members in all turns.
func (r *ClusterStartResult) RSS() Spread {
	return mebibytes(r.turns, func(t clusterStart) []int64 { return t.rss })
}

// RSSWritten is RSS after the writes.
func (r *ClusterStartResult) RSSWritten() Spread {
	return mebibytes(r.turns, func(t clusterStart) []int64 { return t.written })
}

func mebibytes(turns []clusterStart, of func(clusterStart) []int64) Spread {
	var all []int64
	for _, t := range turns {
		all = append(all, of(t)...)
	}
	return spreadOf(all, func(bytes int64) float64 { return float64(bytes) / (1 << 20) })
}

// keysInFill is how many keys are put in one transaction. There are then so many of these that members have cut their logs
// often, as they have in life, and do not replay all of them.
const keysInFill = 20

// RunClusterStart fills clusters with keys, then stops and starts them, one after another, and returns results in the order
// of Targets. No other runs meanwhile. progress is told what is going on. The data is below a temporary directory, which is
// removed.
func RunClusterStart(ctx context.Context, bin *proc.Bin, o ClusterStartOptions, progress func(string)) (results []*ClusterStartResult, err error) {
	var targets []*target.Target
	clean, err := startClusters(ctx, bin, o.Targets, o.Dir, nil, func(tg *target.Target) error {
		targets = append(targets, tg)
		results = append(results, &ClusterStartResult{Target: tg.Kind})
		progress(fmt.Sprintf("start: put %d keys to %s", o.Keys, tg.Kind))
		if err := fillCluster(ctx, tg, o.Keys, keysInFill, o.ValueSize); err != nil {
			return err
		}
		return stopMembers(tg)
	})
	defer func() { err = errors.Join(err, clean()) }()
	if err != nil {
		return nil, err
	}
	for round := range o.Rounds {
		for i, tg := range targets {
			progress(fmt.Sprintf("start, round %d of %d: %s", round+1, o.Rounds, tg.Kind))
			t, err := startMembers(ctx, tg, o)
			if err != nil {
				return nil, fmt.Errorf("start %s: %w", tg.Kind, err)
			}
			results[i].turns = append(results[i].turns, t)
		}
	}
	return results, nil
}

// startMembers is one turn. The members must have ended, and have when it returns.
func startMembers(ctx context.Context, tg *target.Target, o ClusterStartOptions) (t clusterStart, err error) {
	members := memberServers(tg)
	took, err := startServers(ctx, members)
	if err != nil {
		return t, err
	}
	t.first, t.all = slices.Min(took), slices.Max(took)
	if t.rss, err = rssOfEach(members); err != nil {
		return t, err
	}
	if err := fillCluster(ctx, tg, o.Writes, 1, o.ValueSize); err != nil {
		return t, err
	}
	if t.written, err = rssOfEach(members); err != nil {
		return t, err
	}
	leader, err := leaderOf(ctx, tg)
	if err != nil {
		return t, err
	}
	one := members[slices.IndexFunc(members, func(s *target.Server) bool { return s != leader || len(members) == 1 })]
	if err := one.Stop(); err != nil {
		return t, err
	}
	if took, err = startServers(ctx, []*target.Server{one}); err != nil {
		return t, err
	}
	t.one = took[0]
	return t, stopMembers(tg)
}

// startServers starts servers that have ended, and returns how long each took to answer a linearizable read.
func startServers(ctx context.Context, servers []*target.Server) ([]time.Duration, error) {
	took, errs := make([]time.Duration, len(servers)), make([]error, len(servers))
	var starting sync.WaitGroup
	began := time.Now()
	for i, s := range servers {
		if err := s.Restart(); err != nil {
			errs[i] = err
			continue
		}
		starting.Go(func() {
			errs[i] = s.WaitReady(ctx, target.Serves(s.Addr))
			took[i] = time.Since(began)
		})
	}
	starting.Wait()
	return took, errors.Join(errs...)
}

func stopMembers(tg *target.Target) error {
	var errs []error
	for _, s := range memberServers(tg) {
		errs = append(errs, s.Stop())
	}
	return errors.Join(errs...)
}

func rssOfEach(servers []*target.Server) ([]int64, error) {
	var all []int64
	for _, s := range servers {
		n, err := s.Memory()
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}
