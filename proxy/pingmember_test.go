package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// pingMember is a member of a cluster as far as pings need one. Its fields are set before it serves, or with do.
type pingMember struct {
	pb.UnimplementedLeaseServer
	pb.UnimplementedMaintenanceServer

	cluster *pingCluster
	name    string
	id      uint64
	batches bool // it is weir's
	mute    bool // it answers nothing on streams

	mu       sync.Mutex // guards the fields below
	leader   uint64     // in its opinion, as of term
	term     uint64
	refuses  error         // to tell its status
	stranger string        // a token to which it does not tell its status; "" is none
	asked    chan struct{} // if it is not nil, who asks for the status waits until it is closed
	statuses int           // that it was asked for
	ttls     map[int64]*pb.LeaseTimeToLiveResponse
}

// pingCluster is some members and a proxy's pings before them.
type pingCluster struct {
	*testing.T
	members []*pingMember
	pings   *pings
	pinged  chan pinged
	fail    func(token string, id int64) error // of a ping; nil fails none
}

// pinged is a ping that a member was sent.
type pinged struct {
	member *pingMember
	method string
	token  string
	id     int64
}

// serve serves all members, and connects pings to them, the first of which is the current one.
func (c *pingCluster) serve(i identities, vouched bool) {
	c.Helper()
	pipes := map[string]*bufconn.Listener{}
	cfg := Config{
		MaxRecvBytes: 1 << 20, Logger: slog.New(slog.DiscardHandler),
		Dial: func(ctx context.Context, e string) (net.Conn, error) { return pipes[e].DialContext(ctx) },
	}
	for n, m := range c.members {
		m.cluster, m.id, m.name = c, uint64(n+1), fmt.Sprintf("unix://%d", n)
		cfg.Endpoints = append(cfg.Endpoints, m.name)
		l := bufconn.Listen(64 << 10)
		pipes[m.name] = l
		s := grpc.NewServer(grpc.ForceServerCodecV2(wire.Codec{}), grpc.WaitForHandlers(true))
		pb.RegisterLeaseServer(s, m)
		pb.RegisterMaintenanceServer(s, m)
		if m.batches {
			s.RegisterService(&grpc.ServiceDesc{ServiceName: wire.PingsService, Streams: []grpc.StreamDesc{{
				StreamName: "KeepAlive", ServerStreams: true, ClientStreams: true,
				Handler: func(_ any, s grpc.ServerStream) error { return m.keepAliveBatches(s) },
			}}}, nil)
		}
		served := make(chan struct{})
		go func() {
			defer close(served)
			_ = s.Serve(l)
		}()
		c.Cleanup(func() {
			s.Stop()
			<-served
		})
	}
	u, err := newUpstream(cfg)
	if err != nil {
		c.Fatal(err)
	}
	c.pings, c.pinged = newPings(u, i, vouched), make(chan pinged, 1000)
	c.Cleanup(func() {
		c.pings.close()
		u.close()
	})
	await(c.T, u, allIn(u, connectivity.Ready))
	u.prefer(c.connected(c.members[0]))
}

// connected is the connection to m.
func (c *pingCluster) connected(m *pingMember) *member {
	u := c.pings.upstream
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.members[slices.IndexFunc(u.members, func(own *member) bool { return own.endpoint == m.name })]
}

// elect has all members know a leader.
func (c *pingCluster) elect(leader *pingMember, term uint64) {
	for _, m := range c.members {
		m.do(func() { m.leader, m.term = leader.id, term })
	}
}

// ping pings a lease for the client of ctx, and returns where it went and the answer.
func (c *pingCluster) ping(ctx context.Context, id int64) (pinged, coalesce.Pong) {
	c.Helper()
	route := c.pings.routeOf(ctx)
	if route.Keepalives == nil {
		c.Fatal("the stream is to be forwarded")
	}
	defer route.Done()
	answers := make(pingAnswers, 1)
	route.Keepalives.Ping(id, time.Now(), answers, 0)
	pong := <-answers
	if pong.Err != nil {
		return pinged{}, pong
	}
	return <-c.pinged, pong
}

// pingAnswers is a client, the answers to whom go into the channel.
type pingAnswers chan coalesce.Pong

func (c pingAnswers) Client() any          { return nil }
func (c pingAnswers) Pong(p coalesce.Pong) { c <- p }

func (m *pingMember) do(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}

func (m *pingMember) Status(ctx context.Context, _ *pb.StatusRequest) (*pb.StatusResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.statuses++
	if asked := m.asked; asked != nil {
		m.mu.Unlock()
		<-asked
		m.mu.Lock()
	}
	if m.refuses != nil {
		return nil, m.refuses
	}
	if m.stranger != "" && tokenOf(ctx) == m.stranger {
		return nil, rpctypes.ErrGRPCInvalidAuthToken
	}
	return &pb.StatusResponse{Header: &pb.ResponseHeader{MemberId: m.id}, Leader: m.leader, RaftTerm: m.term}, nil
}

func (m *pingMember) LeaseTimeToLive(_ context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	ttl := m.ttls[r.ID]
	ttl.Header = &pb.ResponseHeader{MemberId: m.id}
	return ttl, nil
}

func tokenOf(ctx context.Context) string {
	if v := metadata.ValueFromIncomingContext(ctx, "token"); len(v) > 0 {
		return v[0]
	}
	return ""
}

// take notes a ping, whose answer is a TTL of ten times the id.
func (m *pingMember) take(ctx context.Context, method string, id int64) error {
	token := tokenOf(ctx)
	if m.cluster.fail != nil {
		if err := m.cluster.fail(token, id); err != nil {
			return err
		}
	}
	m.cluster.pinged <- pinged{m, method, token, id}
	return nil
}

func (m *pingMember) LeaseKeepAlive(s pb.Lease_LeaseKeepAliveServer) error {
	for {
		r, err := s.Recv()
		if err != nil {
			return endOf(err)
		}
		if m.mute {
			continue
		}
		if err := m.take(s.Context(), pb.Lease_LeaseKeepAlive_FullMethodName, r.ID); err != nil {
			return err
		}
		if err := s.Send(&pb.LeaseKeepAliveResponse{Header: &pb.ResponseHeader{MemberId: m.id}, ID: r.ID, TTL: 10 * r.ID}); err != nil {
			return err
		}
	}
}

func (m *pingMember) keepAliveBatches(s grpc.ServerStream) error {
	if m.mute {
		<-s.Context().Done()
		return s.Context().Err()
	}
	if err := s.SendHeader(metadata.Pairs(wire.PingsHeader, "1")); err != nil {
		return err
	}
	for {
		var raw wire.Raw
		if err := s.RecvMsg(&raw); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		ids, err := wire.UnmarshalPings(raw, nil)
		if err != nil {
			return err
		}
		b := wire.PongBatch{Header: wire.Header{MemberID: m.id}}
		for _, id := range ids {
			if err := m.take(s.Context(), wire.PingsMethod, id); err != nil {
				b.Failures = append(b.Failures, failureOf(id, err))
			} else {
				b.Pongs = append(b.Pongs, wire.Pong{ID: id, TTL: 10 * id})
			}
		}
		if err := s.SendMsg(wire.Raw(b.Append(nil))); err != nil {
			return err
		}
	}
}

func failureOf(id int64, err error) wire.PingFailure {
	s := status.Convert(err)
	return wire.PingFailure{ID: id, Text: s.Message(), Code: uint32(s.Code())}
}
