package grpcapi

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/wire"
)

// memberList is how a forwarding server answers MemberList: with the proxies, if it knows any, in place of the members, as
// etcd's grpc-proxy does, and without a header; else with the members, but each under the URL by which this client has
// come. Clients replace their endpoints by what they find here (client/v3 does with AutoSyncInterval). Told upstream's own
// URLs they would go past the proxy from then on, or, where only the proxy can reach these, nowhere
// (https://github.com/etcd-io/etcd/issues/6902). For people the answer still has the members, with their names and peer URLs.
func memberList(d door, f Forwarder, cfg Config) grpc.MethodHandler {
	const method = pb.Cluster_MemberList_FullMethodName
	switch {
	case cfg.Proxies != nil:
		return d.unary(method, func(ctx context.Context, _ wire.Raw) (any, error) {
			return &pb.MemberListResponse{Members: cfg.Proxies(ctx)}, nil
		})
	case cfg.AdvertiseClientURL != "":
		name, err := os.Hostname()
		if err != nil {
			name = cfg.AdvertiseClientURL // clients do not take a member without a name for one
		}
		return d.unary(method, func(context.Context, wire.Raw) (any, error) {
			return &pb.MemberListResponse{Members: []*pb.Member{{Name: name, ClientURLs: []string{cfg.AdvertiseClientURL}}}}, nil
		})
	case cfg.KeepClientURLs:
		return forwardUnary(d, f, method)
	}
	return d.unary(method, func(ctx context.Context, req wire.Raw) (any, error) {
		raw, err := f.Unary(ctx, method, req, sessionOf(ctx))
		if err != nil {
			return nil, err
		}
		var list pb.MemberListResponse
		if err := proto.Unmarshal(raw, &list); err != nil {
			return nil, fmt.Errorf("decode upstream's members: %w", err)
		}
		here := reachedBy(ctx)
		for _, m := range list.Members {
			if len(m.ClientURLs) > 0 { // else it has never been started
				m.ClientURLs = slices.Clone(here)
			}
		}
		return &list, nil
	})
}

// reachedBy returns the URL by which an RPC's client has reached the server: what he himself has called it, if that can
// be dialled, else the address at this end of his connection. It is none if there is neither.
func reachedBy(ctx context.Context) []string {
	md := incomingMetadata(ctx)
	u := url.URL{Scheme: "http"}
	if tlsOf(ctx) != nil || slices.Contains(md[forwardedProto], "https") {
		u.Scheme = "https"
	}
	if a := md[":authority"]; len(a) == 1 && isHostPort(a[0]) {
		u.Host = a[0]
		return []string{u.String()}
	}
	p, ok := peer.FromContext(ctx)
	if !ok || p.LocalAddr == nil {
		return nil
	}
	if _, ok := p.LocalAddr.(*net.TCPAddr); ok {
		u.Host = p.LocalAddr.String()
		return []string{u.String()}
	}
	if h := md["x-forwarded-host"]; len(h) > 0 && h[0] != "" { // by the gateway
		u.Host = h[0]
		return []string{u.String()}
	}
	return nil
}

// forwardedProto is the metadata by which the gateway says that its own client has come by TLS.
const forwardedProto = "x-forwarded-proto"

// isHostPort tells whether s is a host and a port, and nothing else.
func isHostPort(s string) bool {
	u, err := url.Parse("http://" + s)
	return err == nil && u.Host == s && u.Hostname() != "" && u.Port() != ""
}
