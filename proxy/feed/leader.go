package feed

import (
	"context"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// leader knows whether upstream has one, for the watches of clients that demand it. etcd ends a stream that was opened
// with that demand when its member has been without a leader for three election timeouts, so one such stream is kept
// open for all clients, without a watch on it. It is opened when the first client asks, and kept from then on.
type leader struct {
	upstream Upstream
	ctx      context.Context
	tasks    *sync.WaitGroup

	mu      sync.Mutex // guards the fields below
	started bool
	known   bool
	lost    chan struct{} // closed when the leader is lost; nil while there is none
	changed chan struct{} // closed and replaced when known or lost changes
}

// unreachable is for how long no member may be reached before that counts as having no leader: three of etcd's default
// election timeouts.
const unreachable = 3 * time.Second

func (l *leader) get(ctx context.Context) (<-chan struct{}, error) {
	for {
		l.mu.Lock()
		if !l.started {
			l.started = true
			l.tasks.Go(l.run)
		}
		known, lost, changed := l.known, l.lost, l.changed
		l.mu.Unlock()
		switch {
		case known && lost != nil:
			return lost, nil
		case known:
			return nil, rpctypes.ErrGRPCNoLeader
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, status.FromContextError(ctx.Err()).Err()
		case <-l.ctx.Done():
			return nil, rpctypes.ErrGRPCNoLeader
		}
	}
}

// run keeps the stream open.
func (l *leader) run() {
	var failing time.Time // since when there has been no member with a leader
	for l.ctx.Err() == nil {
		err := l.follow(func() {
			failing = time.Time{}
			l.set(true)
		})
		switch {
		case failing.IsZero():
			failing = time.Now()
			if hasText(err, rpctypes.ErrGRPCNoLeader) { // etcd has waited already
				l.set(false)
			}
		case hasText(err, rpctypes.ErrGRPCNoLeader) || time.Since(failing) >= unreachable:
			l.set(false)
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
	ctx, cancel := context.WithCancel(l.ctx)
	defer cancel()
	l.tasks.Go(func() {
		select {
		case <-m.Lost():
			cancel()
		case <-ctx.Done():
		}
	})
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

func (l *leader) set(has bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known && has == (l.lost != nil) {
		return
	}
	l.known = true
	if has {
		l.lost = make(chan struct{})
	} else if l.lost != nil {
		close(l.lost)
		l.lost = nil
	}
	close(l.changed)
	l.changed = make(chan struct{})
}
