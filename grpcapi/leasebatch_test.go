package grpcapi

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
	"weir/internal/bubble"
)

// batchClient is one stream of pings as a proxy has it.
type batchClient struct {
	*testing.T
	grpc.ClientStream
}

func openBatches(t *testing.T, b Backend) batchClient {
	t.Helper()
	return openBatchesOn(t, dial(t, start(t, NewBackendServer(Config{Logger: quiet()}, b))))
}

func openBatchesOn(t *testing.T, conn *grpc.ClientConn) batchClient {
	t.Helper()
	s, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true},
		wire.PingsMethod, grpc.ForceCodecV2(wire.Codec{}))
	if err != nil {
		t.Fatal(err)
	}
	return batchClient{t, s}
}

func (c batchClient) ping(ids ...int64) {
	c.Helper()
	if err := c.SendMsg(wire.Raw(wire.AppendPings(nil, ids))); err != nil {
		c.Fatal(err)
	}
}

func (c batchClient) receive() wire.PongBatch {
	c.Helper()
	var (
		raw wire.Raw
		b   wire.PongBatch
	)
	if err := c.RecvMsg(&raw); err != nil {
		c.Fatal(err)
	}
	if err := b.Unmarshal(raw); err != nil {
		c.Fatal(err)
	}
	return b
}

func (c batchClient) wantEnd(code codes.Code) {
	c.Helper()
	var raw wire.Raw
	err := c.RecvMsg(&raw)
	if code == codes.OK && err != io.EOF || code != codes.OK && status.Code(err) != code {
		c.Errorf("the stream ended with %v", err)
	}
}

// odd renews leases with an odd id at once.
func odd(ids, ttls []int64) {
	for i, id := range ids {
		ttls[i] = id % 2 * 10 * id
	}
}

func TestPingsOfOneMessageAreAnsweredInOne(t *testing.T) {
	c := openBatches(t, &fakeBackend{renewNow: odd})
	c.ping(1, 3, 5)
	b := c.receive()
	if !slices.Equal(b.Pongs, []wire.Pong{{ID: 1, TTL: 10}, {ID: 3, TTL: 30}, {ID: 5, TTL: 50}}) || len(b.Failures) > 0 {
		t.Errorf("got %+v", b)
	}
	if want := (wire.Header{ClusterID: 1, MemberID: 2, Revision: 3, RaftTerm: 4}); b.Header != want {
		t.Errorf("header is %+v", b.Header)
	}
}

// A ping that has to wait is answered later, and until then holds up nothing, however many there are.
func TestLatePingsHoldUpNoOthers(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		const late = 3 * maxPingWaiters
		revoked := make(chan struct{})
		s := &scriptedPings{}
		s.serve(t, batchedPings{}, &renewals{backend: &fakeBackend{renewNow: odd, renew: func(ctx context.Context, id int64) (int64, error) {
			select {
			case <-revoked:
			case <-ctx.Done():
				return 0, ctx.Err()
			}
			if id == 2 {
				return 7, nil // granted a moment ago
			}
			return 0, rpctypes.ErrGRPCLeaseNotFound
		}}})
		var ids []int64
		for i := range int64(late) {
			ids = append(ids, 2+2*i)
		}
		for range late + 2 {
			s.accept <- struct{}{}
		}
		s.pings <- append(ids, 1)
		s.pings <- []int64{3}
		pongs, failures := s.got()
		if !slices.Equal(pongs, []wire.Pong{{ID: 1, TTL: 10}, {ID: 3, TTL: 30}}) || len(failures) > 0 {
			t.Errorf("at once: %v, %v", pongs, failures)
		}
		close(s.pings)
		close(revoked)
		if ended, err := s.hasEnded(); !ended || err != nil {
			t.Errorf("ended (%v) with %v", ended, err)
		}
		ttls := map[int64]int64{}
		pongs, _ = s.got()
		for _, p := range pongs[2:] {
			ttls[p.ID] = p.TTL
		}
		for _, id := range ids {
			ttl, answered := ttls[id]
			if want := map[bool]int64{true: 7}[id == 2]; !answered || ttl != want {
				t.Errorf("lease %d: TTL %d, answered: %v", id, ttl, answered)
			}
		}
	})
}

func TestAPingThatFailsEndsNothing(t *testing.T) {
	c := openBatches(t, &fakeBackend{renewNow: odd, renew: func(context.Context, int64) (int64, error) {
		return 0, rpctypes.ErrGRPCPermissionDenied
	}})
	c.ping(1, 2)
	var failures []wire.PingFailure
	var pongs []wire.Pong
	for len(failures)+len(pongs) < 2 {
		b := c.receive()
		failures, pongs = append(failures, b.Failures...), append(pongs, b.Pongs...)
	}
	if !slices.Equal(pongs, []wire.Pong{{ID: 1, TTL: 10}}) {
		t.Errorf("pongs are %v", pongs)
	}
	want := wire.PingFailure{ID: 2, Text: "etcdserver: permission denied", Code: uint32(codes.PermissionDenied)}
	if len(failures) != 1 || failures[0] != want {
		t.Errorf("failures are %v, want %v", failures, want)
	}
	if err := c.CloseSend(); err != nil {
		t.Fatal(err)
	}
	c.wantEnd(codes.OK)
}

func TestLatePingsAreBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var asked, asking, most atomic.Int64
		s := &scriptedPings{}
		s.serve(t, batchedPings{}, &renewals{backend: &fakeBackend{
			renewNow: func(ids, ttls []int64) {
				asked.Add(int64(len(ids)))
				odd(ids, ttls)
			},
			renew: func(ctx context.Context, id int64) (int64, error) {
				most.Store(max(most.Load(), asking.Add(1)))
				defer asking.Add(-1)
				return 0, never(ctx, id)
			},
		}})
		for range 3 * maxOpenPings / maxPingBatch {
			s.pings <- make([]int64, maxPingBatch)
		}
		for range 2 * maxOpenPings { // if each is answered by itself
			s.accept <- struct{}{}
		}
		synctest.Wait()
		if n := asked.Load(); n != maxOpenPings {
			t.Errorf("%d were read, of which none has an answer", n)
		}
		if n := most.Load(); n != maxPingWaiters {
			t.Errorf("%d were asked for at a time", n)
		}
		// Each fails within its second, which makes room for others.
		time.Sleep(2 * time.Second)
		if _, failures := s.got(); len(failures) != 2*maxOpenPings || failures[0].Text != "etcdserver: request timed out" {
			t.Errorf("%d have failed", len(failures))
		}
	})
}

// TestLatePingRenewsNothingAfterItsSecond has a lease that nobody can tell about for longer.
func TestLatePingRenewsNothingAfterItsSecond(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := &scriptedPings{}
		s.serve(t, batchedPings{}, &renewals{backend: &fakeBackend{renewNow: odd, renew: func(ctx context.Context, _ int64) (int64, error) {
			return 10, take(1100*time.Millisecond)(ctx, 0)
		}}})
		s.pings <- []int64{2}
		s.accept <- struct{}{}
		close(s.pings)
		time.Sleep(time.Second)
		pongs, failures := s.got()
		want := wire.PingFailure{ID: 2, Text: "etcdserver: request timed out", Code: uint32(codes.Unavailable)}
		if len(pongs) != 0 || !slices.Equal(failures, []wire.PingFailure{want}) {
			t.Errorf("got %v, %v", pongs, failures)
		}
		if ended, err := s.hasEnded(); !ended || err != nil {
			t.Errorf("ended (%v) with %v", ended, err)
		}
	})
}

// TestErrorEndsAStreamWithoutItsLatePings has a backend that takes its time to notice.
func TestErrorEndsAStreamWithoutItsLatePings(t *testing.T) {
	var asked sync.WaitGroup
	asked.Add(maxPingWaiters)
	release := make(chan struct{})
	var returned atomic.Int64
	server := NewBackendServer(Config{Logger: quiet()}, &fakeBackend{renewNow: odd, renew: func(ctx context.Context, _ int64) (int64, error) {
		asked.Done()
		<-ctx.Done()
		<-release
		defer returned.Add(1)
		return 0, ctx.Err()
	}})
	c := openBatchesOn(t, dial(t, start(t, server)))
	c.ping(make([]int64, 2*maxPingWaiters)...)
	asked.Wait()
	if err := c.SendMsg(wire.Raw{0xff}); err != nil {
		t.Fatal(err)
	}
	c.wantEnd(codes.Internal)
	close(release)
	server.Stop(t.Context())
	if n := returned.Load(); n != maxPingWaiters {
		t.Errorf("%d of %d have returned when the server has stopped", n, maxPingWaiters)
	}
}

func TestBatchesOfPingsThatAreTooLargeAreRefused(t *testing.T) {
	c := openBatches(t, &fakeBackend{})
	c.ping(make([]int64, maxPingBatch+1)...)
	c.wantEnd(codes.InvalidArgument)
}

// Who knows only etcd's API sees that the server has the method before it has pinged anything.
func TestHeaderComesBeforeTheFirstPing(t *testing.T) {
	c := openBatches(t, &fakeBackend{})
	if md, err := c.Header(); err != nil || md == nil {
		t.Errorf("got %v, %v", md, err)
	}
	if err := c.CloseSend(); err != nil {
		t.Fatal(err)
	}
	c.wantEnd(codes.OK)
	var raw wire.Raw
	if err := c.RecvMsg(&raw); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}
