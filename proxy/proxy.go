package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/wire"
	"weir/proxy/feed"
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
	pumps    sync.WaitGroup // one for each open stream, see Stream
}

// Config says where upstream is and how to reach it.
type Config struct {
	// Endpoints are the members: http://host:port, https://host:port, unix://path, unixs://path or host:port,
	// which is https if TLS is set.
	Endpoints []string
	// TLS is for endpoints that want it; nil means the system's roots and no client certificate.
	TLS *tls.Config
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
		Upstream: feedUpstream{u}, Fixed: cfg.Feeds, HistoryBytes: cfg.WatchHistoryBytes, Logger: cfg.Logger,
	})
	return &Proxy{upstream: u, feeds: feeds}, nil
}

// Close ends the connections and waits for everything that the Proxy started.
func (p *Proxy) Close() error {
	p.feeds.Close()
	p.upstream.close()
	p.pumps.Wait()
	return nil
}

// Ready returns nil if a member is connected, else one error that names each endpoint and what is wrong with it.
func (p *Proxy) Ready(ctx context.Context) error { return p.upstream.ready(ctx) }

// Unary forwards one call; see grpcapi.Forwarder.
func (p *Proxy) Unary(ctx context.Context, method string, req wire.Raw) (wire.Raw, error) {
	var (
		out             = outgoing(ctx)
		resp            wire.Raw
		header, trailer metadata.MD
	)
	err := p.upstream.try(ctx, func(m *member) (sent bool, err error) {
		var to peer.Peer // set only if a stream was made
		err = m.conn.Invoke(out, method, req, &resp, grpc.Header(&header), grpc.Trailer(&trailer), grpc.Peer(&to))
		return to.Addr != nil, err
	})
	// Errors mean that the client is gone, or that ctx is not of a server.
	if h := returning(header); h != nil {
		_ = grpc.SetHeader(ctx, h)
	}
	if t := returning(trailer); t != nil {
		_ = grpc.SetTrailer(ctx, t)
	}
	if err != nil {
		return nil, err
	}
	if method == pb.KV_Compact_FullMethodName {
		var r pb.CompactionRequest
		if proto.Unmarshal(req, &r) == nil { // upstream could
			p.feeds.Compacted(r.Revision) // who is told must not find older watches possible here
		}
	}
	return resp, nil
}

// Stream forwards a stream; see grpcapi.Forwarder.
//
// The client's messages are pumped by a goroutine that may outlive the call for a moment: it can be waiting in
// RecvMsg, which returns only when the stream has ended, and that is after Stream has returned.
func (p *Proxy) Stream(method string, client grpc.ServerStream) error {
	ctx, cancel := context.WithCancel(outgoing(client.Context()))
	defer cancel()
	var server grpc.ClientStream
	err := p.upstream.try(ctx, func(m *member) (sent bool, err error) {
		server, err = m.conn.NewStream(ctx, &anyStream, method)
		return err == nil, err
	})
	if err != nil {
		return err
	}
	p.pumps.Go(func() {
		if err := pumpRequests(client, server); err != nil {
			cancel() // the client is gone
		}
	})
	return pumpResponses(server, client)
}

var anyStream = grpc.StreamDesc{ClientStreams: true, ServerStreams: true}

// pumpRequests passes the client's messages and its half-close on. It returns the client's error; that of the
// server is for pumpResponses to find.
func pumpRequests(client grpc.ServerStream, server grpc.ClientStream) error {
	for {
		var m wire.Raw
		if err := client.RecvMsg(&m); errors.Is(err, io.EOF) {
			_ = server.CloseSend() // it never fails
			return nil
		} else if err != nil {
			return err
		}
		if err := server.SendMsg(m); err != nil {
			return nil
		}
	}
}

// pumpResponses passes the server's header, messages and trailer on, the header as soon as it is there, and returns
// the server's status, or the client's error.
func pumpResponses(server grpc.ClientStream, client grpc.ServerStream) error {
	h, err := server.Header()
	if err != nil {
		return err
	}
	if h != nil { // nil: it ended without a header
		if err := client.SendHeader(returning(h)); err != nil {
			return err
		}
	}
	for {
		var m wire.Raw
		if err := server.RecvMsg(&m); err != nil {
			client.SetTrailer(returning(server.Trailer()))
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		if err := client.SendMsg(m); err != nil {
			return err
		}
	}
}

// errNoMember is answered when no member is connected and none may soon be. The text is one that client/v3 knows to
// mean that nothing was sent, so that it tries again by itself, writes too.
var errNoMember = status.Error(codes.Unavailable, "there is no connection available")
