package coalesce

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"weir/loadtest/target"
)

// What an etcd member says of itself.
const (
	watchersMetric = "etcd_debugging_mvcc_watcher_total"              // that it has now
	streamsMetric  = `grpc_server_started_total{grpc_method="Watch",` // ever begun
	sentMetric     = "etcd_network_client_grpc_sent_bytes_total"
)

// metric is the sum of all members' metrics whose name and labels begin so.
func (s *site) metric(name string) int {
	s.Helper()
	n, err := s.readMetric(name)
	s.must(err)
	return n
}

func (s *site) readMetric(name string) (int, error) {
	sum := 0
	for _, m := range s.cluster.Members {
		n, err := s.readMetricOf(m, name)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

func (s *site) readMetricOf(m *target.Member, name string) (int, error) {
	body, err := get(s.ctx, m.Addr, "/metrics")
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for line := range strings.Lines(body) {
		if !strings.HasPrefix(line, name) {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' ')+1:]), 64)
		if err != nil {
			return 0, err
		}
		sum += v
	}
	return int(sum), nil
}

// upstreamWatchers is how many watchers the members have, all together.
func (s *site) upstreamWatchers() int {
	s.Helper()
	return s.metric(watchersMetric)
}

// settleWithin bounds how long the proxy keeps upstream watches that it could do without.
const settleWithin = 8 * time.Second

// awaitUpstream waits until there are exactly n watchers upstream.
func (s *site) awaitUpstream(n int, when string) {
	s.Helper()
	s.eventually(settleWithin, fmt.Sprintf("%d watchers upstream %s", n, when), func() error {
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
			n, failed = s.readMetric(watchersMetric)
			highest = max(highest, n)
		}
	})
	func() {
		defer sampling.Wait()
		defer close(done)
		f()
	}()
	s.must(failed)
	return highest
}

// get fetches what a server serves over HTTP.
func get(ctx context.Context, addr, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return "", err
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s of %s: %s", path, addr, r.Status)
	}
	return string(b), err
}

// goroutines is how many the proxy next to the clients has; it needs --enable-pprof.
func (s *site) goroutines() int {
	s.Helper()
	body, err := get(s.ctx, s.endpoint(), "/debug/pprof/goroutine?debug=1")
	s.must(err)
	var n int
	_, err = fmt.Sscanf(body, "goroutine profile: total %d", &n)
	s.must(err)
	return n
}

// heap is how many bytes on the heap of the proxy next to the clients are in use, garbage not counted; it needs
// --enable-pprof.
func (s *site) heap() int {
	s.Helper()
	body, err := get(s.ctx, s.endpoint(), "/debug/pprof/heap?gc=1&debug=1")
	s.must(err)
	_, rest, _ := strings.Cut(body, "\n# HeapAlloc = ")
	digits, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.Atoi(digits)
	s.must(err)
	return n
}
