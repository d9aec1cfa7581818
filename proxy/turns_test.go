package proxy

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"weir/cache"
	"weir/grpcapi/wire"
	"weir/internal/bubble"
	"weir/proxy/fair"
)

// from is ctx of a client at an address.
func from(ctx context.Context, ip string) context.Context {
	return peer.NewContext(ctx, &peer.Peer{Addr: &net.TCPAddr{IP: net.ParseIP(ip), Port: 1}})
}

// awaitCalls waits until the calls upstream are as wanted.
func awaitCalls(t *testing.T, p *Proxy, wanted func(fair.Stats) bool) {
	t.Helper()
	for !wanted(p.pool.Stats()) {
		if t.Context().Err() != nil {
			t.Fatal("the test has ended")
		}
		runtime.Gosched()
	}
}

// slowClient takes an answer only when told to.
type slowClient struct {
	streamClient
	take    chan struct{}
	offered chan struct{}
}

func (c *slowClient) SendMsg(any) error {
	c.offered <- struct{}{}
	<-c.take
	return nil
}

func TestARangeStreamTakesATurnForEachAnswerAndNoneWhileItsClientTakesIt(t *testing.T) {
	const parts = 3
	part := make(chan struct{})
	p := beforeAs(t, func(c *Config) { c.MaxUpstreamCalls = 1 }, map[string]func(grpc.ServerStream) error{
		pb.KV_RangeStream_FullMethodName: func(s grpc.ServerStream) error {
			for range parts {
				select {
				case <-part:
				case <-s.Context().Done():
					return s.Context().Err()
				}
				if err := s.SendMsg(&pb.RangeStreamResponse{RangeResponse: &pb.RangeResponse{}}); err != nil {
					return err
				}
			}
			return nil
		},
		pb.KV_Put_FullMethodName: answers(&pb.PutResponse{}),
	})
	c := &slowClient{streamClient{ctx: from(t.Context(), "10.0.0.1"), request: wire.Raw{}}, make(chan struct{}), make(chan struct{})}
	ended := make(chan error, 1)
	go func() { ended <- p.Stream(pb.KV_RangeStream_FullMethodName, c, new(cache.Session)) }()
	put := make(chan error)
	for range parts {
		awaitCalls(t, p, func(s fair.Stats) bool { return s.InUse == 1 }) // the stream's
		go func() {
			_, err := p.Unary(from(t.Context(), "10.0.0.2"), pb.KV_Put_FullMethodName, wire.Raw{}, new(cache.Session))
			put <- err
		}()
		awaitCalls(t, p, func(s fair.Stats) bool { return s.Queued == 1 })
		part <- struct{}{}
		<-c.offered
		if err := <-put; err != nil { // though the client has not taken the answer
			t.Fatal(err)
		}
		c.take <- struct{}{}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	awaitCalls(t, p, func(s fair.Stats) bool { return s.InUse == 0 })
}

func TestARangeStreamThatIsGivenUpGivesItsTurnBack(t *testing.T) {
	p := beforeAs(t, func(c *Config) { c.MaxUpstreamCalls = 1 }, map[string]func(grpc.ServerStream) error{
		pb.KV_RangeStream_FullMethodName: func(s grpc.ServerStream) error {
			<-s.Context().Done()
			return s.Context().Err()
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var streams sync.WaitGroup
	for range 2 { // one that waits for upstream, and one for its turn
		streams.Go(func() {
			err := p.Stream(pb.KV_RangeStream_FullMethodName, &streamClient{ctx: ctx, request: wire.Raw{}}, new(cache.Session))
			if status.Code(err) != codes.Canceled {
				t.Errorf("got %v", err)
			}
		})
	}
	awaitCalls(t, p, func(s fair.Stats) bool { return s.InUse == 1 && s.Queued == 1 })
	cancel()
	streams.Wait()
	if s := p.pool.Stats(); s.InUse != 0 || s.Queued != 0 {
		t.Errorf("%+v", s)
	}
}

func TestNobodyWaitsBehindAReadOfAnother(t *testing.T) {
	p := beforeAs(t, func(c *Config) { c.MaxUpstreamCalls = 1 }, map[string]func(grpc.ServerStream) error{
		pb.KV_Range_FullMethodName: answers(&pb.RangeResponse{}),
	})
	var all sync.WaitGroup
	ask := func(ip string) {
		all.Go(func() {
			_, err := p.share(from(t.Context(), ip), "", pb.KV_Range_FullMethodName, wire.Raw("\x0a\x01k"), func(wire.Raw) {})
			if err != nil {
				t.Errorf("%s: %v", ip, err)
			}
		})
	}
	who, weight := p.tenants.Identify(from(t.Context(), "10.0.0.1"))
	slot, err := p.pool.Acquire(t.Context(), who, weight, 0)
	if err != nil {
		t.Fatal(err)
	}
	ask("10.0.0.1")
	awaitCalls(t, p, func(s fair.Stats) bool { return s.Queued == 1 })
	ask("10.0.0.1") // which waits for the other one, as what it asks is the same
	ask("10.0.0.2")
	awaitCalls(t, p, func(s fair.Stats) bool { return s.Queued >= 2 })
	slot.Release()
	all.Wait()
	if n := p.flight.Stats().Shared; n > 0 {
		t.Errorf("%d reads were another account's", n)
	}
}

// What is in memory has moved on while the client took the first part, and others have all calls upstream.
func TestAStreamFromMemoryThatUpstreamContinuesWaitsForItsTurn(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		const keys, cacheBytes = 3000, 8 << 20
		m := newStoreMember()
		for i := range keys {
			m.put(t, fmt.Sprintf("s/%04d", i), []byte("small"))
		}
		p := beforeAs(t, func(c *Config) {
			c.MaxUpstreamCalls, c.CachePrefixes, c.CacheBytes = 1, []string{""}, cacheBytes
		}, m.handlers())
		for !p.reads.Has([]byte("s/"), []byte("s0")) {
			time.Sleep(time.Millisecond)
		}
		request := encoded(t, &pb.RangeRequest{Key: []byte("s/"), RangeEnd: []byte("s0")})
		var r wire.RangeRequest
		if err := r.Unmarshal(request); err != nil {
			t.Fatal(err)
		}
		c := &slowClient{streamClient{ctx: from(t.Context(), "10.0.0.1"), request: request}, make(chan struct{}), make(chan struct{}, 10)}
		ended := make(chan error, 1)
		go func() { ended <- p.RangeStream(&r, nil, c) }()
		<-c.offered
		endOther, err := p.turn(from(t.Context(), "10.0.0.2"))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // of which the first is one past state more than there is memory for
			m.put(t, "z", make([]byte, cacheBytes/3))
		}
		synctest.Wait()
		close(c.take)
		synctest.Wait()
		if s := p.pool.Stats(); s.Queued != 1 || m.asked != 0 {
			t.Errorf("upstream is asked %d times out of turn; %+v", m.asked, s)
		}
		endOther()
		if err := <-ended; err != nil || m.asked == 0 {
			t.Errorf("upstream is asked %d times, error %v", m.asked, err)
		}
		if s := p.pool.Stats(); s.InUse != 0 {
			t.Errorf("%+v", s)
		}
	})
}
