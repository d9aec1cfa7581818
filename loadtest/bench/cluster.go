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
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/loadtest/load"
	"weir/loadtest/proc"
	"weir/loadtest/target"
)

// ClusterScenario is how many clients ask the members of a cluster for what. Each has one request under way at a time.
type ClusterScenario struct {
	Workload ClusterWorkload
	Clients  int
	// LeaderOnly has all clients ask the leader. Else each asks the members in turn, a request each, as etcd's client does
	// that was given them all.
	LeaderOnly bool
}

// At says whom the clients ask.
func (s ClusterScenario) At() string {
	if s.LeaderOnly {
		return "leader"
	}
	return "members"
}

func (s ClusterScenario) String() string {
	return fmt.Sprintf("%s-%d at %s", s.Workload, s.Clients, s.At())
}

// ClusterOptions are how RunCluster measures. All must be positive.
type ClusterOptions struct {
	Targets     []target.Kind
	Scenarios   []ClusterScenario
	Connections int // to each member; fewer if there are fewer clients
	Keys        int
	ValueSize   int           // in bytes
	Rounds      int           // turns of each target in each scenario
	WarmUp      time.Duration // before a turn is measured
	Turn        time.Duration // measured
	Dir         string        // below which the data is while it is measured; "" for the system's directory for temporary files
}

// ClusterResult is what one target did in one scenario.
type ClusterResult struct {
	Scenario ClusterScenario
	Target   target.Kind

	// Failed is why turns of the target have no part in the result: a request was refused, answered wrongly or not at all.
	Failed []error

	turns []*clusterTurn // all that did not fail; without one the methods below must not be called, but for Turns
}

// clusterTurn is what was measured in one turn.
type clusterTurn struct {
	round   int
	took    time.Duration
	cpu     float64 // of all processes, in microseconds
	latency *hdrhistogram.Histogram
}

func (t *clusterTurn) ops() float64 { return float64(t.latency.TotalCount()) }

// Turns is how many turns did not fail.
func (r *ClusterResult) Turns() int { return len(r.turns) }

// Throughput is in operations per second.
func (r *ClusterResult) Throughput() Spread { return spreadOf(r.turns, (*clusterTurn).throughput) }

func (t *clusterTurn) throughput() float64 { return t.ops() / t.took.Seconds() }

// CPU is the processor time of all of the target's processes for each operation, in microseconds.
func (r *ClusterResult) CPU() Spread { return spreadOf(r.turns, (*clusterTurn).cpuPerOp) }

func (t *clusterTurn) cpuPerOp() float64 { return t.cpu / t.ops() }

// Latency is what the latencies of a percentage of the operations did not exceed, in milliseconds.
func (r *ClusterResult) Latency(percentile float64) Spread {
	return spreadOf(r.turns, func(t *clusterTurn) float64 { return float64(t.latency.ValueAtPercentile(percentile)) / 1e3 })
}

// Ratio is how many times the other's operations per second this one's are, and operations per second of processor time, of
// turns of the same round. It is false if there are none.
func (r *ClusterResult) Ratio(other *ClusterResult) (throughput, perCPU Spread, ok bool) {
	var ratios [][2]float64
	for _, t := range r.turns {
		if i := slices.IndexFunc(other.turns, func(o *clusterTurn) bool { return o.round == t.round }); i >= 0 {
			o := other.turns[i]
			ratios = append(ratios, [2]float64{t.throughput() / o.throughput(), o.cpuPerOp() / t.cpuPerOp()})
		}
	}
	if len(ratios) == 0 {
		return Spread{}, Spread{}, false
	}
	return spreadOf(ratios, func(r [2]float64) float64 { return r[0] }), spreadOf(ratios, func(r [2]float64) float64 { return r[1] }), true
}

// RunCluster measures requests to clusters, and returns results in the order of Scenarios, and of Targets for each of them.
// All targets run all the time, and are loaded in turns. A turn that fails is in Failed, and the others go on. If ctx ends
// what there is is returned with the error. progress is told what is going on. The data is below a temporary directory, which is removed.
func RunCluster(ctx context.Context, bin *proc.Bin, o ClusterOptions, progress func(string)) (results []*ClusterResult, err error) {
	var targets []*target.Target
	clean, err := startClusters(ctx, bin, o.Targets, o.Dir, nil, func(tg *target.Target) error {
		targets = append(targets, tg)
		progress(fmt.Sprintf("put %d keys to %s", o.Keys, tg.Kind))
		return fillCluster(ctx, tg, o.Keys, 100, o.ValueSize)
	})
	defer func() { err = errors.Join(err, clean()) }()
	if err != nil {
		return nil, err
	}
	for _, s := range o.Scenarios {
		ofScenario := make([]*ClusterResult, len(targets))
		for i, tg := range targets {
			ofScenario[i] = &ClusterResult{Scenario: s, Target: tg.Kind}
		}
		for round := range o.Rounds {
			for i, tg := range targets {
				progress(fmt.Sprintf("%v, round %d of %d: %s", s, round+1, o.Rounds, tg.Kind))
				t, err := loadCluster(ctx, tg, s, o)
				if ctx.Err() != nil {
					return append(results, ofScenario...), context.Cause(ctx)
				}
				if err != nil {
					ofScenario[i].Failed = append(ofScenario[i].Failed, err)
					continue
				}
				t.round = round
				ofScenario[i].turns = append(ofScenario[i].turns, t)
			}
		}
		results = append(results, ofScenario...)
	}
	return results, nil
}

// startClusters starts targets, and gives each to ready when it serves. clean kills those that run, and removes their data; it
// must be called whatever the error.
func startClusters(ctx context.Context, bin *proc.Bin, kinds []target.Kind, below string, args []string,
	ready func(*target.Target) error) (clean func() error, err error) {
	var ends []func() error
	clean = func() error {
		var errs []error
		for _, end := range slices.Backward(ends) {
			errs = append(errs, end())
		}
		return errors.Join(errs...)
	}
	dir, err := os.MkdirTemp(below, "weir-bench-")
	if err != nil {
		return clean, fmt.Errorf("make a directory for the targets: %w", err)
	}
	ends = append(ends, func() error { return os.RemoveAll(dir) })
	// More than all keys and their history need.
	args = append([]string{fmt.Sprintf("--quota-backend-bytes=%d", int64(8<<30))}, args...)
	for _, kind := range kinds {
		tg, err := target.StartWith(ctx, bin, kind, filepath.Join(dir, string(kind)), target.Options{MemberArgs: args})
		if err != nil {
			return clean, err
		}
		ends = append(ends, func() error { return killAll(tg) })
		if err := ready(tg); err != nil {
			return clean, fmt.Errorf("%s: %w", kind, err)
		}
	}
	return clean, nil
}

func killAll(tg *target.Target) error {
	var errs []error
	for _, p := range tg.Processes() {
		errs = append(errs, p.Kill())
	}
	return errors.Join(errs...)
}

// entries are where clients of a target go: to its members, or to the proxy before them.
func entries(tg *target.Target) []*target.Server {
	all := tg.Servers()
	if tg.Kind.Proxies() > 0 {
		return all[len(all)-1:]
	}
	return all
}

// memberServers are those that hold the data.
func memberServers(tg *target.Target) []*target.Server { return tg.Servers()[:tg.Kind.Members()] }

// leaderOf is the member that says it leads. It waits for one.
func leaderOf(ctx context.Context, tg *target.Target) (leader *target.Server, err error) {
	ctx, cancel := context.WithTimeout(ctx, load.Patience)
	defer cancel()
	members := memberServers(tg)
	err = members[0].WaitReady(ctx, func(ctx context.Context) error {
		var errs []error
		for _, s := range members {
			leads, err := leadsCluster(ctx, s)
			if err == nil && leads {
				leader = s
				return nil
			}
			errs = append(errs, err)
		}
		return errors.Join(errors.New("no member says that it leads"), errors.Join(errs...))
	})
	return leader, err
}

func leadsCluster(ctx context.Context, s *target.Server) (bool, error) {
	conn, err := target.Dial(s.Addr)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	r, err := pb.NewMaintenanceClient(conn).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		return false, fmt.Errorf("ask %s who leads: %w", s.Name(), err)
	}
	return r.Leader == r.Header.MemberId, nil
}
