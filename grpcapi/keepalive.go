package grpcapi

import (
	"context"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// Pings is what a forwarding server needs to keep the leases of many clients alive through few upstream streams. proxy.Proxy
// satisfies it. It may be called concurrently.
type Pings interface {
	// Pings tells what becomes of a client's stream of pings, or fails with the error to answer. ctx is that of the stream. It
	// does not wait.
	Pings(ctx context.Context) (coalesce.PingRoute, error)
}

// sharedPings is LeaseKeepAlive of a forwarding server, and the method by which other proxies of weir send pings to it.
type sharedPings struct {
	door    door
	pings   Pings
	leader  func(context.Context) (led context.Context, err error)
	forward Forwarder
	marker  []byte // empty; see pongMark
	pinging *pingStreams
}

// newSharedPings makes the service. leader is WatchSharer.Leader, or nil if it is not known here whether there is one.
func newSharedPings(
	d door, p Pings, f Forwarder, leader func(context.Context) (context.Context, error), pinging *pingStreams,
) *sharedPings {
	return &sharedPings{door: d, pings: p, leader: leader, forward: f, marker: make([]byte, 0, markerCap), pinging: pinging}
}

// takeOver adds LeaseKeepAlive to the forwarded methods of the Lease service.
func (p *sharedPings) takeOver(d *grpc.ServiceDesc) {
	d.Streams = append(d.Streams, p.stream("LeaseKeepAlive", pb.Lease_LeaseKeepAlive_FullMethodName, singlePings{}))
}

// register adds weir's own method.
func (p *sharedPings) register(s grpc.ServiceRegistrar) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: wire.PingsService,
		Streams:     []grpc.StreamDesc{p.stream("KeepAlive", wire.PingsMethod, batchedPings{})},
	}, nil)
}

func (p *sharedPings) stream(name, method string, m pingProtocol) grpc.StreamDesc {
	return grpc.StreamDesc{
		StreamName:    name,
		ServerStreams: true,
		ClientStreams: true,
		Handler: func(_ any, gs grpc.ServerStream) error {
			came := time.Now()
			return p.door.enter(method, gs, func(gs grpc.ServerStream, visit wire.Visit) error {
				return toStatus(p.serve(method, gs, visit, m, came))
			})
		},
	}
}

// serve serves a stream that came at a moment, and forwards it if that cannot be.
func (p *sharedPings) serve(method string, gs grpc.ServerStream, visit wire.Visit, m pingProtocol, came time.Time) error {
	ctx := gs.Context()
	md := incomingMetadata(ctx)
	route, err := p.pings.Pings(ctx)
	if err != nil {
		return err
	}
	if route.Done != nil {
		defer route.Done()
	}
	if route.Keepalives == nil || p.leader == nil && requiresLeader(md) {
		return p.forward.Stream(method, admitted(gs, visit), sessionOf(ctx))
	}
	if err := checkAPIVersion(md); err != nil {
		return err
	}
	s := newPingStream(gs, m, newSharedPinger(route, visit), p.pinging, p.marker)
	s.client = route.Client
	// The pings that have come with the stream are not read as long as it is not known what becomes of them.
	opening, cancel := context.WithDeadline(ctx, came.Add(coalesce.PingLife))
	defer cancel()
	if requiresLeader(md) {
		led, err := p.leader(opening)
		if err != nil {
			return tooLate(opening, err)
		}
		defer context.AfterFunc(led, func() { s.end(context.Cause(led)) })()
	}
	if opening.Err() != nil {
		return tooLate(opening, opening.Err())
	}
	s.openedAfter(time.Since(came))
	return s.serve()
}

// sharedPinger sends the pings of one stream where those of other clients go.
type sharedPinger struct {
	keepalives *coalesce.Keepalives
	rights     []wire.PingRights
}

func newSharedPinger(r coalesce.PingRoute, visit wire.Visit) *sharedPinger {
	p := &sharedPinger{keepalives: r.Keepalives}
	if r.Rights != nil {
		p.rights = append(p.rights, r.Rights)
	}
	if visit != nil {
		if own := visit.PingRights(); own != nil {
			p.rights = append(p.rights, own)
		}
	}
	return p
}

// ping is part of pinger.
func (p *sharedPinger) ping(s *pingStream, ids []int64, stamp pingStamp) {
	for _, id := range ids {
		if p.allows(id) {
			p.keepalives.Ping(id, stamp.arrived, s, stamp.number)
		} else {
			s.waiting.add(waitingPing{id, stamp})
		}
	}
}

// allows tells that a ping need not wait for a verdict.
func (p *sharedPinger) allows(id int64) bool {
	for _, r := range p.rights {
		if !r.Allows(id) {
			return false
		}
	}
	return true
}

// settle is part of pinger.
func (p *sharedPinger) settle(ctx context.Context, s *pingStream, w waitingPing) error {
	for _, r := range p.rights {
		if err := r.Check(ctx, w.id); err != nil {
			return err
		}
	}
	p.keepalives.Ping(w.id, w.arrived, s, w.number)
	return nil
}

// refusalPatience is how long after a ping has arrived its right may be looked into. Who is refused may have to wait for an
// AuthStatus, of which there is one a second; that is no reason to be told of a timeout. Who is allowed too late is not pinged
// for: Keepalives sees to that.
const refusalPatience = 3 * time.Second

// patience is part of pinger.
func (p *sharedPinger) patience() time.Duration { return refusalPatience }
