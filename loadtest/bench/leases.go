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
	"google.golang.org/grpc"

	"weir/loadtest/load"
	"weir/loadtest/proc"
	"weir/loadtest/target"
)

// LeaseScenario is who keeps which leases alive. Each client has a connection with one stream of pings, and the same number
// of leases.
type LeaseScenario struct {
	Name    string
	Clients int
	Leases  int   // of all clients together
	TTL     int64 // in seconds
	// InFlight is how many pings of a client are under way at a time: another is sent when one is answered. 0 is that each
	// lease is pinged when a third of its TTL has passed, whatever has been answered, as clients do.
	InFlight int
}

// LeaseScenarios is every scenario: a server under load, one client to whom every round trip counts, and leases in numbers
// that are kept alive as in life.
func LeaseScenarios() []LeaseScenario {
	return []LeaseScenario{
		{Name: "load-128", Clients: 8, InFlight: 16, Leases: 8 * 64, TTL: 600},
		{Name: "one", Clients: 1, InFlight: 1, Leases: 16, TTL: 600},
		{Name: "leases-10k", Clients: 100, Leases: 10_000, TTL: 10},
		{Name: "leases-100k", Clients: 100, Leases: 100_000, TTL: 10},
	}
}

// FindLeaseScenarios finds scenarios by their names.
func FindLeaseScenarios(names []string) ([]LeaseScenario, error) {
	return find(names, "scenario", LeaseScenarios(), func(s LeaseScenario) string { return s.Name })
}

// LeaseOptions are how RunLeases measures. All must be positive.
type LeaseOptions struct {
	Targets   []target.Kind
	Scenarios []LeaseScenario
	Rounds    int           // turns of each target in each scenario
	WarmUp    time.Duration // before a turn is measured
	Turn      time.Duration // measured
}

// LeaseResult is what one target did in one scenario.
type LeaseResult struct {
	Scenario LeaseScenario
	Target   target.Kind

	// Failed is why turns of the target have no part in the result: a lease was lost, a ping was not answered, or a process
	// ended.
	Failed []error

	turns []*leaseTurn // all that did not fail; without one the methods below must not be called, but for Turns
}

// leaseTurn is what was measured in one turn.
type leaseTurn struct {
	round   int
	took    time.Duration
	cpu     []float64 // of each process, in microseconds
	latency *hdrhistogram.Histogram
	ended   int
}

func (t *leaseTurn) pings() float64 { return float64(t.latency.TotalCount()) }

func (t *leaseTurn) cpuPerPing() float64 { return sum(t.cpu) / t.pings() }

// Turns is how many turns did not fail.
func (r *LeaseResult) Turns() int { return len(r.turns) }

// Throughput is in answered pings per second.
func (r *LeaseResult) Throughput() Spread {
	return spreadOf(r.turns, func(t *leaseTurn) float64 { return t.pings() / t.took.Seconds() })
}

// CPU is the processor time of all of the target's processes for each ping, in microseconds.
func (r *LeaseResult) CPU() Spread { return spreadOf(r.turns, (*leaseTurn).cpuPerPing) }

// StoreCPU is the part of CPU that the process took which holds the data.
func (r *LeaseResult) StoreCPU() Spread {
	return spreadOf(r.turns, func(t *leaseTurn) float64 { return t.cpu[0] / t.pings() })
}

// Ratio is how many times the other's CPU this one's is, and StoreCPU, of turns of the same round. It is false if there are
// none.
func (r *LeaseResult) Ratio(other *LeaseResult) (all, store Spread, ok bool) {
	var ratios [][2]float64
	for _, t := range r.turns {
		if i := slices.IndexFunc(other.turns, func(o *leaseTurn) bool { return o.round == t.round }); i >= 0 {
			o := other.turns[i].cpuPerPing()
			ratios = append(ratios, [2]float64{t.cpuPerPing() / o, t.cpu[0] / t.pings() / o})
		}
	}
	if len(ratios) == 0 {
		return Spread{}, Spread{}, false
	}
	return spreadOf(ratios, func(r [2]float64) float64 { return r[0] }), spreadOf(ratios, func(r [2]float64) float64 { return r[1] }), true
}

// Latency is what the latencies of a percentage of the pings did not exceed, in milliseconds.
func (r *LeaseResult) Latency(percentile float64) Spread {
	return spreadOf(r.turns, func(t *leaseTurn) float64 { return float64(t.latency.ValueAtPercentile(percentile)) / 1e3 })
}

// Ended is how many of the clients' streams the target has ended in each turn: a ping was not answered in time, and they had
// to come again.
func (r *LeaseResult) Ended() Spread {
	return spreadOf(r.turns, func(t *leaseTurn) float64 { return float64(t.ended) })
}

// RunLeases measures pings of leases, and returns results in the order of Scenarios, and of Targets for each of them. A target
// is started for each turn, because leases that nobody pings any more would burden the next one. A turn that fails is in
// Failed, and the others go on. progress is told what is going on. The targets' data is below a temporary directory, which is
// removed.
func RunLeases(ctx context.Context, bin *proc.Bin, o LeaseOptions, progress func(string)) (results []*LeaseResult, err error) {
	dir, err := os.MkdirTemp("", "weir-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the targets: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	for _, kind := range o.Targets {
		if err := target.Build(ctx, bin, kind); err != nil {
			return nil, err
		}
	}
	for _, s := range o.Scenarios {
		var ofScenario []*LeaseResult
		for _, kind := range o.Targets {
			ofScenario = append(ofScenario, &LeaseResult{Scenario: s, Target: kind})
		}
		for round := range o.Rounds {
			for _, r := range ofScenario {
				progress(fmt.Sprintf("%s, round %d of %d: %s", s.Name, round+1, o.Rounds, r.Target))
				t, err := keepAlive(ctx, bin, r.Target, s, filepath.Join(dir, string(r.Target)), o)
				if ctx.Err() != nil {
					return nil, context.Cause(ctx)
				}
				if err != nil {
					r.Failed = append(r.Failed, err)
					continue
				}
				t.round = round
				r.turns = append(r.turns, t)
			}
		}
		results = append(results, ofScenario...)
	}
	return results, nil
}

// keepAlive is one turn.
func keepAlive(ctx context.Context, bin *proc.Bin, kind target.Kind, s LeaseScenario, data string, o LeaseOptions) (t *leaseTurn, err error) {
	tg, err := target.StartWith(ctx, bin, kind, data, target.Options{MemberArgs: []string{"--unsafe-no-fsync"}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, tg.Close(), os.RemoveAll(data)) }()
	l, err := newLeaseLoad(ctx, tg, s)
	if err != nil {
		return nil, err
	}
	t = &leaseTurn{}
	return t, errors.Join(t.measure(l, o), l.Close())
}

// leaseLoad is all clients of one target in one turn.
type leaseLoad struct {
	*load.Keepers
	target *target.Target
	tracks *tracks
}

func newLeaseLoad(ctx context.Context, tg *target.Target, s LeaseScenario) (*leaseLoad, error) {
	l := &leaseLoad{target: tg, tracks: &tracks{}}
	leases := load.Leases{Clients: s.Clients, Leases: s.Leases, TTL: s.TTL, InFlight: s.InFlight}
	atStore := func() (*grpc.ClientConn, error) { return target.Dial(tg.StoreAddr()) }
	var err error
	if l.Keepers, err = load.NewKeepers(ctx, placeOf(tg, atStore), leases, l.tracks.add); err != nil {
		return nil, fmt.Errorf("keepers of leases at %s: %w", tg.Kind, err)
	}
	return l, nil
}

// measure measures once all leases are there and the warm-up is over.
func (t *leaseTurn) measure(l *leaseLoad, o LeaseOptions) (err error) {
	if err := l.Grant(); err != nil {
		return err
	}
	if err := l.Ping(); err != nil {
		return err
	}
	if err := wait(l.Failed(), o.WarmUp); err != nil {
		return err
	}
	ended := l.Ended()
	l.tracks.measuring.Store(true)
	start := time.Now()
	t.cpu, err = cpuOf(l.target.Processes(), func() error { return wait(l.Failed(), o.Turn) })
	l.tracks.measuring.Store(false)
	if err != nil {
		return err
	}
	t.took, t.ended = time.Since(start), l.Ended()-ended
	if err := l.Stop(); err != nil {
		return err
	}
	if t.latency = l.tracks.latencies(); t.latency.TotalCount() == 0 {
		return fmt.Errorf("%s has answered no ping in %v", l.target.Kind, o.Turn)
	}
	return nil
}
