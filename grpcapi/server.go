package grpcapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // clients may compress, as with etcd's servers
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/stats"
)

// Server serves gRPC and HTTP/1 on the same ports.
//
// gRPC always runs on grpc-go's own transport, over TLS too: through net/http it would cost four to five times
// more CPU. Only a TLS client that offers both h2 and http/1.1 (a browser, curl) meets net/http, because what it
// will speak on HTTP/2 is known only request by request; gRPC among it is passed on by ServeHTTP, see pacedBody.
//
// Serve, Stop and the handlers may run concurrently. A Server must be stopped, also one that has never served.
type Server struct {
	cfg  Config
	grpc *grpc.Server
	http *http.Server

	// What is not gRPC: all of it, and what is for monitors.
	rest, monitor http.Handler

	loopback *loopback
	conns    *conns
	watches  *watchService  // nil if there is none
	health   *servingStatus // nil if others say how they are
	slow     *slowRequests  // nil if nobody wants to know
	pinging  pingStreams
	handlers sync.WaitGroup // of streams that have ended with the leader

	ready    context.Context // ends when the server is not, with the reason
	unready  context.CancelCauseFunc
	life     lifetimes
	stopping context.CancelFunc // of life.undivided, when Stop begins
	cut      context.CancelFunc // of life.cut, when Stop may not wait any longer

	mu        sync.Mutex // guards the fields below
	begun     sync.Once  // to serve the loopback: no service can be registered after that
	draining  bool       // Drain or Stop has begun
	stopped   bool
	listeners map[net.Listener]Traffic
	serving   sync.WaitGroup // Serve calls; Add only under mu while not stopped
	handling  sync.WaitGroup // HTTP handlers, which http.Server does not wait for; Add likewise
}

// Config says how a Server behaves. The zero value is usable: zero fields mean etcd's defaults.
type Config struct {
	// MaxRequestBytes bounds a client's request, 1.5 MiB by default. A message of up to 512 KiB more is read, so
	// that it can be refused with etcd's own error; what is longer is refused by gRPC unread, as at etcd.
	MaxRequestBytes int
	// MaxTxnOps bounds the operations in one branch of a transaction, 128 by default.
	MaxTxnOps int
	// WatchProgressInterval is after how long without events a watcher that asked for it is told its progress: 10 min
	// by default, at least 100 ms.
	WatchProgressInterval time.Duration
	// WarnUnary is after how long a unary RPC is logged as slow; 0 is never. NewForwardServer does not.
	WarnUnary time.Duration
	// SlowClientTimeout is after how long a watch stream is ended whose client has taken nothing although something waits
	// for it, at least 1 s. 0 is never: a slow client costs only itself. Streams through net/http are not ended.
	SlowClientTimeout time.Duration
	// MaxConcurrentStreams bounds the RPCs in flight on one connection, 2^32-1 by default.
	MaxConcurrentStreams uint32
	// MaxHeaderBytes bounds the metadata of an RPC, and the header of an HTTP request, in bytes, with 32 more for each field:
	// 1 MiB by default. At etcd it is that with TLS, and 16 MiB in plaintext.
	MaxHeaderBytes uint32

	// KeepAliveMinTime is the least time between a client's pings, 5 s by default: who pings more often is
	// disconnected. Negative means grpc-go's default of 5 min, as etcd's flag does with 0.
	KeepAliveMinTime time.Duration
	// KeepAliveInterval is after how long without traffic the server pings, 2 h by default. Negative means never.
	KeepAliveInterval time.Duration
	// KeepAliveTimeout is how long the server then waits for an answer, 20 s by default.
	KeepAliveTimeout time.Duration

	// Standing is that of the member that a server answers from; nil is that of a voter that has a leader for ever.
	Standing Standing
	// Gate is asked for each RPC of a server that forwards; nil lets all in.
	Gate Gate
	// Pings say which streams of keepalives a server that forwards serves itself; nil forwards all.
	Pings Pings

	// Metrics count what the server does; nil counts nothing.
	Metrics *Metrics

	// Gateway serves the API as JSON over HTTP too, below /v3/.
	Gateway bool
	// ClientCertAuth says that the backend takes the common name of a client's certificate for a user. The gateway cannot, and
	// refuses clients with such a name while authentication is on.
	ClientCertAuth bool
	// AdvertiseClientURL makes a server that forwards answer MemberList with itself, under this URL, as the only member, as etcd's
	// grpc-proxy does; "" forwards. It need not be a URL.
	AdvertiseClientURL string
	// Proxies are what a server that forwards answers MemberList with instead, if it is not nil. Its result is not changed.
	Proxies func(ctx context.Context) []*pb.Member
	// KeepClientURLs leaves to the members, in such an answer, the client URLs that upstream has for them, because they lead
	// here. Else each has the URL by which the client who asks has come.
	KeepClientURLs bool
	// Gatherer is what is served as /metrics, by a server that forwards as /proxy/metrics; nil is not served.
	Gatherer prometheus.Gatherer
	// Reflection serves gRPC's reflection service, which tells clients what the server serves.
	Reflection bool
	// RestToDefragment has gRPC's health service say NOT_SERVING while the store is defragmented, so that balancers go
	// elsewhere. It is etcd's feature StopGRPCServiceOnDefrag.
	RestToDefragment bool
	// Pprof serves profiles below /debug/pprof/.
	Pprof bool
	// CORS are the origins whose pages may use HTTP. Without any, or with "*", all may.
	CORS []string
	// HostWhitelist are the names by which a plaintext server may be called in HTTP, so that a page whose name is made to lead
	// here cannot use it. Without any, or with "*", every name will do.
	HostWhitelist []string
	// Status answers what is below /weir/; nil is nobody. See package statuspage.
	Status http.Handler
	// Counts answers /weir/status at ports for monitors, which have nothing else of that; nil is nobody.
	Counts http.Handler
	// Tracing is told of every RPC and message; nil costs nothing.
	Tracing stats.Handler
	// Logger is slog.Default() when nil.
	Logger *slog.Logger
}

const (
	// frameOverhead is what etcd lets a gRPC message exceed the request limit by.
	frameOverhead = 512 << 10

	// sniffTimeout is how long a connection may take to show what it speaks, TLS handshake included.
	sniffTimeout = 10 * time.Second
	// headerTimeout bounds the reading of one HTTP request's header.
	headerTimeout = 10 * time.Second
	// peerTimeout bounds all of an HTTP request at a peer port, and its answer, each.
	peerTimeout = 10 * time.Second

	// What a client may send ahead of what has been read, in bytes: on one stream, and on all of a connection.
	streamWindow   = 128 << 10
	connWindow     = 16 << 20
	httpConnWindow = 4<<20 - 1 // the most that net/http has; with its default one stream could stop all others
	// streamWorkers is how many goroutines gRPC keeps for handlers. A new one for each RPC has to grow its stack first, which
	// was a quarter of a read's cost. What finds none free has one of its own: long watches take some away, linearizable
	// reads hold them while they wait.
	streamWorkers = 512
	// idleTimeout is how long an HTTP connection may stay without a request.
	idleTimeout = 5 * time.Minute
)

func (c Config) withDefaults() Config {
	defaultTo(&c.MaxRequestBytes, 3<<19)
	defaultTo(&c.MaxTxnOps, 128)
	defaultTo(&c.WatchProgressInterval, defaultProgressInterval)
	c.WatchProgressInterval = max(c.WatchProgressInterval, minProgressInterval)
	if c.SlowClientTimeout > 0 {
		c.SlowClientTimeout = max(c.SlowClientTimeout, minSlowClientTimeout)
	}
	defaultTo(&c.MaxConcurrentStreams, math.MaxUint32)
	defaultTo(&c.MaxHeaderBytes, http.DefaultMaxHeaderBytes)
	defaultTo(&c.KeepAliveMinTime, 5*time.Second)
	defaultTo(&c.KeepAliveInterval, 2*time.Hour)
	defaultTo(&c.KeepAliveTimeout, 20*time.Second)
	if c.KeepAliveMinTime < 0 {
		c.KeepAliveMinTime = 0
	}
	if c.KeepAliveInterval < 0 {
		c.KeepAliveInterval = math.MaxInt64
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func defaultTo[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// NewBackendServer makes a server that answers from b. It has gRPC's health service too, as etcd has.
func NewBackendServer(cfg Config, b Backend) *Server {
	s := newServer(cfg, grpc.UnknownServiceHandler(cfg.Metrics.unregistered(notThere)))
	if cfg.WarnUnary > 0 {
		s.slow = newSlowRequests(cfg.WarnUnary, s.cfg.Logger)
	}
	services := s.slow.registrar(s.cfg.Metrics.registrar(s.grpc, true))
	services = member{services, cfg.Standing, &s.handlers}
	registerKV(services, b, s.cfg)
	registerLease(services, b, &s.pinging)
	registerCluster(services, b)
	s.health = registerServingStatus(services)
	defragment := b.Defragment
	if cfg.RestToDefragment {
		defragment = s.health.whileResting(b)
	}
	registerMaintenance(services, b, defragment)
	registerAuth(services, b)
	registerLocks(services, b, s.cfg)
	watches := s.watchConfig(false)
	watches.permits = b
	watches.standing = cfg.Standing
	s.watches = newWatchService(b.Hub(), b.Header, watches)
	s.watches.register(services, b)
	s.reflect(services)
	var names func(context.Context) bool
	if cfg.ClientCertAuth {
		names = func(ctx context.Context) bool {
			status, err := b.AuthStatus(ctx, &pb.AuthStatusRequest{})
			return err == nil && status.Enabled
		}
	}
	s.serveHTTP(s.backendEndpoints(b), names)
	return s
}

// NewForwardServer makes a server that passes every RPC to f, those of services it has never heard of included. Answered
// here may be watch streams, from w's hub, as far as w lets them, and reads, by r. Each of w and r may be nil.
func NewForwardServer(cfg Config, f Upstream, w WatchSharer, r Reads) *Server {
	d := door{cfg.Gate}
	passed := retiring{f}
	unknown := &unknownStreams{forward: forwardStream(d, passed)}
	s := newServer(cfg, grpc.UnknownServiceHandler(cfg.Metrics.unregistered(unknown.serve)))
	unknown.ready = s.ready
	var reads *sharedReads
	if r != nil {
		reads = &sharedReads{door: d, reads: r, forward: passed, maxTxnOps: s.cfg.MaxTxnOps}
	}
	services := s.cfg.Metrics.registrar(s.grpc, false)
	var pings *sharedPings
	if cfg.Pings != nil {
		var leader func(context.Context) (context.Context, error)
		if w != nil {
			leader = w.Leader
		}
		pings = newSharedPings(d, cfg.Pings, passed, leader, &s.pinging)
		pings.register(services)
	}
	registerForward(services, d, passed, reads, pings, memberList(d, f, s.cfg))
	if w != nil {
		cfg := s.watchConfig(true)
		cfg.era, cfg.permits = w.Era, w
		s.watches = newWatchService(w.Hub(), w.Header, cfg)
		(&sharedWatches{door: d, service: s.watches, sharer: w, forward: passed}).register(services)
	}
	s.reflect(services)
	s.serveHTTP(s.upstreamEndpoints(f), nil)
	return s
}

// NewPeerServer makes a server for the other members of b's cluster: register is given what they call, opts are what that needs,
// and by HTTP people and scripts are answered; see PeerHTTP.
func NewPeerServer(cfg Config, b Backend, members http.Handler, register func(grpc.ServiceRegistrar), opts ...grpc.ServerOption) *Server {
	s := newServer(cfg, opts...)
	register(s.grpc)
	// Here HTTP has short questions and answers. Members' calls, which may last, come over HTTP/2 alone.
	s.http.ReadTimeout, s.http.WriteTimeout = peerTimeout, peerTimeout
	s.rest = PeerHTTP(b, members)
	return s
}

// reflect adds the reflection service, if it is wanted.
func (s *Server) reflect(services grpc.ServiceRegistrar) {
	if !s.cfg.Reflection {
		return
	}
	if err := registerReflection(services, s.grpc); err != nil {
		s.cfg.Logger.Error("there will be no reflection", "error", err)
	}
}

func (s *Server) watchConfig(waits bool) watchConfig {
	return watchConfig{
		maxResponseBytes: s.cfg.MaxRequestBytes + frameOverhead,
		progressInterval: s.cfg.WatchProgressInterval,
		slowTimeout:      s.cfg.SlowClientTimeout,
		waits:            waits,
		after:            afterFunc,
		log:              s.cfg.Logger,
	}
}

func newServer(cfg Config, opts ...grpc.ServerOption) *Server {
	cfg = cfg.withDefaults()
	s := &Server{cfg: cfg, loopback: newLoopback(), conns: newConns(), listeners: map[net.Listener]Traffic{}}
	s.ready, s.unready = context.WithCancelCause(context.Background())
	s.life.sniff = sniffTimeout
	s.life.undivided, s.stopping = context.WithCancel(context.Background())
	s.life.cut, s.cut = context.WithCancel(context.Background())
	if cfg.Tracing != nil {
		opts = append(opts, grpc.StatsHandler(cfg.Tracing))
	}
	s.grpc = grpc.NewServer(slices.Concat([]grpc.ServerOption{
		grpc.ForceServerCodecV2(cfg.Metrics.codec()),
		grpc.Creds(handshaken{s.conns}),
		grpc.MaxRecvMsgSize(cfg.MaxRequestBytes + frameOverhead),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.MaxConcurrentStreams(cfg.MaxConcurrentStreams),
		grpc.MaxHeaderListSize(cfg.MaxHeaderBytes),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: cfg.KeepAliveMinTime}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: cfg.KeepAliveInterval, Timeout: cfg.KeepAliveTimeout}),
		grpc.ConnectionTimeout(sniffTimeout),
		grpc.WaitForHandlers(true),
		grpc.NumStreamWorkers(streamWorkers),
		grpc.StreamInterceptor(pacedStreams),
		// gRPC would let a stream's window grow to 16 MiB, and every stream that is not read from pins its window.
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
	}, opts)...)
	s.http = &http.Server{
		Handler:           s.route(),
		BaseContext:       s.baseContext,
		ConnContext:       s.conns.ConnContext,
		ConnState:         s.conns.ConnState,
		ReadHeaderTimeout: headerTimeout,
		MaxHeaderBytes:    int(min(cfg.MaxHeaderBytes, math.MaxInt32)),
		IdleTimeout:       idleTimeout,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          int(min(cfg.MaxConcurrentStreams, math.MaxInt32)),
			MaxReceiveBufferPerStream:     streamWindow,
			MaxReceiveBufferPerConnection: httpConnWindow,
		},
		ErrorLog: slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug), // clients' mistakes
	}
	return s
}

// route gives net/http's HTTP/2 requests that are gRPC to grpc, where the port carries it, and all others to HTTP's handlers.
func (s *Server) route() http.Handler {
	single := sync.OnceValue(func() map[string]bool { return singleRequests(s.grpc) }) // all are registered by then
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.enter() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		defer s.handling.Done()
		if retiredOf(r.Context()).Err() != nil {
			w.Header().Set("Connection", "close") // on HTTP/2 a GOAWAY
		}
		only, _ := r.Context().Value(trafficKey{}).(Traffic)
		if r.ProtoMajor == 2 && only.hasGRPC() && isGRPC(r.Header.Get("Content-Type")) {
			unasked := 0 // messages
			if single()[r.URL.Path] {
				unasked = 2
			}
			s.grpc.ServeHTTP(w, pace(r, s.cfg.MaxRequestBytes+frameOverhead, unasked))
			return
		}
		if only == OnlyMonitoring {
			s.monitor.ServeHTTP(w, r)
			return
		}
		s.rest.ServeHTTP(w, r)
	})
}

// Serve answers what arrives on l until Stop, when it returns nil, or until l fails. It closes l. It may be called
// for several listeners.
func (s *Server) Serve(l net.Listener, p Port) error {
	if !s.begin(l, p.Only) {
		l.Close()
		return nil
	}
	defer s.end(l)

	d := divide(l, p, s.life, s.cfg.Logger)
	var wg sync.WaitGroup
	for _, l := range d.grpc {
		wg.Go(func() { _ = s.grpc.Serve(clientListener{l, s.conns}) }) // ends when d.run does, or by Stop
	}
	for _, l := range d.http {
		wg.Go(func() { _ = s.http.Serve(l) })
	}
	err := d.run()
	d.close()
	wg.Wait()
	if s.isDraining() || errors.Is(err, net.ErrClosed) {
		return nil
	}
	return fmt.Errorf("accept on %s: %w", l.Addr(), err)
}

func (s *Server) begin(l net.Listener, carries Traffic) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.begun.Do(func() { s.serving.Go(func() { _ = s.grpc.Serve(s.loopback.pipes) }) })
	s.listeners[l] = carries
	s.serving.Add(1)
	return true
}

func (s *Server) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

// enter counts an HTTP request, unless the server is stopping.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return false
	}
	s.handling.Add(1)
	return true
}

func (s *Server) end(l net.Listener) {
	l.Close()
	s.mu.Lock()
	delete(s.listeners, l)
	s.mu.Unlock()
	s.serving.Done()
}
