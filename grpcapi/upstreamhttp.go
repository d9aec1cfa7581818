package grpcapi

import (
	"context"
	"fmt"
	"net/http"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// UpstreamHTTP answers the HTTP endpoints of a server that forwards to u: /livez, which holds while the process
// runs, /readyz, which needs a connected upstream, /health, which needs one that reads, and /version, upstream's.
func UpstreamHTTP(u Upstream) http.Handler {
	mux := http.NewServeMux()
	handleChecks(mux, "/livez", nil)
	handleChecks(mux, "/readyz", []check{{"upstream", u.Ready}})
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
		defer cancel()
		reason := ""
		if err := readThrough(ctx, u); err != nil {
			reason = err.Error()
		}
		writeHealth(w, reason)
	})
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), checkTimeout)
		defer cancel()
		var s pb.StatusResponse
		if err := call(ctx, u, pb.Maintenance_Status_FullMethodName, &pb.StatusRequest{}, &s); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		writeVersion(w, &s)
	})
	return mux
}

// readThrough makes a linearizable read. To be refused it for lack of a user is as good: upstream answers.
func readThrough(ctx context.Context, u Upstream) error {
	if err := u.Ready(ctx); err != nil {
		return err
	}
	r := &pb.RangeRequest{Key: []byte{0}, CountOnly: true}
	err := call(ctx, u, pb.KV_Range_FullMethodName, r, &pb.RangeResponse{})
	switch status.Code(err) {
	case codes.InvalidArgument, codes.PermissionDenied, codes.Unauthenticated:
		return nil
	}
	return err
}

func call(ctx context.Context, f Forwarder, method string, req, resp proto.Message) error {
	raw, err := proto.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode %T: %w", req, err)
	}
	answer, err := f.Unary(ctx, method, raw, nil)
	if err != nil {
		return err
	}
	return proto.Unmarshal(answer, resp)
}
