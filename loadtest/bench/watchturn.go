package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"

	"weir/loadtest/proc"
	"weir/loadtest/target"
)

// watchTurn is what was measured in one turn: with no watchers first, then with them.
type watchTurn struct {
	writes, events int64
	// cpu is the processor time of each process with watchers, in microseconds, and idle that without.
	cpu, idle []float64
	idleShare float64 // how many times longer cpu was measured than idle, for as many times more writes
	latency   *hdrhistogram.Histogram
	// rss is by how many bytes all processes grew while the watchers were created, and rssLoaded that and what they grew
	// by while events were delivered.
	rss, rssLoaded int64
	upstream       int // watchers of the etcd behind a proxy, negative if unknown
}

// watchRun starts a target and its clients for one turn.
type watchRun struct {
	bin         *proc.Bin
	kind        target.Kind
	scenario    Scenario
	connections int
	dir         string // for data
	tls         *target.TLS
}

// with gives run a target that has just been started and its clients, connected, and ends both after it.
func (w *watchRun) with(ctx context.Context, o target.Options, run func(*watchLoad) error) (err error) {
	o.TLS = w.tls
	tg, err := target.StartWith(ctx, w.bin, w.kind, w.dir, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tg.Close(), os.RemoveAll(w.dir)) }()
	load, err := newWatchLoad(ctx, tg, w.scenario, w.connections)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, load.Close()) }()
	return run(load)
}

// idleRatio is how many times longer is measured with watchers than without.
const idleRatio = 2

// warmUps are writes before a measurement.
const warmUps = 3

func (w *watchRun) turn(ctx context.Context, length time.Duration) (*watchTurn, error) {
	idle := int(math.Ceil(length.Seconds() * w.scenario.Rate / idleRatio))
	writes := idle * idleRatio
	t := &watchTurn{writes: int64(writes), idleShare: idleRatio, upstream: -1}
	err := w.with(ctx, target.Options{}, func(l *watchLoad) error {
		processes := l.target.Processes()
		if err := l.Write(warmUps); err != nil {
			return err
		}
		var err error
		if t.idle, err = cpuOf(processes, func() error { return l.Write(idle) }); err != nil {
			return err
		}
		before, err := rssOf(processes)
		if err != nil {
			return err
		}
		if err := l.Watch(); err != nil {
			return err
		}
		after, err := rssOf(processes)
		if err != nil {
			return err
		}
		t.rss = after - before
		if _, err := l.deliver(warmUps); err != nil {
			return err
		}
		t.events = int64(writes) * l.watches.EventsPerWrite()
		if t.cpu, err = cpuOf(processes, func() error {
			t.latency, err = l.deliver(writes)
			return err
		}); err != nil {
			return err
		}
		loaded, err := rssOf(processes)
		if err != nil {
			return err
		}
		t.rssLoaded = loaded - before
		if tellsWatchers(w.kind) {
			t.upstream, err = watchersOf(ctx, l.target.Servers()[0])
		}
		return err
	})
	return t, err
}

// cpuOf is how much processor time each process took while f ran, in microseconds.
func cpuOf(processes []*proc.Process, f func() error) ([]float64, error) {
	var took []float64
	for _, p := range processes {
		d, err := p.CPU()
		if err != nil {
			return nil, err
		}
		took = append(took, -float64(d.Nanoseconds())/1e3)
	}
	if err := f(); err != nil {
		return nil, err
	}
	for i, p := range processes {
		d, err := p.CPU()
		if err != nil {
			return nil, err
		}
		took[i] += float64(d.Nanoseconds()) / 1e3
	}
	return took, nil
}

func rssOf(processes []*proc.Process) (int64, error) {
	var all int64
	for _, p := range processes {
		n, err := p.Memory()
		if err != nil {
			return 0, err
		}
		all += n
	}
	return all, nil
}

// hasHeap tells whether all processes of a kind have profiles to be asked for. A core has none.
func hasHeap(k target.Kind) bool {
	return k == target.Etcd37 || k == target.GRPCProxyEtcd37 || k == target.ProxyEtcd37
}

// heap is the growth of live memory for each watcher, in bytes. It is not measured in the same turn as the processor
// time, because an etcd that serves profiles also samples its locks.
func (w *watchRun) heap(ctx context.Context) (perWatcher float64, err error) {
	const flag = "--enable-pprof"
	err = w.with(ctx, target.Options{MemberArgs: []string{flag}, ProxyArgs: []string{flag}}, func(l *watchLoad) error {
		if err := l.Write(warmUps); err != nil {
			return err
		}
		before, err := w.heapOf(ctx, l.target)
		if err != nil {
			return err
		}
		if err := l.Watch(); err != nil {
			return err
		}
		if _, err := l.deliver(1); err != nil {
			return err
		}
		after, err := w.heapOf(ctx, l.target)
		perWatcher = float64(after-before) / float64(w.scenario.Watchers)
		return err
	})
	return perWatcher, err
}

// heapOf is the live memory of all processes.
func (w *watchRun) heapOf(ctx context.Context, tg *target.Target) (int64, error) {
	var all int64
	for _, s := range tg.Servers() {
		live, err := liveMemory(ctx, s)
		if err != nil {
			return 0, fmt.Errorf("memory of %s: %w", w.kind, err)
		}
		all += live
	}
	return all, nil
}

// liveMemory is the live heap and the stacks, in bytes, of a process that serves profiles.
func liveMemory(ctx context.Context, s *target.Server) (int64, error) {
	// Twice, because the first collection leaves what was in a sync.Pool.
	if _, err := s.Heap(ctx); err != nil {
		return 0, err
	}
	h, err := s.Heap(ctx)
	return h.Alloc + h.Stack, err
}

// tellsWatchers tells whether there is an etcd, which has metrics, behind a proxy.
func tellsWatchers(k target.Kind) bool { return k == target.GRPCProxyEtcd37 || k == target.ProxyEtcd37 }

// watchersOf is how many watchers an etcd has.
func watchersOf(ctx context.Context, etcd *target.Server) (int, error) {
	text, err := etcd.Get(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	n, err := metric(text, "\netcd_debugging_mvcc_watcher_total ")
	if err != nil {
		return 0, fmt.Errorf("watchers of etcd: %w", err)
	}
	return int(n), nil
}

// metric is the number behind the first occurrence of prefix.
func metric(text, prefix string) (float64, error) {
	_, rest, ok := strings.Cut(text, prefix)
	var n float64
	if !ok {
		return 0, fmt.Errorf("no %q", prefix)
	}
	if _, err := fmt.Fscan(bufio.NewReader(strings.NewReader(rest)), &n); err != nil {
		return 0, fmt.Errorf("read the number behind %q: %w", prefix, err)
	}
	return n, nil
}
