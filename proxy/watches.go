package proxy

import (
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/coalesce"
	"weir/grpcapi/wire"
	"weir/proxy/feed"
)

// Hub is what watches without an identity are served from; see grpcapi.WatchSharer.
func (p *Proxy) Hub() *coalesce.Hub { return p.feeds.Hub() }

// Header is that of the member which serves the watches, as last seen.
func (p *Proxy) Header() wire.Header { return p.feeds.Header() }

// Era counts the times that what was known of upstream became void; see grpcapi.WatchSharer.
func (p *Proxy) Era() uint64 { return p.feeds.Era() }

// Share tells whether watches without an identity may be served from the hub; see grpcapi.WatchSharer.
func (p *Proxy) Share(ctx context.Context) (bool, error) { return p.feeds.Share(ctx) }

// Leader returns a context that ends when upstream loses its leader; see grpcapi.WatchSharer.
func (p *Proxy) Leader(ctx context.Context) (led context.Context, err error) {
	return p.feeds.Leader(ctx)
}

// feedUpstream gives the members to the feeds: the one that everything else is forwarded to, so that a client that reads
// and watches does not meet two members of which one is behind.
type feedUpstream struct{ *upstream }

// Member is part of feed.Upstream.
func (u feedUpstream) Member(ctx context.Context) (feed.Member, error) {
	t, err := u.pick(ctx)
	if err != nil {
		return nil, err
	}
	return feedMember{t.member, t.over}, nil
}

// Others is part of feed.Upstream.
func (u feedUpstream) Others(m feed.Member) (others []feed.Member) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, other := range u.members {
		if other != m.(feedMember).member && other.state == connectivity.Ready {
			others = append(others, feedMember{member: other})
		}
	}
	return others
}

// Prefer is part of feed.Upstream.
func (u feedUpstream) Prefer(m feed.Member) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if i := slices.Index(u.members, m.(feedMember).member); u.members[i].state == connectivity.Ready {
		u.appoint(u.members[i])
	}
}

// feedMember is a member during one tenure as the current one.
type feedMember struct {
	*member
	over <-chan struct{}
}

// Lost is part of feed.Member.
func (m feedMember) Lost() <-chan struct{} { return m.over }

// String is part of feed.Member.
func (m feedMember) String() string { return m.endpoint }

// Call is part of feed.Member.
func (m feedMember) Call(ctx context.Context, method string, req []byte) (resp wire.Raw, err error) {
	err = m.conn.Invoke(ctx, method, wire.Raw(req), &resp)
	return resp, err
}

// Watch is part of feed.Member.
func (m feedMember) Watch(ctx context.Context, requireLeader bool) (feed.WatchStream, error) {
	if requireLeader {
		ctx = metadata.AppendToOutgoingContext(ctx, "hasleader", "true")
	}
	s, err := m.conn.NewStream(ctx, &anyStream, pb.Watch_Watch_FullMethodName)
	if err != nil {
		return nil, err
	}
	return feedStream{s}, nil
}

type feedStream struct{ grpc.ClientStream }

// Send is part of feed.WatchStream.
func (s feedStream) Send(req []byte) error { return s.SendMsg(wire.Raw(req)) }

// Recv is part of feed.WatchStream.
func (s feedStream) Recv() (resp wire.Raw, err error) {
	err = s.RecvMsg(&resp)
	return resp, err
}
