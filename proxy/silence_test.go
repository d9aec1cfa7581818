package proxy

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"weir/internal/bubble"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// A member with authentication on, whose users are not the proxy, so that nothing is shared.
func TestACallThatHangsWithItsMemberEndsAlsoWhereNothingIsShared(t *testing.T) {
	for _, method := range []string{
		pb.KV_Range_FullMethodName, pb.KV_Put_FullMethodName, pb.Auth_Authenticate_FullMethodName, pb.Lease_LeaseGrant_FullMethodName,
	} {
		bubble.Test(t, func(t *testing.T) {
			var hangs atomic.Bool
			p := beforeProbed(t, &hangs, map[string]func(grpc.ServerStream) error{method: untilCancelled})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			began, ended := time.Now(), make(chan error, 1)
			go func() {
				_, err := p.Unary(ctx, method, nil, nil)
				ended <- err
			}()
			time.Sleep(time.Minute)
			select {
			case err := <-ended:
				t.Fatalf("%s: the member is alive, and after %v the call ended: %v", method, time.Since(began), err)
			default:
			}
			hangs.Store(true)
			began = time.Now()
			if err := <-ended; !errors.Is(err, rpctypes.ErrGRPCTimeout) || time.Since(began) > requestTimeout {
				t.Errorf("%s: after %v: %v", method, time.Since(began), err)
			}
			began = time.Now()
			if _, err := p.Unary(ctx, method, nil, nil); !errors.Is(err, rpctypes.ErrGRPCTimeout) || time.Since(began) != requestTimeout {
				t.Errorf("%s: sent to a member that hangs: after %v: %v", method, time.Since(began), err)
			}
		})
	}
}

// beforeProbed returns a proxy before a member that answers a proxy's own questions as long as it does not hang.
func beforeProbed(t *testing.T, hangs *atomic.Bool, handler map[string]func(grpc.ServerStream) error) *Proxy {
	asked := handler[pb.KV_Range_FullMethodName]
	handler[pb.KV_Range_FullMethodName] = func(s grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(s.Context())
		switch {
		case len(md["weir-uncached"]) == 0 && asked != nil:
			return asked(s)
		case hangs.Load():
			return untilCancelled(s)
		}
		return rpctypes.ErrGRPCUserEmpty
	}
	return before(t, handler)
}

func untilCancelled(s grpc.ServerStream) error {
	<-s.Context().Done()
	return s.Context().Err()
}
