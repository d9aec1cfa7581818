package proxy

import (
	"context"
	"io"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/wire"
)

// before returns a proxy with memory for reads before an upstream that answers handler's methods and nothing else.
func before(t *testing.T, handler map[string]func(grpc.ServerStream) error) *Proxy {
	t.Helper()
	return beforeAs(t, func(*Config) {}, handler)
}

// beforeAs is before with a change of the proxy's configuration.
func beforeAs(t *testing.T, change func(*Config), handler map[string]func(grpc.ServerStream) error) *Proxy {
	t.Helper()
	pipes := bufconn.Listen(64 << 10)
	s := grpc.NewServer(grpc.ForceServerCodecV2(wire.Codec{}), grpc.WaitForHandlers(true),
		grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
			method, _ := grpc.MethodFromServerStream(s)
			if h := handler[method]; h != nil {
				return h(s)
			}
			return status.Error(codes.Unimplemented, method)
		}))
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(pipes)
	}()
	t.Cleanup(func() {
		s.Stop()
		<-served
	})
	cfg := Config{
		Endpoints:  []string{"unix://test"},
		CacheBytes: 1 << 20,
		Logger:     slog.New(slog.DiscardHandler),
		Dial:       func(ctx context.Context, _ string) (net.Conn, error) { return pipes.DialContext(ctx) },
	}
	change(&cfg)
	return newProxy(t, cfg)
}

// answers is a handler that answers one request with messages.
func answers(messages ...proto.Message) func(grpc.ServerStream) error {
	return func(s grpc.ServerStream) error {
		var req wire.Raw
		if err := s.RecvMsg(&req); err != nil {
			return err
		}
		for _, m := range messages {
			if err := s.SendMsg(m); err != nil {
				return err
			}
		}
		return nil
	}
}

func TestHeatIsToldOnceForEachCallHoweverManyShareIt(t *testing.T) {
	const callers = 32
	var p *Proxy
	ready := make(chan struct{})
	p = before(t, map[string]func(grpc.ServerStream) error{unaryMethod: func(s grpc.ServerStream) error {
		var req wire.Raw
		if err := s.RecvMsg(&req); err != nil {
			return err
		}
		for <-ready; p.flight.Stats().Shared == 0; { // which comes, because there are more callers than calls can be under way
			runtime.Gosched()
		}
		return s.SendMsg(req)
	}})
	close(ready)
	var told atomic.Uint64
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			a, err := p.share(t.Context(), "", unaryMethod, wire.Raw("the same"), func(resp wire.Raw) {
				if string(resp) != "the same" {
					t.Errorf("told of %q", resp)
				}
				told.Add(1)
			})
			if err != nil || string(a.resp) != "the same" {
				t.Errorf("answer %q, error %v", a.resp, err)
			}
		})
	}
	all.Wait()
	if calls := p.flight.Stats().Calls; told.Load() != calls || calls >= callers {
		t.Errorf("told %d times of %d calls for %d callers", told.Load(), calls, callers)
	}
}

func TestForwardedReadsOfEachKindLeaveHeat(t *testing.T) {
	header := &pb.ResponseHeader{Revision: 5}
	kvs := []*mvccpb.KeyValue{{Key: []byte("a/1"), Value: []byte("v")}}
	in := &pb.RangeRequest{Key: []byte("a/1")}
	txn := &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: in}}}}
	encoded := func(m proto.Message) wire.Raw {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var r wire.RangeRequest
	if err := r.Unmarshal(encoded(in)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method  string
		answers []proto.Message
		read    func(p *Proxy) error
	}{
		{
			pb.KV_Range_FullMethodName, []proto.Message{&pb.RangeResponse{Header: header, Kvs: kvs, Count: 1}},
			func(p *Proxy) error { _, err := p.Range(t.Context(), &r, nil); return err },
		},
		{
			pb.KV_Txn_FullMethodName,
			[]proto.Message{&pb.TxnResponse{Header: header, Succeeded: true, Responses: []*pb.ResponseOp{
				{Response: &pb.ResponseOp_ResponseRange{ResponseRange: &pb.RangeResponse{Header: header, Kvs: kvs, Count: 1}}},
			}}},
			func(p *Proxy) error { _, err := p.Txn(t.Context(), txn, encoded(txn), nil); return err },
		},
		{
			pb.KV_RangeStream_FullMethodName,
			[]proto.Message{
				&pb.RangeStreamResponse{RangeResponse: &pb.RangeResponse{Kvs: kvs}},
				&pb.RangeStreamResponse{RangeResponse: &pb.RangeResponse{Header: header, Count: 1}},
			},
			func(p *Proxy) error {
				client := &streamClient{ctx: t.Context(), request: r.Raw}
				if err := p.RangeStream(&r, nil, client); err != nil {
					return err
				}
				if client.received != 2 {
					t.Errorf("%d parts came; want 2", client.received)
				}
				return nil
			},
		},
	} {
		t.Run(c.method, func(t *testing.T) {
			p := before(t, map[string]func(grpc.ServerStream) error{c.method: answers(c.answers...)})
			if err := c.read(p); err != nil {
				t.Fatal(err)
			}
			if n := p.reads.Stats().Candidates; n != 3 {
				t.Errorf("%d ranges have heat; want the key, its prefix, and all keys", n)
			}
		})
		t.Run(c.method+" refused", func(t *testing.T) {
			p := before(t, nil)
			if err := c.read(p); status.Code(err) != codes.Unimplemented {
				t.Fatal(err)
			}
			if n := p.reads.Stats().Candidates; n != 0 {
				t.Errorf("%d ranges have heat of a read that was refused; want none", n)
			}
		})
	}
}

// streamClient is the server's end of a client who sends one request.
type streamClient struct {
	grpc.ServerStream
	ctx      context.Context
	request  wire.Raw // nil when it has been received
	received int
}

func (c *streamClient) Context() context.Context { return c.ctx }

func (c *streamClient) RecvMsg(m any) error {
	if c.request == nil {
		return io.EOF
	}
	*m.(*wire.Raw), c.request = c.request, nil
	return nil
}

func (c *streamClient) SendMsg(any) error { c.received++; return nil }

func (c *streamClient) SendHeader(metadata.MD) error { return nil }
func (c *streamClient) SetTrailer(metadata.MD)       {}
