package proxy

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/cache"
	"weir/grpcapi/lockpb"
	"weir/grpcapi/wire"
	"weir/internal/bubble"
)

// slowMember has authentication on, and answers a method of clients only when it is told to. The role of users may read and write
// every key, unless users.key is "".
type slowMember struct {
	*users
	method string
	begun  chan struct{} // has an element for each call that has come
	answer chan struct{} // an element has one answered
}

func newSlowMember(method string) *slowMember {
	return &slowMember{&users{key: "all"}, method, make(chan struct{}, 10), make(chan struct{}, 10)}
}

func (m *slowMember) handlers(resp proto.Message) map[string]func(grpc.ServerStream) error {
	handlers := m.users.handlers()
	handlers[pb.Auth_RoleGet_FullMethodName] = m.answers(func(wire.Raw) (proto.Message, error) {
		if m.key == "" {
			return &pb.AuthRoleGetResponse{}, nil
		}
		all := &authpb.Permission{Key: []byte{0}, RangeEnd: []byte{0}, PermType: authpb.READWRITE}
		return &pb.AuthRoleGetResponse{Perm: []*authpb.Permission{all}}, nil
	})
	forOthers := handlers[m.method]
	handlers[m.method] = func(s grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(s.Context())
		if len(md["token"]) == 0 || len(md["weir-uncached"]) > 0 { // the proxy asks for itself
			return forOthers(s)
		}
		var req wire.Raw
		if err := s.RecvMsg(&req); err != nil {
			return err
		}
		m.begun <- struct{}{}
		select {
		case <-m.answer:
			return s.SendMsg(resp)
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}
	return handlers
}

func encoded(t *testing.T, m proto.Message) wire.Raw {
	t.Helper()
	raw, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestWhatTookLongIsNotAnsweredToWhoMayNotHaveItAnyMore(t *testing.T) {
	for _, c := range []struct {
		method    string
		req, resp proto.Message
		refusal   error
	}{
		{pb.KV_Range_FullMethodName, &pb.RangeRequest{Key: []byte("a")}, &pb.RangeResponse{}, rpctypes.ErrGRPCPermissionDenied},
		{
			lockpb.Lock_Lock_FullMethodName, &lockpb.LockRequest{Name: []byte("a")}, &lockpb.LockResponse{},
			status.Error(codes.Unknown, "etcdserver: permission denied"),
		},
		{pb.KV_Put_FullMethodName, &pb.PutRequest{Key: []byte("a")}, &pb.PutResponse{}, errDone},
	} {
		for _, revoked := range []bool{true, false} {
			bubble.Test(t, func(t *testing.T) {
				m := newSlowMember(c.method)
				p := beforeAs(t, func(cfg *Config) { cfg.User, cfg.Password = "root", "secret" }, m.handlers(c.resp))
				done := make(chan error)
				go func() {
					_, err := p.Unary(byName(t.Context(), "alice"), c.method, encoded(t, c.req), new(cache.Session))
					done <- err
				}()
				<-m.begun
				if revoked {
					m.revoke()
				}
				time.Sleep(3 * time.Second)
				m.answer <- struct{}{}
				err := <-done
				switch {
				case !revoked && err != nil:
					t.Errorf("%s is permitted, and took long: %v", c.method, err)
				case revoked && (status.Code(err) != status.Code(c.refusal) || !errors.Is(err, c.refusal)):
					t.Errorf("%s: error %v; want %v", c.method, err, c.refusal)
				}
			})
		}
	}
}

// brittleNet is a network whose connections can be cut, and made only when that is let be.
type brittleNet struct {
	mu    sync.Mutex // guards what follows
	conns []net.Conn
	open  chan struct{} // closed: connections can be made
}

func (n *brittleNet) wrap(dial func(context.Context, string) (net.Conn, error)) func(context.Context, string) (net.Conn, error) {
	n.open = make(chan struct{})
	close(n.open)
	return func(ctx context.Context, endpoint string) (net.Conn, error) {
		n.mu.Lock()
		open := n.open
		n.mu.Unlock()
		select {
		case <-open:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		conn, err := dial(ctx, endpoint)
		if err == nil {
			n.mu.Lock()
			n.conns = append(n.conns, conn)
			n.mu.Unlock()
		}
		return conn, err
	}
}

// cut ends all connections. There are new ones when heal is called.
func (n *brittleNet) cut() (heal func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	open := make(chan struct{})
	n.open = open
	for _, c := range n.conns {
		_ = c.Close()
	}
	return func() { close(open) }
}

func TestWhatWaitedForAMemberIsJudgedAnewBeforeItIsSent(t *testing.T) {
	put := func(p *Proxy, ctx context.Context) error {
		_, err := p.Unary(ctx, pb.KV_Put_FullMethodName, encoded(t, &pb.PutRequest{Key: []byte("a")}), new(cache.Session))
		return err
	}
	stream := func(p *Proxy, ctx context.Context) error {
		request := encoded(t, &pb.RangeRequest{Key: []byte("a")})
		return p.Stream(pb.KV_RangeStream_FullMethodName, &streamClient{ctx: ctx, request: request}, new(cache.Session))
	}
	for _, c := range []struct {
		method string
		resp   proto.Message
		ask    func(*Proxy, context.Context) error
	}{
		{pb.KV_Put_FullMethodName, &pb.PutResponse{}, put},
		{pb.KV_RangeStream_FullMethodName, &pb.RangeStreamResponse{}, stream},
	} {
		bubble.Test(t, func(t *testing.T) {
			m := newSlowMember(c.method)
			for range 2 {
				m.answer <- struct{}{}
			}
			var n brittleNet
			p := beforeAs(t, func(cfg *Config) {
				cfg.User, cfg.Password = "root", "secret"
				cfg.Dial = n.wrap(cfg.Dial)
			}, m.handlers(c.resp))
			alice := byName(t.Context(), "alice")
			if err := c.ask(p, alice); err != nil {
				t.Fatalf("%s: %v", c.method, err)
			}
			<-m.begun
			heal := n.cut()
			synctest.Wait()
			done := make(chan error)
			go func() { done <- c.ask(p, alice) }()
			synctest.Wait()
			m.revoke()
			time.Sleep(2 * time.Second)
			heal()
			if err := <-done; !errors.Is(err, rpctypes.ErrGRPCPermissionDenied) {
				t.Errorf("%s: error %v", c.method, err)
			}
			if len(m.begun) != 0 {
				t.Errorf("%s is sent for who may not any more", c.method)
			}
		})
	}
}

// Upstream takes longer to tell about a lease than a policy counts. The right to the key is taken away during one of these questions.
func TestAPutOnALeaseIsNotSentWhenTheRightToItIsTakenAwayWhileTheLeaseIsLookedUp(t *testing.T) {
	for last := range int64(5) {
		bubble.Test(t, func(t *testing.T) {
			m := newSlowMember(pb.KV_Put_FullMethodName)
			h := m.handlers(&pb.PutResponse{})
			var questions atomic.Int64
			h[pb.Lease_LeaseTimeToLive_FullMethodName] = func(s grpc.ServerStream) error {
				var req wire.Raw
				if err := s.RecvMsg(&req); err != nil {
					return err
				}
				if questions.Add(1) == 1+last {
					m.revoke()
				}
				time.Sleep(1500 * time.Millisecond)
				return s.SendMsg(encoded(t, &pb.LeaseTimeToLiveResponse{TTL: 10, GrantedTTL: 10}))
			}
			p := beforeAs(t, func(cfg *Config) { cfg.User, cfg.Password = "root", "secret" }, h)
			put := encoded(t, &pb.PutRequest{Key: []byte("a"), Lease: 1})
			for {
				m.answer <- struct{}{}
				_, err := p.Unary(byName(t.Context(), "alice"), pb.KV_Put_FullMethodName, put, new(cache.Session))
				revoked := questions.Load() > last
				switch sent := len(m.begun) > 0; {
				case sent && revoked:
					t.Errorf("during question %d the right to it is taken away, and it is sent; its client is told: %v", 1+last, err)
				case sent:
					<-m.begun
					continue
				case !revoked || !errors.Is(err, rpctypes.ErrGRPCPermissionDenied):
					t.Errorf("before question %d: error %v", 1+last, err)
				}
				return
			}
		})
	}
}
