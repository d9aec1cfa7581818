package proxy

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/cache"
	"weir/grpcapi/wire"
	"weir/proxy/access"
	"weir/proxy/feed"
	"weir/proxy/reads"
)

// users is a member with authentication on: root is the proxy, and alice has a role that may read a key.
type users struct {
	mu      sync.Mutex // guards what follows
	changes uint64
	key     string // that the role may read; "" for none
}

// revoke takes from the role what it may read.
func (u *users) revoke() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.changes++
	u.key = ""
}

// answers is a handler that answers one request.
func (u *users) answers(answer func(req wire.Raw) (proto.Message, error)) func(grpc.ServerStream) error {
	return func(s grpc.ServerStream) error {
		var req wire.Raw
		if err := s.RecvMsg(&req); err != nil {
			return err
		}
		u.mu.Lock()
		resp, err := answer(req)
		u.mu.Unlock()
		if err != nil {
			return err
		}
		return s.SendMsg(resp)
	}
}

func (u *users) handlers() map[string]func(grpc.ServerStream) error {
	return map[string]func(grpc.ServerStream) error{
		pb.Auth_Authenticate_FullMethodName: answers(&pb.AuthenticateResponse{Token: "given"}),
		pb.Auth_AuthStatus_FullMethodName: u.answers(func(wire.Raw) (proto.Message, error) {
			return &pb.AuthStatusResponse{Header: &pb.ResponseHeader{}, Enabled: true, AuthRevision: u.changes}, nil
		}),
		pb.Auth_UserGet_FullMethodName: u.answers(func(req wire.Raw) (proto.Message, error) {
			var r pb.AuthUserGetRequest
			if err := proto.Unmarshal(req, &r); err != nil {
				return nil, err
			}
			return &pb.AuthUserGetResponse{Roles: []string{map[string]string{"root": "root", "alice": "role"}[r.Name]}}, nil
		}),
		pb.Auth_RoleGet_FullMethodName: u.answers(func(wire.Raw) (proto.Message, error) {
			return &pb.AuthRoleGetResponse{Perm: []*authpb.Permission{{Key: []byte(u.key)}}}, nil
		}),
		pb.KV_Range_FullMethodName: func(grpc.ServerStream) error { return rpctypes.ErrGRPCUserEmpty },
	}
}

// watchingClient is the server's end of a client who watches a key, and asks for nothing else.
type watchingClient struct {
	streamClient
	told chan struct{} // has an element for each response that is sent
}

func (c *watchingClient) RecvMsg(m any) error {
	if c.request == nil {
		<-c.ctx.Done()
		return c.ctx.Err()
	}
	return c.streamClient.RecvMsg(m)
}

func (c *watchingClient) SendMsg(any) error {
	c.told <- struct{}{}
	return nil
}

func TestAForwardedWatchOfACertificateEndsWhenTheRightToItIsGone(t *testing.T) {
	u := &users{key: "a"}
	handlers := u.handlers()
	handlers[pb.Watch_Watch_FullMethodName] = func(s grpc.ServerStream) error {
		for s.Context().Err() == nil {
			if err := s.SendMsg(&pb.WatchResponse{Events: []*mvccpb.Event{{Kv: &mvccpb.KeyValue{Key: []byte("a")}}}}); err != nil {
				return err
			}
		}
		return s.Context().Err()
	}
	p := beforeAs(t, func(cfg *Config) { cfg.User, cfg.Password = "root", "secret" }, handlers)
	ctx, cancel := context.WithCancel(byName(t.Context(), "alice"))
	defer cancel()
	req, err := proto.Marshal(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("a")}}})
	if err != nil {
		t.Fatal(err)
	}
	client := &watchingClient{streamClient{ctx: ctx, request: req}, make(chan struct{})}
	ended := make(chan error, 1)
	go func() { ended <- p.Stream(pb.Watch_Watch_FullMethodName, client, new(cache.Session)) }()
	for told := 0; ; told++ {
		select {
		case <-client.told:
		case err := <-ended:
			if told < 100 || !errors.Is(err, rpctypes.ErrGRPCPermissionDenied) {
				t.Errorf("after %d messages: error %v", told, err)
			}
			return
		}
		if told == 100 {
			u.revoke()
		}
	}
}

func TestAnAnswerThatHadToBeWaitedForIsJudgedAgain(t *testing.T) {
	p := before(t, nil) // where nobody may read anything
	all := []access.Range{{Key: []byte("a")}}
	for name, c := range map[string]struct {
		lookup lookup
		err    error
		found  bool
	}{
		"at once":                   {lookup{ranges: all, judged: time.Now().Add(time.Hour)}, nil, true},
		"an error at once":          {lookup{ranges: all, judged: time.Now().Add(time.Hour)}, rpctypes.ErrGRPCCompacted, true},
		"later":                     {lookup{ranges: all, judged: time.Now().Add(-time.Second)}, nil, false},
		"an error later":            {lookup{ranges: all, judged: time.Now().Add(-time.Second)}, rpctypes.ErrGRPCCompacted, false},
		"before anything is shared": {lookup{}, nil, false},
		"nothing where all may":     {lookup{}, reads.ErrForward, false},
		"nothing, but who asks may": {lookup{ranges: all, judged: time.Now().Add(time.Hour)}, reads.ErrForward, false},
	} {
		if got := p.found(t.Context(), c.lookup, c.err); got != c.found {
			t.Errorf("%s: the answer is given: %v", name, got)
		}
	}
}

// regimes is a member whose authentication is switched, or under which the proxy comes to be known.
type regimes struct{ now atomic.Int32 } // an access.Regime

func (r *regimes) handlers() map[string]func(grpc.ServerStream) error {
	handlers := (&users{}).handlers()
	handlers[pb.Maintenance_Status_FullMethodName] = answers(&pb.StatusResponse{Version: "3.7.3"})
	handlers[pb.KV_Range_FullMethodName] = func(s grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(s.Context())
		now, own := access.Regime(r.now.Load()), len(md["token"]) > 0
		switch {
		case now == access.Guarded && !own, now == access.Closed && !own:
			return rpctypes.ErrGRPCUserEmpty
		case now == access.Closed:
			return rpctypes.ErrGRPCPermissionDenied
		}
		var req wire.RangeRequest
		var raw wire.Raw
		if err := s.RecvMsg(&raw); err != nil {
			return err
		}
		if err := req.Unmarshal(raw); err != nil {
			return err
		}
		if req.Revision > 5 {
			return rpctypes.ErrGRPCFutureRev
		}
		return s.SendMsg(&pb.RangeResponse{Header: &pb.ResponseHeader{ClusterId: 1, Revision: 5, RaftTerm: 1}})
	}
	return handlers
}

func TestAReadThatBeganBeforeAnythingWasGuardedIsNotAnsweredUnjudged(t *testing.T) {
	var r regimes
	r.now.Store(int32(access.Closed))
	p := beforeAs(t, func(cfg *Config) { cfg.User, cfg.Password = "root", "secret" }, r.handlers())
	await := func(wanted func(feed.Standing) bool) {
		for !wanted(p.feeds.Standing()) {
			runtime.Gosched()
		}
	}
	begin := func() lookup {
		l, ok := p.mayRead(t.Context(), false, func() []access.Range { return []access.Range{{Key: []byte("a")}} })
		if !ok {
			t.Fatal("memory is not looked into")
		}
		return l
	}
	for p.guard.Status().Regime != access.Closed.String() {
		runtime.Gosched()
	}
	apart := begin()
	r.now.Store(int32(access.Guarded))
	await(func(s feed.Standing) bool { return s.Guarded })
	if p.feeds.Era() == apart.era && p.found(t.Context(), apart, nil) {
		t.Error("what has become guarded is given to nobody in particular")
	}
	r.now.Store(int32(access.Open))
	await(func(s feed.Standing) bool { return s.Shared && !s.Guarded })
	open := begin()
	if !p.found(t.Context(), open, nil) {
		t.Error("what everybody may read is not given")
	}
	if p.found(t.Context(), apart, nil) {
		t.Error("an answer of another era is given")
	}
}

// Such a one is not served from memory, whatever its client asks for.
func TestAForwardedWatchOfATokenEndsWhenUsersOrRolesHaveChanged(t *testing.T) {
	var r regimes
	r.now.Store(int32(access.Guarded))
	u, handlers := &users{}, r.handlers()
	handlers[pb.Auth_AuthStatus_FullMethodName] = u.handlers()[pb.Auth_AuthStatus_FullMethodName]
	handlers[pb.Watch_Watch_FullMethodName] = func(s grpc.ServerStream) error {
		for s.Context().Err() == nil {
			if err := s.SendMsg(&pb.WatchResponse{Events: []*mvccpb.Event{{Kv: &mvccpb.KeyValue{Key: []byte("a")}}}}); err != nil {
				return err
			}
		}
		return s.Context().Err()
	}
	p := beforeAs(t, func(cfg *Config) { cfg.User, cfg.Password = "root", "secret" }, handlers)
	for p.guard.Status().Regime != access.Guarded.String() {
		runtime.Gosched()
	}
	ctx, cancel := context.WithCancel(metadata.NewIncomingContext(t.Context(), metadata.Pairs("token", "of-alice", "weir-uncached", "true")))
	defer cancel()
	client := &watchingClient{streamClient{ctx: ctx, request: wire.Raw{}}, make(chan struct{})}
	ended := make(chan error, 1)
	go func() { ended <- p.Stream(pb.Watch_Watch_FullMethodName, client, new(cache.Session)) }()
	for told := 0; ; told++ {
		select {
		case <-client.told:
		case err := <-ended:
			if told < 100 || status.Code(err) != codes.Unavailable {
				t.Errorf("after %d messages: error %v", told, err)
			}
			return
		}
		if told == 100 {
			u.revoke()
		}
	}
}
