package scale

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"weir/loadtest/proc"
	"weir/loadtest/target"
)

// site is a core with a tree of proxies before it, each a process, for one trial.
type site struct {
	core   *target.Cluster
	levels [][]*target.Server // from the core down; those of a level have those of the level above by turns
}

// start starts the servers. close is needed after an error too.
func (s *site) start(ctx context.Context, bin *proc.Bin, dir string, t trial) (err error) {
	if s.core, err = target.StartCluster(ctx, bin, proc.Core, dir, target.ClusterOptions{}); err != nil {
		return err
	}
	var args []string
	if t.profiled {
		args = append(args, "--enable-pprof")
	}
	above := []*target.Server{s.core.Members[0].Server}
	for _, n := range t.proxies {
		level := len(s.levels)
		s.levels = append(s.levels, nil)
		for i := range n {
			p, err := target.StartProxy(ctx, bin, []string{above[i%len(above)].Addr}, args...)
			if err != nil {
				return err
			}
			s.levels[level] = append(s.levels[level], p)
		}
		above = s.levels[level]
	}
	return nil
}

// close ends the servers, those next to the clients first.
func (s *site) close() error {
	var errs []error
	for i := len(s.levels) - 1; i >= 0; i-- {
		for _, p := range s.levels[i] {
			errs = append(errs, p.Stop())
		}
	}
	if s.core != nil {
		errs = append(errs, s.core.Close())
	}
	return errors.Join(errs...)
}

// leaves are the servers that clients go to.
func (s *site) leaves() []*target.Server {
	if n := len(s.levels); n > 0 {
		return s.levels[n-1]
	}
	return []*target.Server{s.core.Members[0].Server}
}

// last is the last of the leaves.
func (s *site) last() *target.Server {
	leaves := s.leaves()
	return leaves[len(leaves)-1]
}

// watches is how many the core has.
func (s *site) watches(ctx context.Context) (float64, error) {
	n, err := s.core.Metric(ctx, "etcd_debugging_mvcc_watcher_total")
	return float64(n), err
}

// sent is how many bytes of messages the last proxy has sent to its clients so far; 0 if there is no proxy.
func (s *site) sent(ctx context.Context) (float64, error) {
	if len(s.levels) == 0 {
		return 0, nil
	}
	text, err := s.last().Get(ctx, "/proxy/metrics") // what it has at /metrics is of its upstream
	if err != nil {
		return 0, err
	}
	const name = "etcd_network_client_grpc_sent_bytes_total"
	_, rest, _ := strings.Cut(text, "\n"+name+" ")
	value, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.ParseFloat(value, 64)
	if err != nil {
		return 0, fmt.Errorf("read %s of a proxy: %w", name, err)
	}
	return n, nil
}

// cpu is the processor time that each process has taken so far, in microseconds: the core, and the proxies by level.
func (s *site) cpu() (core float64, proxies [][]float64, err error) {
	of := func(p *proc.Process) float64 {
		d, cpuErr := p.CPU()
		err = errors.Join(err, cpuErr)
		return float64(d.Nanoseconds()) / 1e3
	}
	core = of(s.core.Members[0].Process)
	for _, level := range s.levels {
		var all []float64
		for _, p := range level {
			all = append(all, of(p.Process))
		}
		proxies = append(proxies, all)
	}
	return core, proxies, err
}
