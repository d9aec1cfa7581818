package proxy

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

func TestPingsTakeWeirsStreamWhereThereIsOne(t *testing.T) {
	for method, m := range map[string]*pingMember{
		wire.PingsMethod:                       {batches: true},
		pb.Lease_LeaseKeepAlive_FullMethodName: {},
	} {
		c := &pingCluster{T: t, members: []*pingMember{m}}
		c.serve(&fakeIdentities{}, false)
		for id := range int64(3) {
			to, pong := c.ping(t.Context(), 1+id)
			if to.method != method || pong.ID != 1+id || pong.TTL != 10*(1+id) || pong.Header.MemberID != m.id {
				t.Errorf("ping %d by %s: %+v, want it by %s", 1+id, to.method, pong, method)
			}
		}
		if s := c.pings.stats(); s.Streams == 0 || s.Sent != 3 {
			t.Errorf("stats are %+v", s)
		}
	}
}

// A ping that is refused tells its own client, and nobody else.
func TestRefusedPingOfABatchEndsNothing(t *testing.T) {
	c := &pingCluster{T: t, members: []*pingMember{{batches: true}}}
	c.fail = func(_ string, id int64) error {
		if id == 1 {
			return rpctypes.ErrGRPCPermissionDenied
		}
		return nil
	}
	c.serve(&fakeIdentities{}, false)
	opened := func() uint64 { return c.pings.stats().Opened }
	c.ping(t.Context(), 2)
	c.ping(t.Context(), 2) // a lease that is known may have another stream
	before := opened()
	if _, pong := c.ping(t.Context(), 1); status.Code(pong.Err) != codes.PermissionDenied {
		t.Errorf("got %v", pong.Err)
	}
	c.ping(t.Context(), 2)
	c.ping(t.Context(), 3)
	if n := opened(); n != before {
		t.Errorf("%d more streams were opened", n-before)
	}
}

// A token of the proxy's own that has expired is no client's matter.
func TestOwnTokenIsRenewedUnderThePings(t *testing.T) {
	for name, batches := range map[string]bool{"weir": true, "etcd": false} {
		t.Run(name, func(t *testing.T) {
			var ids fakeIdentities
			c := &pingCluster{T: t, members: []*pingMember{{batches: batches}}}
			var good atomic.Value
			good.Store("own-0")
			c.fail = func(token string, _ int64) error {
				if token != good.Load() {
					return rpctypes.ErrGRPCInvalidAuthToken
				}
				return nil
			}
			c.serve(&ids, true)
			for _, token := range []string{"own-0", "own-1", "own-2"} {
				good.Store(token)
				if to, pong := c.ping(t.Context(), 2); pong.Err != nil || to.token != token {
					t.Errorf("token %s: pinged %+v, %v", token, to, pong.Err)
				}
			}
			if _, pong := c.ping(byToken(t.Context(), "forged"), 2); !hasText(pong.Err, rpctypes.ErrGRPCInvalidAuthToken) {
				t.Errorf("another's token: %v", pong.Err)
			}
		})
	}
}

func TestMemberThatOpensNoStreamIsGivenUp(t *testing.T) {
	c := &pingCluster{T: t, members: []*pingMember{{batches: true, mute: true}}}
	c.serve(&fakeIdentities{}, false)
	begun := time.Now()
	_, err := (&pingUpstream{pings: c.pings}).Open(t.Context())
	if status.Code(err) != codes.Unavailable || time.Since(begun) < answerPatience {
		t.Errorf("got %v after %v", err, time.Since(begun))
	}
}

func TestStreamEndsWithTheContextThatItWasOpenedWith(t *testing.T) {
	for _, batches := range []bool{true, false} {
		c := &pingCluster{T: t, members: []*pingMember{{batches: batches}}}
		c.serve(&fakeIdentities{}, false)
		ctx, cancel := context.WithCancel(t.Context())
		s, err := (&pingUpstream{pings: c.pings}).Open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if s.Ordered() == batches {
			t.Errorf("ordered: %v", s.Ordered())
		}
		cancel()
		if _, err := s.Recv(); err == nil {
			t.Error("a pong")
		}
		if err := s.Send([]int64{1}); err == nil {
			// It may be accepted and lost: Recv has told.
			t.Log("sent on a stream that has ended")
		}
	}
}

func TestWhatRemainsOfALease(t *testing.T) {
	m := &pingMember{ttls: map[int64]*pb.LeaseTimeToLiveResponse{
		1: {TTL: 7, GrantedTTL: 10},
		2: {TTL: 0, GrantedTTL: 10},
		3: {TTL: -1, GrantedTTL: 10}, // expired for a second, says etcd
		4: {TTL: -1},
	}}
	c := &pingCluster{T: t, members: []*pingMember{m}}
	c.serve(&fakeIdentities{}, false)
	u := &pingUpstream{pings: c.pings}
	for id, want := range map[int64]int64{1: 7, 2: 0, 3: 0, 4: -1} {
		if got, h, err := u.Remaining(t.Context(), id); err != nil || got != want || h.MemberID != m.id {
			t.Errorf("lease %d: %d, %+v, %v; want %d", id, got, h, err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := u.Remaining(ctx, 1); status.Code(err) != codes.Canceled {
		t.Errorf("nobody wants to know: %v", err)
	}
}

// Pings of a member that has lost the lead are sent again where the leader is; the clients notice nothing.
func TestStreamIsLeftWhenTheLeaderMoves(t *testing.T) {
	c := threeMembers(t)
	c.elect(c.members[0], 2)
	c.wantAt(c.members[0])
	s, err := (&pingUpstream{pings: c.pings}).Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.elect(c.members[1], 3)
	c.wantAt(c.members[1])
	if err := s.Send([]int64{1}); !errors.Is(err, rpctypes.ErrGRPCLeaderChanged) {
		t.Errorf("Send: %v", err)
	}
	var pongs []coalesce.Pong
	if pongs, err = s.Recv(); !errors.Is(err, rpctypes.ErrGRPCLeaderChanged) {
		t.Errorf("Recv: %v, %v", pongs, err)
	}
}
