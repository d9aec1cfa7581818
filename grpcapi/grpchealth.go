package grpcapi

import (
	"context"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// servingStatus is gRPC's health service: whether the server serves, as a whole (service "") and each of its services. etcd
// knows only the whole.
type servingStatus struct {
	*grpchealth.Server

	mu      sync.Mutex // guards resting, and that statuses change in its order
	resting int        // defragmentations that are going on
}

func registerServingStatus(s grpc.ServiceRegistrar) *servingStatus {
	h := &servingStatus{Server: grpchealth.NewServer()}
	h.set(healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(s, h)
	return h
}

func (h *servingStatus) set(status healthpb.HealthCheckResponse_ServingStatus) {
	h.SetServingStatus("", status)
	for _, s := range etcdServices() {
		h.SetServingStatus(s.ServiceName, status)
	}
}

// rest is called when a defragmentation, for which requests wait, begins (1) or has ended (-1).
func (h *servingStatus) rest(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.resting += n
	if h.resting > 0 {
		h.set(healthpb.HealthCheckResponse_NOT_SERVING)
	} else {
		h.set(healthpb.HealthCheckResponse_SERVING)
	}
}

// whileResting is m.Defragment that says so.
func (h *servingStatus) whileResting(m Maintenance) defragmentation {
	return func(ctx context.Context, r *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
		h.rest(1)
		defer h.rest(-1)
		return m.Defragment(ctx, r)
	}
}
