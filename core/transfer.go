package core

import (
	"context"
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/core/consensus"
)

// The leadership is handed over when an operator asks for it, and before a leader ends. The next leader begins when it has all
// of the log, at once and without an election timeout (Raft thesis, 3.10). Meanwhile nothing is proposed; what waits is proposed
// to the next one.

// errTransferTimeout is etcd's, of which rpctypes does not know.
var errTransferTimeout = status.Error(codes.Unknown, "etcdserver: request timed out, leader transfer took too long")

// MoveLeader makes another voter the leader, and returns when this member, which must be the leader, knows that it is.
func (n *Node) MoveLeader(ctx context.Context, r *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error) {
	if err := n.permitAdmin(ctx); err != nil {
		return nil, err
	}
	if !n.leads() {
		return nil, rpctypes.ErrGRPCNotLeader
	}
	if target, ok := n.members.get(r.TargetID); !ok || target.IsLearner {
		return nil, rpctypes.ErrGRPCBadLeaderTransferee
	}
	ctx, cancel := context.WithTimeout(ctx, n.cfg.requestTimeout())
	defer cancel()
	choose := func(*consensus.Machine) uint64 { return r.TargetID }
	if err := n.handOver(ctx, choose, func(leader uint64) bool { return leader == r.TargetID }); err != nil {
		return nil, err
	}
	return &pb.MoveLeaderResponse{}, nil
}

// resignTimeouts is how many election timeouts Resign waits: raft itself gives up after one.
const resignTimeouts = 2

// Resign hands the leadership over to another voter, if this member leads and there is one. It is for a planned end: Close ends
// the member at once, and the others miss their leader for an election timeout.
//
// The voter is the one who has most of the log; etcd takes who has been connected for longest.
func (n *Node) Resign(ctx context.Context) error {
	if !n.leads() || len(n.members.voters()) == 1 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, resignTimeouts*n.cfg.ElectionTimeout)
	defer cancel()
	choose := func(m *consensus.Machine) uint64 {
		return m.Nearest(n.reaches)
	}
	if err := n.handOver(ctx, choose, func(leader uint64) bool { return leader != n.member.ID && leader != 0 }); err != nil {
		return fmt.Errorf("hand the leadership over: %w", err)
	}
	return nil
}

// resignBeforeRemoval hands the leadership over if this member, which leads in a term, is to be removed. It tells whether it has: then
// another member is to be asked for the removal. The others need not wait for an election timeout, as they would if the leader had
// itself removed, which etcd lets it; and they hear from their leader that the removal is committed.
func (n *Node) resignBeforeRemoval(ctx context.Context, c confChange, term uint64) bool {
	if !c.removes(n.member.ID) || !n.leads() || n.term.Load() != term {
		return false
	}
	if err := n.Resign(ctx); err != nil {
		n.logger.Warn("the leader is removed without a successor", "error", err)
	}
	return !n.leads()
}

// handOver has raft transfer the leadership to the one that choose returns, and waits until this member sees a leader who will do.
// choose is called by run.
func (n *Node) handOver(ctx context.Context, choose func(*consensus.Machine) uint64, will func(leader uint64) bool) error {
	if will(n.leader.Load()) {
		return nil
	}
	start, nobody := time.Now(), make(chan struct{})
	n.raft.inbox.put(func(m *consensus.Machine) {
		to := choose(m)
		if to == 0 {
			close(nobody)
			return
		}
		n.logger.Info("leadership transfer starting", "transferee", idString(to))
		m.TransferLeadership(to)
	})
	for {
		changed := n.leadership().Done()
		if will(n.leader.Load()) {
			n.logger.Info("leadership transfer finished", "leader", idString(n.leader.Load()), "took", time.Since(start))
			return nil
		}
		select {
		case <-changed:
		case <-nobody:
			return rpctypes.ErrGRPCUnhealthy
		case <-ctx.Done():
			return errTransferTimeout
		case <-n.stopped:
			return rpctypes.ErrGRPCStopped
		}
	}
}

// firstElection shortens the wait for a first leader: who has just started and reaches a majority need not wait for an election
// timeout, since if there were a leader it would soon be heard. Owned by run.
type firstElection struct {
	skip  int // ticks to leave out; 0 when that is decided
	until int // ticks for which a majority is waited for
}

const (
	// reachTimeout is how long others are waited for: etcd's time.
	reachTimeout = 5 * time.Second
	// spareTicks are those that a leader has to be heard in.
	spareTicks = 2
)

func newFirstElection(cfg Config) firstElection {
	if cfg.NoElectionTickAdvance {
		return firstElection{}
	}
	return firstElection{skip: cfg.electionTicks() - spareTicks, until: int(reachTimeout / cfg.HeartbeatInterval)}
}

// hasten leaves out ticks, once. Called by run at each tick.
func (n *Node) hasten() {
	e := &n.raft.first
	if e.skip == 0 {
		return
	}
	e.until--
	voters := n.members.voters()
	reached := func(r memberRecord) bool { return n.reaches(r.ID) }
	switch out := len(slices.DeleteFunc(slices.Clone(voters), reached)); {
	case e.until == 0 || n.leader.Load() != 0:
		e.skip = 0
	case len(voters) > 0 && len(voters)-out >= majority(len(voters)):
		n.logger.Info("fast-forwarding election ticks", "ticks", e.skip)
		for ; e.skip > 0; e.skip-- {
			n.raft.machine.Tick()
		}
	}
}
