package coalesce

import (
	"fmt"
	"sync"
	"time"
)

// What an etcd member says of itself.
const (
	watchersMetric = "etcd_debugging_mvcc_watcher_total"              // that it has now
	streamsMetric  = `grpc_server_started_total{grpc_method="Watch",` // ever begun
	sentMetric     = "etcd_network_client_grpc_sent_bytes_total"
)

// upstreamWatchers is how many watchers the members have, all together.
func (s *site) upstreamWatchers() int {
	s.Helper()
	return s.Metric(watchersMetric)
}

// settleWithin bounds how long the proxy keeps upstream watches that it could do without.
const settleWithin = 8 * time.Second

// awaitUpstream waits until there are exactly n watchers upstream.
func (s *site) awaitUpstream(n int, when string) {
	s.Helper()
	s.Eventually(settleWithin, fmt.Sprintf("%d watchers upstream %s", n, when), func() error {
		if got := s.upstreamWatchers(); got != n {
			return fmt.Errorf("there are %d", got)
		}
		return nil
	})
}

// peak samples the number of upstream watchers while f runs, and returns the highest.
func (s *site) peak(f func()) int {
	s.Helper()
	done := make(chan struct{})
	var (
		sampling sync.WaitGroup
		highest  int
		failed   error
	)
	sampling.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for failed == nil {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			var n int
			n, failed = s.Cluster.Metric(s.Ctx, watchersMetric)
			highest = max(highest, n)
		}
	})
	func() {
		defer sampling.Wait()
		defer close(done)
		f()
	}()
	s.Must(failed)
	return highest
}

// goroutines is how many the proxy next to the clients has; it needs --enable-pprof.
func (s *site) goroutines() int {
	s.Helper()
	n, err := s.Front().Goroutines(s.Ctx)
	s.Must(err)
	return n
}
