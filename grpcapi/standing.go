package grpcapi

import (
	"context"
	"errors"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"weir/grpcapi/wire"
)

// Standing is what a member is in its cluster. core.Node satisfies it. Both methods may be called concurrently, and for each RPC.
type Standing interface {
	// IsLearner tells whether the member has no vote yet. Then it may be asked for serializable reads, its status and a
	// snapshot alone, as at etcd: what else it would say may be long out of date.
	IsLearner() bool
	// Led returns a context that ends when the member has had no leader for long, rpctypes.ErrGRPCNoLeader being the
	// cause: with it end watches, pings and observations of clients that require a leader. It ends with the member too.
	Led() context.Context
}

// member registers services so that a learner refuses what etcd's learners refuse, and endless streams end with the leader for
// those who require one, and with their connection when that is retired.
type member struct {
	grpc.ServiceRegistrar
	standing Standing        // nil is Config.Standing's
	tasks    *sync.WaitGroup // handlers, which end soon after their RPC
}

// RegisterService is part of grpc.ServiceRegistrar.
func (r member) RegisterService(d *grpc.ServiceDesc, impl any) {
	c := *d
	c.Methods = make([]grpc.MethodDesc, len(d.Methods))
	for i, method := range d.Methods {
		handle, permits := method.Handler, learnersAnswer[d.ServiceName+"/"+method.MethodName]
		method.Handler = func(srv any, ctx context.Context, decode func(any) error, i grpc.UnaryServerInterceptor) (any, error) {
			if r.isLearner() {
				decode = only(permits, decode)
			}
			return handle(srv, ctx, decode, i)
		}
		c.Methods[i] = method
	}
	c.Streams = make([]grpc.StreamDesc, len(d.Streams))
	for i, stream := range d.Streams {
		name := d.ServiceName + "/" + stream.StreamName
		if endless["/"+name] && !endBySelf["/"+name] {
			stream.Handler = r.whileLed(stream.Handler)
		}
		if learnersAnswer[name] == nil {
			handle := stream.Handler
			stream.Handler = func(srv any, s grpc.ServerStream) error {
				if r.isLearner() {
					return rpctypes.ErrGRPCNotSupportedForLearner
				}
				return handle(srv, s)
			}
		}
		c.Streams[i] = stream
	}
	r.ServiceRegistrar.RegisterService(&c, impl)
}

func (r member) isLearner() bool { return r.standing != nil && r.standing.IsLearner() }

// endBySelf are the endless streams whose handlers see to it themselves, without a goroutine more. (A proxy that sends many
// clients' pings requires no leader.)
var endBySelf = map[string]bool{pb.Watch_Watch_FullMethodName: true, wire.PingsMethod: true}

// whileLed is handle, for a stream that ends with the leader if its client requires one, and when its connection is retired. etcd
// cancels all streams without a leader; a snapshot does not heed that, and a RangeStream ends soon by itself.
//
// An RPC ends only when its handler returns, and who receives does so only when the RPC has ended: hence a goroutine for each, as
// at etcd.
func (r member) whileLed(handle grpc.StreamHandler) grpc.StreamHandler {
	return func(srv any, s grpc.ServerStream) error {
		led, ended := context.Background(), make(chan error, 1)
		if r.standing != nil && requiresLeader(incomingMetadata(s.Context())) {
			led = r.standing.Led()
		}
		r.tasks.Go(func() { ended <- handle(srv, s) })
		select {
		case err := <-ended:
			return err
		case <-retiredOf(s.Context()).Done():
			return errRetired
		case <-led.Done():
		}
		if err := context.Cause(led); errors.Is(err, rpctypes.ErrGRPCNoLeader) {
			return err
		}
		return <-ended // by the member's end
	}
}

// learnersAnswer tells of each RPC that a learner answers to which requests.
var learnersAnswer = map[string]func(req any) bool{
	"etcdserverpb.KV/Range": func(req any) bool {
		raw, ok := req.(*wire.Raw)
		var r wire.RangeRequest
		return ok && (r.Unmarshal(*raw) != nil || r.Serializable) // what is no request is refused as such
	},
	"etcdserverpb.Maintenance/Status":   func(any) bool { return true },
	"etcdserverpb.Maintenance/Snapshot": func(any) bool { return true },
}

// only refuses requests that are not permitted, after they are decoded.
func only(permits func(req any) bool, decode func(any) error) func(any) error {
	return func(req any) error {
		if err := decode(req); err != nil {
			return err
		}
		if permits == nil || !permits(req) {
			return rpctypes.ErrGRPCNotSupportedForLearner
		}
		return nil
	}
}
