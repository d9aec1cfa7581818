package feed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// leader knows whether upstream has one, for the watches of clients that demand it. etcd ends a stream that was opened
// with that demand when its member has been without a leader for three election timeouts, so one such stream is kept
// open for all clients, without a watch on it. It is opened when the first client asks, and kept from then on.
//
// That no member can be reached is another thing than that a member has no leader: client/v3 gives a watch up when it is
// told the latter, and comes back by itself from the former, as it would from a broken connection.
type leader struct {
	upstream Upstream
	ctx      context.Context
	tasks    *tasks
	log      *slog.Logger

	mu      sync.Mutex // guards the fields below
	started bool
	led     context.Context // while there is a leader; nil while that is not known, or there is none
	lose    context.CancelCauseFunc
	why     error         // there is none
	changed chan struct{} // closed and replaced when led or why changes
}

// unreachable is for how long no member may be reached before the streams that demand a leader are ended: three of
// etcd's default election timeouts.
const unreachable = 3 * time.Second

var errUnreachable = status.Error(codes.Unavailable, "weir: upstream cannot be reached, and so not known to have a leader")

func (l *leader) get(ctx context.Context) (context.Context, error) {
	for {
		l.mu.Lock()
		if !l.started {
			l.started = l.tasks.start(l.run)
		}
		led, why, changed := l.led, l.why, l.changed
		l.mu.Unlock()
		if led != nil || why != nil {
			return led, why
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		case <-l.ctx.Done():
			return nil, errUnreachable
		}
	}
}

// run keeps the stream open.
func (l *leader) run() {
	defer l.set(errUnreachable)
	since := time.Now() // there has been no member with a leader
	for l.ctx.Err() == nil {
		err := l.follow(func() {
			since = time.Time{}
			l.set(nil)
		})
		if since.IsZero() {
			since = time.Now()
		}
		switch {
		case hasText(err, rpctypes.ErrGRPCNoLeader): // etcd has waited already
			l.set(rpctypes.ErrGRPCNoLeader)
		case time.Since(since) >= unreachable:
			l.set(errUnreachable)
		}
		_ = sleep(l.ctx, retryInterval)
	}
}

// follow returns when the member at hand has no leader or cannot tell. It calls found once it has one.
func (l *leader) follow(found func()) error {
	m, err := l.upstream.Member(l.ctx)
	if err != nil {
		return err
	}
	ctx, cancel := l.tasks.untilLost(l.ctx, m)
	defer cancel()
	stream, err := m.Watch(ctx, true)
	if err != nil {
		return fmt.Errorf("open watch stream that requires a leader: %w", err)
	}
	if err := hasLeader(ctx, m); err != nil {
		return err
	}
	found()
	for {
		if _, err := stream.Recv(); err != nil {
			return err
		}
	}
}

func hasLeader(ctx context.Context, m Member) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	raw, err := m.Call(ctx, pb.Maintenance_Status_FullMethodName, nil)
	if err != nil {
		return fmt.Errorf("ask for the leader: %w", err)
	}
	var r pb.StatusResponse
	if err := proto.Unmarshal(raw, &r); err != nil {
		return fmt.Errorf("decode status: %w", err)
	}
	if r.Leader == 0 {
		return rpctypes.ErrGRPCNoLeader
	}
	return nil
}

// set records that there is a leader, or why not.
func (l *leader) set(why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case why == nil && l.led != nil, why != nil && l.led == nil && errors.Is(why, l.why):
		return
	case why == nil:
		l.led, l.lose = context.WithCancelCause(context.Background())
		l.log.Debug("upstream has a leader")
	case l.led != nil:
		if l.ctx.Err() == nil { // else it is not upstream that ends them
			l.log.Warn("watch streams that require a leader are ended", "reason", status.Convert(why).Message())
		}
		l.lose(why)
		l.led = nil
	}
	l.why = why
	close(l.changed)
	l.changed = make(chan struct{})
}
