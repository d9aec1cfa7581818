package scale

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"google.golang.org/grpc"

	"weir/loadtest/load"
	"weir/loadtest/proc"
	"weir/loadtest/target"
)

// bench runs trials, one at a time.
type bench struct {
	bin          *proc.Bin
	dir          string // for data, one trial's at a time
	effort       Effort
	progress     func(string)
	busiest      float64 // of all samples' busy
	busiestTrial string
}

// newBench makes a bench, which is to be closed.
func newBench(bin *proc.Bin, e Effort, progress func(string)) (*bench, error) {
	dir, err := os.MkdirTemp("", "weir-scale-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for data: %w", err)
	}
	return &bench{bin: bin, dir: dir, effort: e, progress: progress}, nil
}

func (b *bench) close() error {
	if err := os.RemoveAll(b.dir); err != nil {
		return fmt.Errorf("remove the directory for data: %w", err)
	}
	return nil
}

// run starts the trial's servers and clients, measures, and ends them.
func (b *bench) run(ctx context.Context, t trial) (s sample, err error) {
	b.progress(t.name)
	place := &site{}
	dir := filepath.Join(b.dir, "data")
	defer func() {
		if err = errors.Join(err, place.close(), os.RemoveAll(dir)); err != nil {
			err = fmt.Errorf("%s: %w", t.name, err)
		}
	}()
	if err := place.start(ctx, b.bin, dir, t); err != nil {
		return s, err
	}
	if s, err = place.measure(ctx, t, b.effort.Length); err != nil {
		return s, err
	}
	if s.busy > b.busiest {
		b.busiest, b.busiestTrial = s.busy, t.name
	}
	return s, nil
}

// Before what is measured there are some writes, which in a trial that is quiet then take a while.
const (
	warmUps     = 10
	quietWarmUp = 100 * time.Millisecond
)

// measure connects the clients, and measures for about a time.
func (s *site) measure(ctx context.Context, t trial, length time.Duration) (m sample, err error) {
	tracks := make([]track, t.connections)
	clients, err := s.connect(ctx, t, tracks)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, clients.Close()) }()
	if err := clients.Watch(); err != nil {
		return m, err
	}
	write := func(n int) error { return errors.Join(clients.Write(n), clients.Await()) }
	if err := write(warmUps); err != nil {
		return m, err
	}
	for i := range tracks {
		tracks[i].reset()
	}
	n := int(math.Ceil(t.rate * length.Seconds()))
	if t.profiled {
		n *= serialLonger
	}
	m.writes = float64(n)
	during := func() error { return write(n) }
	switch {
	case t.rate == 0:
		during = func() error { return pause(ctx, length) }
	case t.profiled:
		during = func() (err error) {
			m.serial, err = serialShare(ctx, s.last(), serialLonger*length, func() error { return write(n) })
			return err
		}
	}
	if err := s.observe(ctx, &m, during); err != nil {
		return m, err
	}
	all := load.NewHistogram()
	for i := range tracks {
		all.Merge(tracks[i].latency)
	}
	m.latency = Latency{P50: float64(all.ValueAtPercentile(50)) / 1e3, P99: float64(all.ValueAtPercentile(99)) / 1e3}
	return m, nil
}

// connect connects the clients of a trial, each connection with a track.
func (s *site) connect(ctx context.Context, t trial, tracks []track) (*load.Watchers, error) {
	for i := range tracks {
		tracks[i].latency = load.NewHistogram()
	}
	watches := load.Watches{
		Prefix: keyPrefix, Watchers: t.watchers, Connections: t.connections, SingleKey: t.ownKeys,
		ValueSize: t.valueSize, Puts: t.batch, Rate: t.rate,
	}
	if t.rate == 0 {
		watches.Rate = warmUps / quietWarmUp.Seconds()
	}
	leaves := s.leaves()
	return load.NewWatchers(ctx, load.Place{
		Endpoint: func(i int) string { return leaves[i%len(leaves)].Addr },
		Dial:     func() (*grpc.ClientConn, error) { return target.Dial(s.core.Members[0].Addr) },
	}, watches, func(i int) load.Track { return &tracks[i] })
}

// observe fills in what the servers and the machine tell of the time in which f ran, and of its end.
func (s *site) observe(ctx context.Context, m *sample, f func() error) error {
	sent, err := s.sent(ctx)
	if err != nil {
		return err
	}
	before, err := readBusy()
	if err != nil {
		return err
	}
	core, proxies, err := s.cpu()
	if err != nil {
		return err
	}
	start := time.Now()
	if err := f(); err != nil {
		return err
	}
	m.seconds = time.Since(start).Seconds()
	if m.core, m.proxies, err = s.cpu(); err != nil {
		return err
	}
	m.core -= core
	for i := range m.proxies {
		for j := range m.proxies[i] {
			m.proxies[i][j] -= proxies[i][j]
		}
	}
	after, err := readBusy()
	if err != nil {
		return err
	}
	m.busy = after.since(before)
	if m.sent, err = s.sent(ctx); err != nil {
		return err
	}
	m.sent -= sent
	rss, err := s.last().Memory()
	if err != nil {
		return err
	}
	m.memory = float64(rss)
	m.upstream, err = s.watches(ctx)
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// track has the latencies of what one connection was given.
type track struct {
	mu      sync.Mutex // guards latency
	latency *hdrhistogram.Histogram
}

// Done is load.Track's.
func (t *track) Done(begun time.Time, _ int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	load.Record(t.latency, time.Since(begun))
}

// reset forgets all latencies.
func (t *track) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.latency.Reset()
}
