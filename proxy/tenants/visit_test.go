package tenants

import (
	"context"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"weir/grpcapi/wire"
	"weir/internal/bubble"
)

// enter has a client open a stream.
func enter(t *testing.T, table *Table, c *caller, method string) wire.Visit {
	t.Helper()
	v, err := table.Enter(c.ctx(t.Context()), method, nil)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestPingNeedsNoCheckOnceItsLeaseIsKnown(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		s := newStore(t)
		s.leases[1], s.leases[2] = []string{"/a/x"}, []string{"/b/x"}
		table := newTable(t, twoTenants, Config{Upstream: s})
		v := enter(t, table, ann, pb.Lease_LeaseKeepAlive_FullMethodName)
		defer v.Leave(nil, nil)
		rights := v.PingRights()
		for id, want := range map[int64]error{1: nil, 2: rpctypes.ErrGRPCPermissionDenied} {
			for range 2 {
				if rights.Allows(id) {
					t.Errorf("lease %d is allowed before it is known whose it is", id)
				}
				if err := rights.Check(t.Context(), id); err != want {
					t.Errorf("lease %d: %v, want %v", id, err, want)
				}
				if allowed := rights.Allows(id); allowed != (want == nil) {
					t.Errorf("lease %d is allowed: %v", id, allowed)
				}
				time.Sleep(claimAge)
			}
		}
		if !rights.Allows(0) {
			t.Error("there is no lease 0 that could be somebody's")
		}
	})
}

func TestWhoMayUseEveryLeaseHasNoPingsChecked(t *testing.T) {
	table := newTable(t, "", Config{Limits: Limits{InFlight: 2}})
	v := enter(t, table, &caller{}, pb.Lease_LeaseKeepAlive_FullMethodName)
	defer v.Leave(nil, nil)
	if v.PingRights() != nil {
		t.Error("they are checked")
	}
}

// hangingUpstream does not answer.
type hangingUpstream struct{}

func (hangingUpstream) Call(ctx context.Context, _ string, _ []byte) (wire.Raw, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestPingDoesNotWaitForUpstreamAfterItsSecond(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		table := newTable(t, twoTenants, Config{Upstream: hangingUpstream{}})
		v := enter(t, table, ann, pb.Lease_LeaseKeepAlive_FullMethodName)
		defer v.Leave(nil, nil)
		began := time.Now()
		if err := v.Message(marshal(t, &pb.LeaseKeepAliveRequest{ID: 1})); err != rpctypes.ErrGRPCTimeout || time.Since(began) != time.Second {
			t.Errorf("forwarded: %v after %v", err, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		began = time.Now()
		if err := v.PingRights().Check(ctx, 1); err == nil || time.Since(began) != time.Millisecond {
			t.Errorf("answered here: %v after %v", err, time.Since(began))
		}
	})
}

// TestStreamMayBeReadWhileItsClientLeaves has the goroutine that reads a stream notice its end too late.
func TestStreamMayBeReadWhileItsClientLeaves(t *testing.T) {
	s := newStore(t)
	table := newTable(t, twoTenants, Config{Upstream: s, Limits: Limits{Watches: 1 << 20, Bytes: 1 << 20}})
	ping := marshal(t, &pb.LeaseKeepAliveRequest{ID: 1})
	for _, method := range []string{pb.Watch_Watch_FullMethodName, pb.Lease_LeaseKeepAlive_FullMethodName} {
		for range 100 {
			v := enter(t, table, ann, method)
			var reader sync.WaitGroup
			began, over := make(chan struct{}), make(chan struct{})
			reader.Go(func() {
				close(began)
				for left := false; ; {
					select {
					case <-over:
						left = true
					default:
					}
					err := v.Message(ping)
					if method == pb.Watch_Watch_FullMethodName {
						if admitted := v.Watch() == nil; left && (admitted || err == nil) {
							t.Error("who has left may go on")
						}
					} else {
						v.PingRights().Allows(1)
						_ = v.PingRights().Check(t.Context(), 1)
					}
					if left {
						return
					}
				}
			})
			<-began
			v.Leave(nil, nil)
			close(over)
			reader.Wait()
		}
	}
	if a := accountOf(t, table, ann); a.watching != 0 || a.open != [lanes]int{} {
		t.Errorf("there are %d watches and %v left", a.watching, a.open)
	}
}
