package core

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/raft/v3/raftpb"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// reconfiguration is a confChange on its way into the log, from whichever member was asked for it.
//
// The leader proposes it, and only in the term in which the asking member believed it to lead. What came of it the asking member
// sees in its own log: the change, or an entry of a later term, behind which the change cannot come any more. Then it asks the
// next leader. So a change is made once, whatever answers are lost and however many leaders die meanwhile; and who asked for it
// finds it made on the member that it asked.
//
// etcd has raft forward the change, and does not see when it is lost: the caller waits until it gives up.
type reconfiguration struct {
	ID     uint64                `json:"id"` // random
	Type   raftpb.ConfChangeType `json:"type"`
	Change confChange            `json:"change"`
	// Under is the term in which alone it may be proposed.
	Under uint64 `json:"under"`

	// taken gets nil when it is in the log, rpctypes.ErrGRPCNotLeader when it never will be in this term, and else a refusal.
	taken chan error
	// logged says that raft has taken it, and tried how far raft had applied when it did not. Owned by run.
	logged bool
	tried  uint64
}

func init() { peerCalls["Reconfigure"] = (*Node).answerReconfigure }

// reconfigure has a change of the membership committed, and applied here. It waits as propose does.
func (n *Node) reconfigure(ctx context.Context, c confChange) error {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.requestTimeout())
	defer cancel()
	log := n.logger.With("change", c.Type.String(), "member-id", idString(c.Member.ID), "peer-urls", c.Member.PeerURLs)
	log.Info("waiting for a change of the membership", "at-most", n.cfg.requestTimeout())
	err := n.reconfigureWithin(ctx, c)
	if err != nil {
		log.Warn("the membership has not been changed, as far as is known here", "error", err)
	}
	return err
}

// reconfigureWithin is reconfigure, as long as ctx lasts.
func (n *Node) reconfigureWithin(ctx context.Context, c confChange) error {
	r := reconfiguration{ID: rand.Uint64(), Type: c.Type, Change: c}
	defer n.changes.forget(r.ID)
	err := n.askLeader(ctx, func(ctx context.Context, leader uint64) error {
		r.Under = n.term.Load()
		applied := n.changes.expect(r.ID, r.Under)
		refusal, err := n.askToReconfigure(ctx, leader, r)
		switch {
		case refusal != nil:
			return refusal
		case errors.Is(err, rpctypes.ErrGRPCNotLeader):
			return err
		case err != nil: // it may have been heard
			n.logger.Debug("no answer to a change of the membership", "leader", idString(leader), "error", err)
		}
		if err := n.await(ctx, applied.done, 0); err != nil {
			return err
		}
		if applied.lost {
			return errAskAgain
		}
		return applied.err
	})
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return rpctypes.ErrGRPCTimeout
	case errors.Is(err, context.Canceled):
		return rpctypes.ErrGRPCCanceled
	case errors.Is(err, rpctypes.ErrGRPCStopped) && c.removes(n.member.ID) && errors.Is(n.Err(), ErrRemoved):
		return nil // another member may be the first to tell
	}
	return err
}

// askToReconfigure asks a leader to propose r. Without an error it has, or it refuses to. If the error is ErrGRPCNotLeader it has not,
// and will not.
func (n *Node) askToReconfigure(ctx context.Context, leader uint64, r reconfiguration) (refusal, err error) {
	if leader == n.member.ID {
		return n.takeReconfiguration(ctx, r)
	}
	request, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode a change of the membership: %w", err)
	}
	// Without a leader that answers there is another one before long.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(n.leadership(), cancel)()
	if n.leader.Load() != leader {
		return nil, rpctypes.ErrGRPCNotLeader
	}
	answer, err := n.callPeer(ctx, leader, "Reconfigure", request)
	if err != nil {
		return nil, err
	}
	said := new(spb.Status)
	if err := proto.Unmarshal(answer, said); err != nil {
		return nil, fmt.Errorf("decode the answer to a change of the membership: %w", err)
	}
	return status.ErrorProto(said), nil
}

// answerReconfigure is what the leader does when another member asks. The answer is a status: the refusal, or OK.
func (n *Node) answerReconfigure(ctx context.Context, request []byte) ([]byte, error) {
	var r reconfiguration
	refusal := decodeStrictly(request, &r)
	if refusal != nil {
		refusal = status.Errorf(codes.FailedPrecondition, "weir: the leader does not take this change of the membership: %v", refusal)
	} else {
		var err error
		if refusal, err = n.takeReconfiguration(ctx, r); err != nil {
			return nil, err
		}
	}
	return proto.Marshal(status.Convert(refusal).Proto())
}

// takeReconfiguration has run propose r; see askToReconfigure.
func (n *Node) takeReconfiguration(ctx context.Context, r reconfiguration) (refusal, err error) {
	r.Change.Type, r.taken = r.Type, make(chan error, 1)
	if err := n.agreement.mayLog(r.Change); err != nil {
		return err, nil
	}
	if r.Change.Promote {
		// Who is promoted is to be known here, too.
		if err := n.linearizable(ctx); err != nil {
			return nil, err
		}
	}
	if n.resignBeforeRemoval(ctx, r.Change, r.Under) {
		return nil, rpctypes.ErrGRPCNotLeader
	}
	select {
	case n.reconfigurations <- &r:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-n.stopped:
		return nil, rpctypes.ErrGRPCNotLeader
	}
	select {
	case err := <-r.taken:
		if errors.Is(err, rpctypes.ErrGRPCNotLeader) {
			return nil, err
		}
		return err, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-n.stopped:
		return nil, rpctypes.ErrGRPCStopped
	}
}

// beginChange takes over a reconfiguration and proposes it. Called by run.
func (n *Node) beginChange(r *reconfiguration) {
	if role := n.raft.machine.Role(); !role.Leads || role.Term != r.Under {
		r.taken <- rpctypes.ErrGRPCNotLeader
		return
	}
	if r.Change.Promote {
		if err := n.mayPromote(r.Change.Member.ID); err != nil {
			n.countPromotion(err)
			r.taken <- err
			return
		}
	}
	n.raft.change = r
	n.logChange()
}

// logChange proposes raft.change. While an earlier change may be unapplied, raft puts an empty entry into the log instead,
// without an error; then it is proposed again when raft has applied more.
func (n *Node) logChange() {
	r, m := n.raft.change, n.raft.machine
	r.tried = m.Applied()
	data, err := r.Change.encode(r.ID)
	if err == nil {
		r.logged, err = m.ProposeChange(data)
	}
	if err != nil {
		n.logger.Warn("raft dropped a change of the membership", "error", err)
		n.endChange()
	} else if r.logged {
		r.taken <- nil
	}
}

// retryChange proposes raft.change again if raft may take it now. Called by run.
func (n *Node) retryChange() {
	if r := n.raft.change; r != nil && !r.logged && n.raft.machine.Applied() > r.tried {
		n.logChange()
	}
}

// endChange lets go of raft.change, because this member does not lead any more, or raft did not take it. Called by run.
func (n *Node) endChange() {
	if r := n.raft.change; r != nil && !r.logged {
		r.taken <- rpctypes.ErrGRPCNotLeader
	}
	n.raft.change = nil
}

// appliedChange is a change that the applier has come to. It asks run, which owns raft, to carry it out.
type appliedChange struct {
	id      uint64
	change  *raftpb.ConfChange
	refused error                  // it is not to be carried out
	state   chan *raftpb.ConfState // gets raft's configuration, or nil
}

// carryOut makes an applied change raft's. Called by run.
func (n *Node) carryOut(a appliedChange) {
	if r := n.raft.change; r != nil && r.ID == a.id {
		if r.Change.Promote {
			n.countPromotion(a.refused)
		}
		n.raft.change = nil
	}
	if a.refused != nil {
		a.state <- nil
		return
	}
	a.state <- n.raft.machine.ApplyChange(a.change)
}

// countPromotion counts what this member, as leader, has made of a promotion.
func (n *Node) countPromotion(err error) {
	if err != nil {
		n.metrics.promotionFailures.WithLabelValues(rpctypes.ErrorDesc(err)).Inc()
		return
	}
	n.metrics.promotions.Inc()
}

// changes are those that this member was asked for, until it sees what came of them. The applier tells.
type changes struct {
	mu       sync.Mutex // guards all below
	term     uint64     // of the last entry that was applied
	expected map[uint64]*expectedChange
}

// expectedChange is what came of a change, once done is closed.
type expectedChange struct {
	under uint64 // the term in which it was to be proposed
	done  chan struct{}
	lost  bool // it is not in the log, and never will be
	err   error
}

// expect returns what will come of a change if it is proposed in no other term than under.
func (c *changes) expect(id, under uint64) *expectedChange {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := &expectedChange{under: under, done: make(chan struct{})}
	c.expected[id] = e
	if under < c.term {
		c.end(id, true, nil)
	}
	return e
}

// end says what came of a change. Called with mu held.
func (c *changes) end(id uint64, lost bool, err error) {
	e := c.expected[id]
	delete(c.expected, id)
	e.lost, e.err = lost, err
	close(e.done)
}

func (c *changes) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.expected, id)
}

// applied says that a change was applied, or was refused then.
func (c *changes) applied(id uint64, refused error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.expected[id] != nil {
		c.end(id, false, refused)
	}
}

// reached says that an entry of a term has been applied, and with it all that is in the log of earlier terms.
func (c *changes) reached(term uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.term = max(c.term, term)
	for id, e := range c.expected {
		if e.under < term {
			c.end(id, true, nil)
		}
	}
}

// skipped says that a snapshot of a term was installed. What of it is in the snapshot cannot be told.
func (c *changes) skipped(term uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.term = max(c.term, term)
	for id, e := range c.expected {
		if e.under <= term {
			c.end(id, false, rpctypes.ErrGRPCLeaderChanged)
		}
	}
}
