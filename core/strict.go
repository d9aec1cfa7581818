package core

import (
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// The checks of --strict-reconfig-check, etcd's: a change of the membership must leave a majority of voters who have started and
// are reachable. Who is reachable is judged by the member that is asked, with its own connections.

// stableAfter is how long another member must have been connected to count.
const stableAfter = 5 * time.Second

// mayAdd tells why a member must not be added.
func (n *Node) mayAdd(isLearner bool) error {
	if n.cfg.LaxReconfigCheck {
		return nil
	}
	voters := n.members.voters()
	started := countStarted(voters)
	// One voter must be able to get a second one, though until that has started nothing goes on.
	if !isLearner && len(voters) > 1 && started < majority(len(voters)+1) {
		return errNotEnoughStarted
	}
	if len(voters) > 1 && n.countStable(voters) < majority(len(voters)+1) {
		return rpctypes.ErrGRPCUnhealthy
	}
	return nil
}

// mayRemove tells why a member must not be removed.
func (n *Node) mayRemove(id uint64) error {
	if n.cfg.LaxReconfigCheck {
		return nil
	}
	if r, ok := n.members.get(id); ok && r.IsLearner {
		return nil
	}
	voters := n.members.voters()
	var others []memberRecord
	for _, r := range voters {
		if r.ID != id {
			others = append(others, r)
		}
	}
	if countStarted(others) < majority(len(others)) {
		return errNotEnoughStarted
	}
	if id != n.member.ID && n.transport.ActiveSince(id).IsZero() {
		return nil // nothing is lost by it
	}
	if n.countStable(voters)-1 < majority(len(voters)-1) {
		return rpctypes.ErrGRPCUnhealthy
	}
	return nil
}

// mayPromote tells on the leader why a member must not become a voter. Called by run.
func (n *Node) mayPromote(id uint64) error {
	if _, ok := n.members.get(id); !ok {
		return rpctypes.ErrGRPCMemberNotFound
	}
	if !n.raft.machine.InSync(id) {
		return rpctypes.ErrGRPCLearnerNotReady
	}
	voters := n.members.voters()
	if !n.cfg.LaxReconfigCheck && countStarted(voters)+1 < majority(len(voters)+1) {
		return errNotEnoughStarted
	}
	return nil
}

func majority(voters int) int { return voters/2 + 1 }

// countStarted counts who has ever started: a member that was added has no name before.
func countStarted(members []memberRecord) (started int) {
	for _, r := range members {
		if r.Name != "" {
			started++
		}
	}
	return started
}

// countStable counts who of the members is reachable, and has been for some time. This member is.
func (n *Node) countStable(members []memberRecord) (stable int) {
	for _, r := range members {
		since := n.transport.ActiveSince(r.ID)
		if r.ID == n.member.ID || !since.IsZero() && time.Since(since) > n.cfg.stableAfter {
			stable++
		}
	}
	return stable
}
