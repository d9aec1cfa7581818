package core

import (
	"context"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// standing is what this member tells those who require a leader; see grpcapi.Standing.
type standing struct {
	mu  sync.Mutex // guards all below
	led context.Context
	end context.CancelCauseFunc
}

// leaderlessTimeouts is for how many election timeouts there may be no leader before those who require one are told: etcd's number.
const leaderlessTimeouts = 3

// IsLearner tells whether this member has no vote.
func (n *Node) IsLearner() bool { return n.isLearner.Load() }

// Led returns a context that ends with this member, or when it has had no leader for leaderlessTimeouts election timeouts; the cause
// is ErrGRPCNoLeader then.
func (n *Node) Led() context.Context {
	n.standing.mu.Lock()
	defer n.standing.mu.Unlock()
	return n.standing.led
}

// begin makes led anew.
func (s *standing) begin(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.led, s.end = context.WithCancelCause(ctx)
}

// watchLeader is the goroutine that ends led, and begins it again.
func (n *Node) watchLeader() {
	defer n.goroutines.Done()
	for {
		change := n.leadership()
		hasLeader, hasEnded, patience := n.leader.Load() != 0, n.Led().Err() != nil, time.Duration(0)
		switch {
		case hasLeader && hasEnded:
			n.standing.begin(n.ctx)
		case !hasLeader && !hasEnded:
			patience = leaderlessTimeouts * n.cfg.ElectionTimeout
		}
		if n.await(n.ctx, change.Done(), patience) != nil {
			return
		}
		if change.Err() == nil {
			n.standing.end(rpctypes.ErrGRPCNoLeader)
		}
	}
}
