package target

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"weir/loadtest/proc"
)

// Server is a process that answers etcd's API, and tells of itself over HTTP at the same address. Its methods may be
// called concurrently, but for those of the process.
type Server struct {
	*proc.Process
	Addr string // host:port

	tls *TLS // nil for plaintext
}

// Get is what the server has at a path, like /metrics. An answer other than 200 is an error.
func (s *Server) Get(ctx context.Context, path string) (string, error) {
	url, transport := "http://"+s.Addr+path, &http.Transport{}
	if s.tls != nil {
		url, transport.TLSClientConfig = "https://"+s.Addr+path, s.tls.Client.Clone()
	}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", fmt.Errorf("get %s: %w", url, err)
	}
	r, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return "", fmt.Errorf("get %s: %w", url, err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = errors.New(r.Status)
	}
	if err != nil {
		return "", fmt.Errorf("get %s: %w", url, err)
	}
	return string(body), nil
}

// Metric is the sum of the metrics whose name and labels begin so; 0 if there are none.
func (s *Server) Metric(ctx context.Context, name string) (int, error) {
	return s.metric(ctx, "/metrics", name)
}

// ProxyMetric is Metric of what a proxy of weir says of itself. Unlike its status everybody may see it.
func (s *Server) ProxyMetric(ctx context.Context, name string) (int, error) {
	return s.metric(ctx, "/proxy/metrics", name)
}

func (s *Server) metric(ctx context.Context, path, name string) (int, error) {
	body, err := s.Get(ctx, path)
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
			return 0, fmt.Errorf("metric %s of %s: %w", name, s.Name(), err)
		}
		sum += v
	}
	return int(sum), nil
}

// Status decodes what weir's proxy says of itself, which is JSON, into a struct of what the caller wants to know. Authentication
// must be off.
func (s *Server) Status(ctx context.Context, into any) error {
	body, err := s.Get(ctx, "/weir/status")
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(body), into); err != nil {
		return fmt.Errorf("decode the status of %s: %w", s.Name(), err)
	}
	return nil
}

// Heap is what Go's runtime says of the memory of a process, in bytes.
type Heap struct {
	Alloc int64 // of objects that are reachable, and of those that became garbage since the last collection
	Stack int64 // of goroutines
}

// Heap collects garbage and measures. It needs --enable-pprof.
func (s *Server) Heap(ctx context.Context) (Heap, error) {
	body, err := s.Get(ctx, "/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		return Heap{}, err
	}
	var h Heap
	for name, into := range map[string]*int64{"HeapAlloc": &h.Alloc, "Stack": &h.Stack} {
		_, rest, _ := strings.Cut(body, "\n# "+name+" = ")
		if _, err := fmt.Sscan(rest, into); err != nil {
			return Heap{}, fmt.Errorf("read %s in the heap profile of %s: %w", name, s.Name(), err)
		}
	}
	return h, nil
}

// Goroutines is how many the process has. It needs --enable-pprof.
func (s *Server) Goroutines(ctx context.Context) (int, error) {
	body, err := s.Get(ctx, "/debug/pprof/goroutine?debug=1")
	if err != nil {
		return 0, err
	}
	var n int
	if _, err := fmt.Sscanf(body, "goroutine profile: total %d", &n); err != nil {
		return 0, fmt.Errorf("read the goroutine profile of %s: %w", s.Name(), err)
	}
	return n, nil
}
