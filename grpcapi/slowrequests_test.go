package grpcapi

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"weir/internal/bubble"

	"google.golang.org/grpc"
)

// registered keeps what is registered.
type registered []*grpc.ServiceDesc

func (r *registered) RegisterService(d *grpc.ServiceDesc, _ any) { *r = append(*r, d) }

func TestRequestsThatTakeLongerThanTheLimitAreLogged(t *testing.T) {
	for _, c := range []struct {
		took time.Duration
		want bool
	}{
		{0, false}, {290 * time.Millisecond, false}, {300 * time.Millisecond, false}, {380 * time.Millisecond, true}, {time.Minute, true},
	} {
		bubble.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			s := newSlowRequests(300*time.Millisecond, slog.New(slog.NewTextHandler(&log, nil)))
			defer s.close()
			var services registered
			s.registrar(&services).RegisterService(&grpc.ServiceDesc{ServiceName: "etcdserverpb.KV", Methods: []grpc.MethodDesc{{
				MethodName: "Put",
				Handler: func(any, context.Context, func(any) error, grpc.UnaryServerInterceptor) (any, error) {
					time.Sleep(c.took)
					return nil, context.DeadlineExceeded
				},
			}}}, nil)
			for _, offset := range []time.Duration{0, time.Millisecond, 36 * time.Millisecond} { // between the clock's ticks
				log.Reset()
				time.Sleep(offset)
				if _, err := services[0].Methods[0].Handler(nil, t.Context(), nil, nil); err != context.DeadlineExceeded {
					t.Fatalf("got %v", err)
				}
				got := strings.Contains(log.String(), "method=etcdserverpb.KV/Put") && strings.Contains(log.String(), "code=DeadlineExceeded")
				if got != c.want {
					t.Errorf("%v: logged %q", c.took, log.String())
				}
			}
		})
	}
}

func TestWithoutALimitNothingIsWatched(t *testing.T) {
	var services registered
	var none *slowRequests
	if none.registrar(&services) != grpc.ServiceRegistrar(&services) {
		t.Error("services are wrapped")
	}
	none.close()
}
