package reads

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// What an etcd member says of itself.
const (
	rangesMetric = `grpc_server_started_total{grpc_method="Range",` // ever begun
	sentMetric   = "etcd_network_client_grpc_sent_bytes_total"
)

// hits is how many reads the proxy next to the clients has answered from memory; at a member 0.
func (s *site) hits() int {
	s.Helper()
	if len(s.proxies) == 0 {
		return 0
	}
	reads := s.status().Reads
	return reads.Linearizable + reads.Serializable
}

// proxyStatus is a part of what the proxy says of itself.
type proxyStatus struct {
	Reads       struct{ Linearizable, Serializable int } // answered from memory
	SharedReads struct{ Calls, Shared int }              `json:"shared_reads"` // forwarded
}

// status is that of the proxy next to the clients.
func (s *site) status() proxyStatus {
	s.Helper()
	body, err := fetch(s.ctx, s.endpoint(), "/weir/status")
	s.must(err)
	var now proxyStatus
	s.must(json.Unmarshal([]byte(body), &now))
	return now
}

// metric is the sum of all members' metrics whose name and labels begin so.
func (s *site) metric(name string) int {
	s.Helper()
	sum := 0.0
	for _, m := range s.cluster.Members {
		body, err := fetch(s.ctx, m.Addr, "/metrics")
		s.must(err)
		for line := range strings.Lines(body) {
			if strings.HasPrefix(line, name) {
				v, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' ')+1:]), 64)
				s.must(err)
				sum += v
			}
		}
	}
	return int(sum)
}

// heap is how many bytes on the heap of the proxy next to the clients are in use, garbage not counted; it needs
// --enable-pprof.
func (s *site) heap() int {
	s.Helper()
	body, err := fetch(s.ctx, s.endpoint(), "/debug/pprof/heap?gc=1&debug=1")
	s.must(err)
	_, rest, _ := strings.Cut(body, "\n# HeapAlloc = ")
	digits, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.Atoi(digits)
	s.must(err)
	return n
}

// fetch gets what a server serves over HTTP.
func fetch(ctx context.Context, addr, path string) (string, error) {
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
