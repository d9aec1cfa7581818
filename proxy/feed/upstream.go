package feed

import (
	"context"

	"weir/grpcapi/wire"
)

// Upstream is the members that feeds are fed from. proxy.Proxy has the real one. All methods may be called
// concurrently.
type Upstream interface {
	// Member waits for the member that requests go to now. It fails with an error for a client when none can be
	// reached, after a short while.
	Member(ctx context.Context) (Member, error)
	// Others are the connected members besides m.
	Others(m Member) []Member
	// Prefer makes m, one of Others, the member that requests go to from now on, if it is still connected.
	Prefer(m Member)
}

// Member is one upstream member. All methods may be called concurrently.
type Member interface {
	// Watch opens a Watch RPC, which ends with ctx at the latest. With requireLeader the member is told to end it when
	// it has lost its leader.
	Watch(ctx context.Context, requireLeader bool) (WatchStream, error)
	// Call does a unary RPC of etcd, "/etcdserverpb.KV/Range" for example, without any identity of a client: with the
	// proxy's own, if it has one.
	Call(ctx context.Context, method string, req []byte) (wire.Raw, error)
	// CallAsNobody does one without any identity, not even the proxy's own: what needs a right is refused unless
	// authentication is off.
	CallAsNobody(ctx context.Context, method string, req []byte) (wire.Raw, error)
	// Regime asks who may be given what the feeds bring. It fails when the member does not answer.
	Regime(ctx context.Context) (Regime, error)
	// Lost is closed when requests no longer go to the member: its connection is gone, or another is preferred.
	Lost() <-chan struct{}
	// String is the member's endpoint.
	String() string
}

// Regime is who may be given what a watch brings that was opened by Member.Watch.
type Regime int

const (
	// Closed is nobody: it may not even be opened, because authentication is on and the proxy has no identity that may read all.
	Closed Regime = iota
	// Open is everybody, because authentication is off.
	Open
	// Guarded is whoever upstream would give it to. The feeds do not know who that is, and trust who asks for a watch.
	Guarded
)

// WatchStream is a Watch RPC. One goroutine may call Send while another calls Recv. Both return an error when the RPC
// has ended.
type WatchStream interface {
	// Send sends an encoded WatchRequest. It may wait for the network.
	Send(req []byte) error
	// Recv returns the next encoded WatchResponse, which is the caller's to keep.
	Recv() (wire.Raw, error)
	// Refused says that a watch was refused for whom upstream took the stream to be of: the next stream should be opened
	// as somebody else, or with a newer token.
	Refused(reason string)
}
