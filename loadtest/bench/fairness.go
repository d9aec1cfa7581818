package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"weir/loadtest/proc"
	"weir/loadtest/target"
)

// crowdSize is how many clients there are beside the one that floods. Each comes from an address of its own, by which a
// proxy tells clients apart that show no other identity.
const crowdSize = 9

// FairnessOptions are how RunFairness measures. All must be positive.
type FairnessOptions struct {
	Targets []target.Kind // proxies
	Bounds  []Bounds
	Crowds  []Crowd
	Floods  []Flood
	Slots   int           // requests upstream at a time, where they are bounded
	Times   int           // its share is what the one that floods has in flight
	Rate    float64       // of a client's requests per second, where they are paced
	Rounds  int           // turns without a flood, each followed by one with each of the floods
	WarmUp  time.Duration // before a turn is measured
	Turn    time.Duration // measured

	// FloodCommand is a program and its first arguments, which calls RunFlood with those that follow. The one that floods is
	// a process of its own: in this one the crowd would wait for the flood's answers to be read.
	FloodCommand []string
}

// share is how many requests each client may have upstream at a time while all others have as many.
func (o *FairnessOptions) share() int { return max(1, o.Slots/(crowdSize+1)) }

// Bounds are what a proxy is told to bound.
type Bounds struct {
	Name    string
	args    func(o *FairnessOptions) []string // of the proxy
	limited bool                              // for the paced crowd only: the busy one would be refused
}

// AllBounds is every bounds: nothing; the requests upstream, which are divided; and also what each client may ask for.
func AllBounds() []Bounds {
	none := func(*FairnessOptions) []string { return []string{"--max-upstream-requests=0"} }
	pool := func(o *FairnessOptions) []string { return []string{fmt.Sprintf("--max-upstream-requests=%d", o.Slots)} }
	limits := func(o *FairnessOptions) []string {
		return append(pool(o), fmt.Sprintf("--limit-requests=%g", limitFactor*o.Rate), fmt.Sprintf("--limit-bytes=%d", limitBytes),
			fmt.Sprintf("--limit-in-flight=%d", limitFactor*o.share()), fmt.Sprintf("--limit-watches=%d", limitWatches))
	}
	return []Bounds{{Name: "none", args: none}, {Name: "pool", args: pool}, {Name: "pool and limits", args: limits, limited: true}}
}

// The limits of a client: more than one of the paced crowd asks for, and far less than one that floods.
const (
	limitFactor  = 2       // of the crowd's requests
	limitBytes   = 4 << 20 // per second
	limitWatches = 100
)

// FindBounds finds bounds by their names.
func FindBounds(names []string) ([]Bounds, error) {
	return find(names, "bounds", AllBounds(), func(b Bounds) string { return b.Name })
}

// FairnessResult is what a crowd at one target felt of a flood.
type FairnessResult struct {
	Target target.Kind
	Bounds Bounds
	Crowd  Crowd
	Flood  Flood

	turns []floodTurn
}

// floodTurn is one turn with a flood, and the latencies of the one without in the same round.
type floodTurn struct {
	alone, flooded *hdrhistogram.Histogram // latencies of the crowd's requests, in microseconds
	flood          floodCounts
	took           time.Duration
}

// Alone is what the latencies of a percentage of the crowd's requests did not exceed without the flood, in milliseconds.
func (r *FairnessResult) Alone(percentile float64) Spread {
	return spreadOf(r.turns, func(t floodTurn) float64 { return float64(t.alone.ValueAtPercentile(percentile)) / 1e3 })
}

// Flooded is the same with the flood.
func (r *FairnessResult) Flooded(percentile float64) Spread {
	return spreadOf(r.turns, func(t floodTurn) float64 { return float64(t.flooded.ValueAtPercentile(percentile)) / 1e3 })
}

// Ratio is how many times Alone's Flooded is, of turns of the same round.
func (r *FairnessResult) Ratio(percentile float64) Spread {
	return spreadOf(r.turns, func(t floodTurn) float64 {
		return float64(t.flooded.ValueAtPercentile(percentile)) / float64(t.alone.ValueAtPercentile(percentile))
	})
}

// Throughput is the crowd's requests per second, all clients together, with the flood.
func (r *FairnessResult) Throughput() Spread {
	return spreadOf(r.turns, func(t floodTurn) float64 { return float64(t.flooded.TotalCount()) / t.took.Seconds() })
}

// FloodThroughput is the flood's requests per second: those that were answered, and those that were refused as too many.
func (r *FairnessResult) FloodThroughput() (answered, refused Spread) {
	return spreadOf(r.turns, func(t floodTurn) float64 { return float64(t.flood.answered) / t.took.Seconds() }),
		spreadOf(r.turns, func(t floodTurn) float64 { return float64(t.flood.refused) / t.took.Seconds() })
}

// RunFairness measures what the clients of a crowd feel when one more client asks for many times its share, and returns
// results in the order of Targets, of Bounds for each of them, and so on with Crowds, if the bounds are for them, and Floods.
// It ends by itself: it takes about Targets x Bounds x Crowds x Rounds x (1 + Floods) x (WarmUp + Turn). progress is told what
// is going on. An error comes with what was measured before it. The targets' data is below a temporary directory, which is removed.
func RunFairness(ctx context.Context, bin *proc.Bin, o FairnessOptions, progress func(string)) (results []*FairnessResult, err error) {
	dir, err := os.MkdirTemp("", "weir-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the targets: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for _, kind := range o.Targets {
		for i, b := range o.Bounds {
			say := func(s string) { progress(fmt.Sprintf("%s, bounds: %s: %s", kind, b.Name, s)) }
			some, err := floodTarget(ctx, bin, kind, b, filepath.Join(dir, fmt.Sprint(kind, i)), o, say)
			results = append(results, some...)
			if err != nil {
				return results, fmt.Errorf("%s: %w", kind, err)
			}
		}
	}
	return results, nil
}

// floodTarget measures at one target with one set of bounds.
func floodTarget(
	ctx context.Context, bin *proc.Bin, kind target.Kind, b Bounds, data string, o FairnessOptions, say func(string),
) (results []*FairnessResult, err error) {
	say("start")
	if err := target.Build(ctx, bin, kind); err != nil {
		return nil, err
	}
	// Without waiting for the disk: a flood of somebody else's there would be taken for this one's.
	tg, err := target.StartWith(ctx, bin, kind, data, target.Options{MemberArgs: []string{"--unsafe-no-fsync"}, ProxyArgs: b.args(&o)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, tg.Close()) }()
	if err := fillFlooded(ctx, tg); err != nil {
		return nil, err
	}
	for _, crowd := range o.Crowds {
		if b.limited && !crowd.paced {
			continue
		}
		var ofCrowd []*FairnessResult
		for _, flood := range o.Floods {
			ofCrowd = append(ofCrowd, &FairnessResult{Target: kind, Bounds: b, Crowd: crowd, Flood: flood})
		}
		for round := range o.Rounds {
			say(fmt.Sprintf("%s crowd alone, round %d of %d", crowd.Name, round+1, o.Rounds))
			alone, err := crowdTurn(ctx, tg, crowd, nil, &o)
			if err != nil {
				return append(results, measured(ofCrowd)...), err
			}
			for _, r := range ofCrowd {
				say(fmt.Sprintf("%s crowd and a flood of %s, round %d of %d", crowd.Name, r.Flood.Name, round+1, o.Rounds))
				t, err := crowdTurn(ctx, tg, crowd, &r.Flood, &o)
				if err != nil {
					return append(results, measured(ofCrowd)...), err
				}
				t.alone = alone.flooded
				r.turns = append(r.turns, t)
			}
		}
		results = append(results, ofCrowd...)
	}
	return results, nil
}

// measured are the results that have a turn.
func measured(all []*FairnessResult) []*FairnessResult {
	return slices.DeleteFunc(all, func(r *FairnessResult) bool { return len(r.turns) == 0 })
}
