package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/coalesce"
	"weir/proxy/feed"
	"weir/proxy/reads"
)

// Proxy forwards RPCs to the current one of its upstream members. All methods may be called concurrently, Close
// only after the last RPC has ended or been cancelled.
//
// An RPC goes to another member only if it was certainly not sent to the first: no stream was made on any
// connection for it. (gRPC itself repeats what a server has certainly not processed, on the same connection.)
// Everything else that fails comes back as Unavailable, reads too: clients repeat reads themselves, and only they
// know whether it is still worth it.
type Proxy struct {
	upstream *upstream
	feeds    *feed.Set
	reads    *reads.Keeper
	flight   *coalesce.Flight[answer] // reads that are forwarded
	bypassed atomic.Uint64            // see Status
	pumps    sync.WaitGroup           // one for each open stream, see Stream
}

// Config says where upstream is and how to reach it.
type Config struct {
	// Endpoints are the members: http://host:port, https://host:port, unix://path, unixs://path or host:port,
	// which is https if TLS is set.
	Endpoints []string
	// TLS makes the configuration of each new connection to an endpoint that wants it, and may be called concurrently; nil
	// means the system's roots and no client certificate.
	TLS func() *tls.Config
	// KeepAliveTime is after how long without traffic a connection is pinged; 0 means never. gRPC makes it at least
	// 10 s.
	KeepAliveTime time.Duration
	// KeepAliveTimeout is how long a ping may take before the connection is given up; 0 means 20 s.
	KeepAliveTimeout time.Duration
	// PermitWithoutStream lets connections without RPCs be pinged too.
	PermitWithoutStream bool
	// MaxRecvBytes bounds an answer from upstream; 0 means 2 GiB - 1.
	MaxRecvBytes int
	// Feeds are prefixes of keys for which there is always one upstream watch; "" is the whole key space.
	Feeds []string
	// WatchHistoryBytes bounds the recent events that all feeds together keep in memory.
	WatchHistoryBytes int
	// CachePrefixes are prefixes of keys that are always kept in memory, if they fit; "" is the whole key space.
	CachePrefixes []string
	// CacheBytes bounds what is kept in memory to answer reads from; 0 keeps nothing.
	CacheBytes int
	// MaxStaleness is how old the answer of a serializable read may be while upstream can be asked.
	MaxStaleness time.Duration
	// ReadCheckInterval is the least time between two questions upstream for linearizable reads.
	ReadCheckInterval time.Duration
	// MaxRangeKeys and MaxRangeBytes bound the answer of a Range without identity; 0 is no bound.
	MaxRangeKeys, MaxRangeBytes int64
	// Dial replaces the network, for a member in this process. It is given an element of Endpoints.
	Dial func(ctx context.Context, endpoint string) (net.Conn, error)
	// Logger is slog.Default() when nil.
	Logger *slog.Logger
}

// New starts connecting to every endpoint and returns without waiting. Its error is that of the configuration.
func New(cfg Config) (*Proxy, error) {
	if cfg.MaxRecvBytes == 0 {
		cfg.MaxRecvBytes = math.MaxInt32
	}
	if cfg.KeepAliveTimeout == 0 {
		cfg.KeepAliveTimeout = 20 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	u, err := newUpstream(cfg)
	if err != nil {
		return nil, err
	}
	feeds := feed.NewSet(feed.Config{
		Upstream: feedUpstream{u}, Fixed: cfg.Feeds, HistoryBytes: cfg.WatchHistoryBytes,
		CheckInterval: cfg.ReadCheckInterval, Logger: cfg.Logger,
	})
	keeper, err := reads.New(reads.Config{
		Upstream: readUpstream{feeds}, Hub: feeds.Hub(), Fixed: cfg.CachePrefixes, Bytes: cfg.CacheBytes,
		MaxStaleness: cfg.MaxStaleness, MaxKeys: cfg.MaxRangeKeys, MaxBytes: cfg.MaxRangeBytes, Logger: cfg.Logger,
	})
	if err != nil {
		feeds.Close()
		u.close()
		return nil, fmt.Errorf("cache of reads: %w", err)
	}
	return &Proxy{upstream: u, feeds: feeds, reads: keeper, flight: coalesce.NewFlight[answer](sharePatience)}, nil
}

// Close ends the connections and waits for everything that the Proxy started.
func (p *Proxy) Close() error {
	p.reads.Close() // which watches by the feeds
	p.feeds.Close()
	p.flight.Close()
	p.upstream.close()
	p.pumps.Wait()
	return nil
}

// Status is what the proxy has in memory and what it has done, in counts since it started.
type Status struct {
	Upstream UpstreamStatus `json:"upstream"`
	Reads    reads.Stats    `json:"reads"`
	// SharedReads are calls upstream for forwarded reads, and how many reads were answered by another's.
	SharedReads coalesce.FlightStats `json:"shared_reads"`
	// Bypassed are Ranges that are forwarded whatever is in memory: with an identity, or metadata that demands it.
	Bypassed uint64 `json:"bypassed"`
	// Checks are questions upstream on behalf of linearizable reads from memory.
	Checks uint64 `json:"checks"`
}

// UpstreamStatus is what upstream is known to be.
type UpstreamStatus struct {
	// Connected says that there is a member at hand.
	Connected bool `json:"connected"`
	// Shared says that reads and watches without an identity may be answered from memory: authentication is off.
	Shared bool `json:"shared"`
	// Revision is the newest that is known.
	Revision int64 `json:"revision"`
	// AnsweredBefore is how many seconds ago the last linearizable read was sent that was answered; -1 if none was.
	AnsweredBefore float64 `json:"answered_before_seconds"`
}

// Status is as of now.
func (p *Proxy) Status() Status {
	now := p.feeds.Standing()
	u := UpstreamStatus{Connected: now.Connected, Shared: now.Shared, Revision: p.feeds.Hub().Revision(), AnsweredBefore: -1}
	if at := p.feeds.ProvenAt(math.MaxInt64); !at.IsZero() {
		u.AnsweredBefore = time.Since(at).Seconds()
	}
	return Status{
		Upstream: u, Reads: p.reads.Stats(), SharedReads: p.flight.Stats(), Bypassed: p.bypassed.Load(), Checks: p.feeds.Checks(),
	}
}

// Ready returns nil if a member is connected, else one error that names each endpoint and what is wrong with it.
func (p *Proxy) Ready(ctx context.Context) error { return p.upstream.ready(ctx) }

// errNoMember is answered when no member is connected and none may soon be. The text is one that client/v3 knows to
// mean that nothing was sent, so that it tries again by itself, writes too.
var errNoMember = status.Error(codes.Unavailable, "there is no connection available")
