package suite

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"weir/loadtest/client"
)

// System is what is loaded. It may be used concurrently.
type System struct {
	Name string
	// Endpoints are where clients go, host:port each: the i-th client to the i-th, and around.
	Endpoints []string
	// Store is where data is put that clients find, and whose requests are counted: the members behind a proxy.
	Store []string
	// Client is how to connect to either: its TLS configuration and token. It changes between turns only.
	Client client.Config

	servers servers
	// plainStore: the stores behind a proxy serve plaintext, whatever clients use.
	plainStore bool

	mu     sync.Mutex        // guards direct
	direct map[string]direct // by method
}

// servers are what is behind a System.
type servers interface {
	// processes are those whose processor time and memory are measured, in the order of the report; none if unknown.
	processes() []process
	// requests are how many the store was sent since it started, by method; nil if nobody tells.
	requests(ctx context.Context) (map[string]float64, error)
	// alive is an error, with its last words, if a process has ended.
	alive() error
	// renew has clients that connect from now on be known to the system.
	renew(ctx context.Context, s *System) error
	// clear takes away what a scenario has left, also if ctx has ended, which is the run's. The system is not used again.
	clear(ctx context.Context, s *System) error
}

// Prefix is what all keys begin with that a scenario puts: in a system that runs already others may have theirs.
const Prefix = "loadtest/"

// Endpoint is where the i-th client goes.
func (s *System) Endpoint(i int) string { return s.Endpoints[i%len(s.Endpoints)] }

// Memory is the RSS of all servers now, in bytes; false if it is not known.
func (s *System) Memory() (int64, bool, error) {
	var all int64
	for _, p := range s.servers.processes() {
		n, err := p.memory()
		if err != nil {
			return 0, false, err
		}
		all += n
	}
	return all, all > 0, nil
}

// DialStore opens a connection to one of the stores, the i-th and around, for what is not measured: filling, and writing of
// what others read. What is sent over it is not counted among the requests that the clients have caused.
func (s *System) DialStore(i int) (*grpc.ClientConn, error) {
	addr := s.Store[i%len(s.Store)]
	creds := insecure.NewCredentials()
	if s.Client.TLS != nil && !s.plainStore {
		creds = credentials.NewTLS(s.Client.TLS.Clone())
	}
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(creds), grpc.WithStatsHandler(directCounter{s}),
		grpc.WithPerRPCCredentials(token(s.Client.Token)), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30)))
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	return conn, nil
}

// sentDirectly are the requests over connections of DialStore so far, by method.
func (s *System) sentDirectly() map[string]direct {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.direct)
}

// process is one of a system's servers.
type process struct {
	name, role string // as in report.Process
	cpu        func() (time.Duration, error)
	memory     func() (int64, error)
}

// The roles of processes.
const (
	roleStore = "store"
	roleProxy = "proxy"
)
