package core

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/core/transport"
	"weir/grpcapi/wire"
)

// Members call each other for what raft has no message for. Requests and answers are encoded by who defines the call; all calls are
// unary, of the service weir.Members, over the transport's connections, and answered are only those of members; see
// transport.Method. Who asked for something, and may have it, has been judged by the member that calls.

// peerCall is what a member answers to another one.
type peerCall func(n *Node, ctx context.Context, request []byte) (answer []byte, err error)

// peerCalls are all calls, by name.
var peerCalls = map[string]peerCall{
	callPing:             (*Node).answerPings,
	callTimeToLive:       (*Node).answerTimeToLive,
	callLevel:            (*Node).answerLevel,
	callHash:             (*Node).answerHash,
	callCompactionHashes: (*Node).answerCompactionHashes,
}

const memberService = "weir.Members"

// registerCalls registers the calls.
func (n *Node) registerCalls(s grpc.ServiceRegistrar) {
	d := grpc.ServiceDesc{ServiceName: memberService}
	for name, call := range peerCalls {
		d.Streams = append(d.Streams, n.transport.Method(name, func(ctx context.Context, request []byte) ([]byte, error) {
			answer, err := call(n, ctx, request)
			return answer, apiError(err)
		}))
	}
	s.RegisterService(&d, nil)
}

// callPeer calls another member. The error is that of the call there, or says that the member cannot be reached. It is
// ErrGRPCNotLeader also where the other one has not applied yet that this one is a member: who leads has, or will have soon.
func (n *Node) callPeer(ctx context.Context, id uint64, name string, request []byte, options ...grpc.CallOption) ([]byte, error) {
	conn := n.transport.Conn(id)
	if conn == nil {
		return nil, status.Errorf(codes.Unavailable, "weir: member %s is not known", idString(id))
	}
	var answer wire.Raw
	err := conn.Invoke(ctx, "/"+memberService+"/"+name, wire.Raw(request), &answer, options...)
	if errors.Is(err, transport.ErrNotKnown) {
		err = fmt.Errorf("%w: %w", rpctypes.ErrGRPCNotLeader, err)
	}
	return answer, err
}

// errAskAgain says that whoever leads is to be asked again.
var errAskAgain = errors.New("the leader could not be asked")

// askPause is how long askLeader waits before it asks the same leader again. It is etcd's pause.
const askPause = 50 * time.Millisecond

// askLeader calls ask with the member that leads, waiting for one for as long as ctx lets it, until the error that it returns is
// neither errAskAgain nor ErrGRPCNotLeader. Who answers the latter may become the leader, or be it again, without another one in
// between that could be waited for.
func (n *Node) askLeader(ctx context.Context, ask func(ctx context.Context, leader uint64) error) error {
	for {
		led := n.leadership()
		leader, pause := n.leader.Load(), time.Duration(0)
		if leader != 0 {
			if err := ask(ctx, leader); !errors.Is(err, errAskAgain) && !errors.Is(err, rpctypes.ErrGRPCNotLeader) {
				return err
			}
			pause = askPause
		}
		if err := n.await(ctx, led.Done(), pause); err != nil {
			return err
		}
	}
}

// await waits until event is closed, or for a while if that is not 0. The error is that of ctx, or ErrGRPCStopped.
func (n *Node) await(ctx context.Context, event <-chan struct{}, atMost time.Duration) error {
	var over <-chan time.Time
	if atMost > 0 {
		timer := time.NewTimer(atMost)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-event:
		return nil
	case <-over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-n.stopped:
		return rpctypes.ErrGRPCStopped
	}
}

// leadership returns a context that ends when another member, or none, is seen to lead, and with the node. Who looks at who leads
// afterwards misses no change.
func (n *Node) leadership() context.Context {
	n.leaderMu.Lock()
	defer n.leaderMu.Unlock()
	return n.led
}

// sawLeader notes who leads. Called by run, or before it.
func (n *Node) sawLeader(id uint64) (old uint64) {
	n.leaderMu.Lock()
	defer n.leaderMu.Unlock()
	if old = n.leader.Swap(id); old != id {
		n.endLed()
		n.led, n.endLed = context.WithCancel(n.ctx)
	}
	return old
}
