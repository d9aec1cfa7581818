package proxy

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/coalesce"
	"weir/grpcapi/wire"
	"weir/proxy/access"
	"weir/proxy/feed"
)

// Hub is what watches are served from; see grpcapi.WatchSharer.
func (p *Proxy) Hub() *coalesce.Hub { return p.feeds.Hub() }

// Header is that of the member which serves the watches, as last seen.
func (p *Proxy) Header() wire.Header { return p.feeds.Header() }

// Era counts the times that what was known of upstream became void; see grpcapi.WatchSharer.
func (p *Proxy) Era() uint64 { return p.feeds.Era() }

// Share tells whether watches may be served from the hub; see grpcapi.WatchSharer.
func (p *Proxy) Share(ctx context.Context) (apart context.Context, err error) {
	return p.feeds.Share(ctx)
}

// Watching says that so many more streams may be served from the hub; see grpcapi.WatchSharer.
func (p *Proxy) Watching(more int) { p.guard.Watching(more) }

// PermitWatch is part of grpcapi.WatchPermits.
func (p *Proxy) PermitWatch(ctx context.Context, key, end []byte) (user string, err error) {
	return p.guard.PermitWatch(ctx, key, end)
}

// PermitUser is part of grpcapi.WatchPermits.
func (p *Proxy) PermitUser(user string, key, end []byte) error {
	return p.guard.PermitUser(user, key, end)
}

// Leader returns a context that ends when upstream loses its leader; see grpcapi.WatchSharer.
func (p *Proxy) Leader(ctx context.Context) (led context.Context, err error) {
	return p.feeds.Leader(ctx)
}

// feedUpstream gives the members to the feeds: the one that everything else is forwarded to, so that a client that reads
// and watches does not meet two members of which one is behind.
type feedUpstream struct {
	*upstream
	guard *access.Guard
}

// Member is part of feed.Upstream.
func (u feedUpstream) Member(ctx context.Context) (feed.Member, error) {
	t, err := u.pick(ctx)
	if err != nil {
		return nil, err
	}
	return feedMember{t.member, u.guard, t.over}, nil
}

// Others is part of feed.Upstream.
func (u feedUpstream) Others(m feed.Member) (others []feed.Member) {
	for _, other := range u.connected() {
		if other != m.(feedMember).member {
			others = append(others, feedMember{member: other, guard: u.guard})
		}
	}
	return others
}

// Prefer is part of feed.Upstream.
func (u feedUpstream) Prefer(m feed.Member) {
	u.prefer(m.(feedMember).member)
}

// feedMember is a member during one tenure as the current one.
type feedMember struct {
	*member
	guard *access.Guard
	over  <-chan struct{}
}

// Lost is part of feed.Member.
func (m feedMember) Lost() <-chan struct{} { return m.over }

// String is part of feed.Member.
func (m feedMember) String() string { return m.endpoint }

// Call is part of feed.Member.
func (m feedMember) Call(ctx context.Context, method string, req []byte) (wire.Raw, error) {
	return access.AsOwn(ctx, m.guard, func(ctx context.Context) (wire.Raw, error) { return m.call(ctx, method, req) })
}

// CallAsNobody is part of feed.Member.
func (m feedMember) CallAsNobody(ctx context.Context, method string, req []byte) (wire.Raw, error) {
	return m.call(m.guard.Nobody(ctx), method, req)
}

// guardUpstream is the current member, for the guard: whoever ctx names asks.
type guardUpstream struct{ *upstream }

// Call is part of access.Upstream.
func (u guardUpstream) Call(ctx context.Context, method string, req []byte) (resp wire.Raw, err error) {
	err = u.try(ctx, func(t *tenure) (sent bool, err error) {
		var to peer.Peer // set only if a stream was made
		err = t.member.conn.Invoke(ctx, method, wire.Raw(req), &resp, grpc.Peer(&to))
		return to.Addr != nil, err
	})
	return resp, err
}

// ownUpstream is the current member, asked in the proxy's own name.
type ownUpstream struct {
	guardUpstream
	guard *access.Guard
}

// Call is part of tenants.Upstream.
func (u ownUpstream) Call(ctx context.Context, method string, req []byte) (wire.Raw, error) {
	return access.AsOwn(ctx, u.guard, func(ctx context.Context) (wire.Raw, error) { return u.guardUpstream.Call(ctx, method, req) })
}

// call is without any identity but that in ctx.
func (m *member) call(ctx context.Context, method string, req []byte) (resp wire.Raw, err error) {
	err = m.conn.Invoke(ctx, method, wire.Raw(req), &resp)
	return resp, err
}

// Regime is part of feed.Member.
func (m feedMember) Regime(ctx context.Context) (feed.Regime, error) {
	r, err := m.guard.Regime(ctx, m.call)
	if !isSilence(err) {
		m.hear()
	}
	switch r {
	case access.Open:
		return feed.Open, err
	case access.Guarded:
		return feed.Guarded, err
	}
	return feed.Closed, err
}

// Watch is part of feed.Member.
func (m feedMember) Watch(ctx context.Context, requireLeader bool) (feed.WatchStream, error) {
	if requireLeader {
		ctx = metadata.AppendToOutgoingContext(ctx, "hasleader", "true")
	}
	ctx, err := m.guard.Own(ctx)
	if err != nil {
		return nil, err
	}
	s, err := m.conn.NewStream(ctx, &anyStream, pb.Watch_Watch_FullMethodName)
	if err != nil {
		return nil, err
	}
	return feedStream{s, m.guard}, nil
}

type feedStream struct {
	grpc.ClientStream
	guard *access.Guard
}

// Refused is part of feed.WatchStream.
func (s feedStream) Refused(reason string) { s.guard.Renew(s.Context(), errors.New(reason)) }

// Send is part of feed.WatchStream.
func (s feedStream) Send(req []byte) error { return s.SendMsg(wire.Raw(req)) }

// Recv is part of feed.WatchStream.
func (s feedStream) Recv() (resp wire.Raw, err error) {
	if err = s.RecvMsg(&resp); err == nil {
		s.guard.Hold(s.Context(), resp)
	}
	return resp, err
}
