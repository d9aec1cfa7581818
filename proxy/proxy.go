package proxy

import (
	"context"
	"crypto/tls"
	"errors"
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
	"weir/grpcapi/wire"
	"weir/proxy/access"
	"weir/proxy/fair"
	"weir/proxy/feed"
	"weir/proxy/reads"
	"weir/proxy/tenants"
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
	guard    *access.Guard
	registry *registry // nil if the proxy is not registered
	feeds    *feed.Set
	reads    *reads.Keeper
	pings    *pings
	tenants  *tenants.Table
	gated    bool                         // its clients are told apart
	pool     *fair.Pool[tenants.Identity] // of calls upstream
	shares   bool                         // that pool has a bound
	flight   *coalesce.Flight[answer]     // reads that are forwarded
	bypassed atomic.Uint64                // see Status
	busy     busy
	roll     roll
	begun    chan struct{}  // closed when New returns the Proxy
	pumps    sync.WaitGroup // one for each open stream, see Stream
}

// Config says where upstream is and how to reach it.
type Config struct {
	// Endpoints are the members: http://host:port, https://host:port, unix://path, unixs://path or host:port,
	// which is https if TLS is set.
	Endpoints []string
	// Discovery finds the members by DNS. Endpoints are then those to begin with, and there may be none.
	Discovery Discovery
	// EndpointsSyncInterval is how often the members are looked for among themselves; 0 is never.
	EndpointsSyncInterval time.Duration
	// Registration tells clients of the proxy where it is, and the proxies beside it.
	Registration Registration
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
	// User and Password are whom upstream is to take the proxy for, where authentication is on; "" is nobody. With a user that
	// may read every key (of the namespace) clients share reads and watches as far as each of them is permitted to.
	User, Password string
	// ClientCertificate says that TLS shows a client certificate: upstream may take the proxy for the user that is its CommonName,
	// and for somebody, who has no rights, if that is "".
	ClientCertificate bool
	CommonName        string
	// Namespace goes before every key of every client; "" is none.
	Namespace string
	// TenantsFile says which clients have which part of the keys, and how much of what; "" is none. See tenants.Config.
	TenantsFile string
	// Limits bound what one client may ask for, as far as TenantsFile does not.
	Limits tenants.Limits
	// Reloads says that Reload may make limits and tenants where there are none. Without a TenantsFile nobody would be told apart
	// else.
	Reloads bool
	// MaxUpstreamCalls bounds the short calls upstream at a time, which clients share by weight; 0 is no bound.
	MaxUpstreamCalls int
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

// Check tells all that New would refuse, and neither connects to anything nor asks DNS. It reads TenantsFile.
func (cfg Config) Check() error {
	var errs []error
	for _, e := range cfg.Endpoints {
		_, err := cfg.endpoint(e)
		errs = append(errs, err)
	}
	return errors.Join(append(errs, cfg.tenants().Check())...)
}

// tenants is the part of cfg that says who may do what.
func (cfg Config) tenants() tenants.Config {
	return tenants.Config{File: cfg.TenantsFile, Namespace: cfg.Namespace, Limits: cfg.Limits, Reloads: cfg.Reloads, Logger: cfg.Logger}
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
	p := &Proxy{upstream: u, begun: make(chan struct{}), shares: cfg.MaxUpstreamCalls > 0, flight: coalesce.NewFlight[answer](sharePatience)}
	p.pool = fair.New[tenants.Identity](fair.Config{
		Slots: cfg.MaxUpstreamCalls, MaxQueuedBytes: maxQueuedBytes, MaxQueued: maxQueuedCalls, Logger: cfg.Logger,
	})
	all := access.Range{Key: []byte{0}, End: []byte{0}}
	if n := wire.Namespace(cfg.Namespace); n != "" {
		all = access.Range{Key: []byte(n), End: n.End()}
	}
	p.guard = access.New(access.Config{
		Upstream: guardUpstream{u}, User: cfg.User, Password: cfg.Password,
		Certificate: cfg.ClientCertificate, Name: cfg.CommonName,
		Key: all.Key, End: all.End, Changed: p.recheck, Logger: cfg.Logger,
	})
	p.feeds = feed.NewSet(feed.Config{
		Upstream: feedUpstream{u, p.guard}, Fixed: cfg.Feeds, HistoryBytes: cfg.WatchHistoryBytes,
		CheckInterval: cfg.ReadCheckInterval, AnyKey: all.Key, Logger: cfg.Logger,
	})
	p.pings = newPings(u, p.guard, cfg.ClientCertificate)
	p.reads, err = reads.New(reads.Config{
		Upstream: readUpstream{p.feeds}, Hub: p.feeds.Hub(), Fixed: cfg.CachePrefixes, Bytes: cfg.CacheBytes,
		MaxStaleness: cfg.MaxStaleness, MaxKeys: cfg.MaxRangeKeys, MaxBytes: cfg.MaxRangeBytes, Turn: p.turn, Logger: cfg.Logger,
	})
	if err != nil {
		_ = p.Close()
		return nil, fmt.Errorf("cache of reads: %w", err)
	}
	who := cfg.tenants()
	who.Users, who.Hub, who.Upstream = p.guard, p.feeds.Hub(), ownUpstream{guardUpstream{u}, p.guard}
	p.tenants, err = tenants.New(who)
	if err != nil {
		_ = p.Close()
		return nil, err
	}
	p.gated = cfg.Namespace != "" || cfg.TenantsFile != "" || cfg.Limits != (tenants.Limits{}) || cfg.Reloads
	close(p.begun)
	if cfg.EndpointsSyncInterval > 0 {
		u.tasks.Go(func() { u.syncEndpoints(cfg.EndpointsSyncInterval, p.guard) })
	}
	if cfg.Registration.Prefix != "" {
		p.registry = newRegistry(cfg.Registration, cfg.Namespace, u, p.guard, cfg.Logger)
	}
	return p, nil
}

// Close ends the connections and waits for everything that the Proxy started.
func (p *Proxy) Close() error {
	if p.registry != nil {
		p.registry.close()
	}
	if p.tenants != nil {
		p.tenants.Close() // which watches by the feeds
	}
	if p.reads != nil {
		p.reads.Close() // likewise
	}
	p.pings.close()
	p.feeds.Close()
	p.guard.Close()
	p.flight.Close()
	p.upstream.close()
	p.pumps.Wait()
	return nil
}

// Gate says what each client may do; nil if all may do the same, and without bounds.
func (p *Proxy) Gate() *tenants.Table {
	if !p.gated {
		return nil
	}
	return p.tenants
}

// recheck has all watches looked at, because rights may have been taken away.
func (p *Proxy) recheck() {
	select {
	case <-p.begun:
		p.feeds.Hub().Recheck()
	default: // nobody watches yet
	}
}

// Status is what the proxy has in memory and what it has done, in counts since it started.
type Status struct {
	Upstream UpstreamStatus `json:"upstream"`
	Reads    reads.Stats    `json:"reads"`
	// SharedReads are calls upstream for forwarded reads, and how many reads were answered by another's.
	SharedReads coalesce.FlightStats `json:"shared_reads"`
	// Pings are those of leases, and what became of them.
	Pings coalesce.KeepaliveStats `json:"pings"`
	// Access is how clients were told apart while authentication is on.
	Access access.Status `json:"access"`
	// Calls are the short calls upstream, which clients share.
	Calls fair.Stats `json:"calls"`
	// Clients are whom limits and quotas are counted for.
	Clients tenants.Status `json:"clients"`
	// Bypassed are Ranges that are forwarded whatever is in memory, as their metadata demands.
	Bypassed uint64 `json:"bypassed"`
	// Checks are questions upstream on behalf of linearizable reads from memory.
	Checks uint64 `json:"checks"`
}

// UpstreamStatus is what upstream is known to be.
type UpstreamStatus struct {
	// Connected says that there is a member at hand.
	Connected bool `json:"connected"`
	// Shared says that reads and watches may be answered from memory.
	Shared bool `json:"shared"`
	// Guarded says that this is so only for whom upstream would give the same: authentication is on.
	Guarded bool `json:"guarded"`
	// Revision is the newest that is known.
	Revision int64 `json:"revision"`
	// AnsweredBefore is how many seconds ago the last linearizable read was sent that was answered; -1 if none was.
	AnsweredBefore float64 `json:"answered_before_seconds"`
}

// Status is as of now.
func (p *Proxy) Status() Status {
	now := p.feeds.Standing()
	u := UpstreamStatus{Shared: now.Shared, Guarded: now.Guarded, Revision: p.feeds.Hub().Revision(), AnsweredBefore: -1}
	if t := p.upstream.current.Load(); t != nil {
		u.Connected, u.Revision = true, max(u.Revision, t.shown.Load())
	}
	if at := p.feeds.ProvenAt(math.MaxInt64); !at.IsZero() {
		u.AnsweredBefore = time.Since(at).Seconds()
	}
	return Status{
		Upstream: u, Reads: p.reads.Stats(), SharedReads: p.flight.Stats(), Pings: p.pings.stats(),
		Access: p.guard.Status(), Calls: p.pool.Stats(), Clients: p.tenants.Status(), Bypassed: p.bypassed.Load(), Checks: p.feeds.Checks(),
	}
}

// Ready returns nil if a member is connected, else one error that names each endpoint and what is wrong with it.
func (p *Proxy) Ready(ctx context.Context) error { return p.upstream.ready(ctx) }

// errNoMember is answered when no member is connected and none may soon be. The text is one that client/v3 knows to
// mean that nothing was sent, so that it tries again by itself, writes too.
var errNoMember = status.Error(codes.Unavailable, "there is no connection available")
