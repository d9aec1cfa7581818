package core

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
)

// timing is how a member counts time in raft: --heartbeat-interval and --election-timeout, which should be the same on all members.
//
// Nothing that is promised depends on that. Raft is safe with any timing, a lease counts on confirmedFor, which is no flag, and every
// other wait is that of one member: how long a request may take, or what the least TTL is, which is decided before the log. But a
// member that hears heartbeats too rarely for its election timeout holds one election after another. The others do not follow it (it
// has to ask before, PreVote), and meanwhile it knows no leader. So a member compares its timing with the leader's, and warns. It is not
// refused: flags can be changed only on one member after the other.
type timing struct {
	Heartbeat time.Duration `json:"heartbeat"`
	Election  time.Duration `json:"election"`
}

func (c Config) timing() timing { return timing{c.HeartbeatInterval, c.ElectionTimeout} }

// callTiming asks a member for its timing.
const callTiming = "Timing"

func init() { peerCalls[callTiming] = (*Node).answerTiming }

func (n *Node) answerTiming(context.Context, []byte) ([]byte, error) {
	return json.Marshal(n.cfg.timing())
}

// compareTiming is the goroutine that compares this member's timing with that of each leader.
func (n *Node) compareTiming() {
	defer n.goroutines.Done()
	own, last := n.cfg.timing(), n.cfg.timing()
	for {
		led := n.leadership()
		leaders := own // if nobody can say
		err := n.askLeader(n.ctx, func(_ context.Context, leader uint64) error {
			if leader == n.member.ID {
				return nil
			}
			return n.askTiming(leader, &leaders)
		})
		if err != nil && n.ctx.Err() == nil { // as by a weir that has no such call
			n.logger.Debug("the leader does not tell its timing", "error", err)
		}
		if complaint := own.differsFrom(leaders); complaint != "" && leaders != last {
			n.logger.Warn(complaint, "heartbeat-interval", own.Heartbeat, "election-timeout", own.Election,
				"leaders-heartbeat-interval", leaders.Heartbeat, "leaders-election-timeout", leaders.Election)
		}
		last = leaders
		if n.await(n.ctx, led.Done(), 0) != nil {
			return
		}
	}
}

// askTiming asks a leader, for as long as it is seen to lead.
func (n *Node) askTiming(leader uint64, its *timing) error {
	ctx, cancel := context.WithTimeout(n.leadership(), n.cfg.requestTimeout())
	defer cancel()
	if n.leader.Load() != leader {
		return errAskAgain
	}
	answer, err := n.callPeer(ctx, leader, callTiming, nil, grpc.WaitForReady(true))
	if isUnanswered(err) || errors.Is(err, rpctypes.ErrGRPCNotLeader) {
		return errAskAgain
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer, its); err != nil {
		return fmt.Errorf("decode the leader's timing: %w", err)
	}
	return nil
}

// differsFrom says what is wrong if a member has another timing than the leader; empty if it has the same.
func (t timing) differsFrom(leaders timing) string {
	switch {
	case t.Election < minElectionTicks*leaders.Heartbeat:
		return fmt.Sprintf("this member's --election-timeout is less than %d of the leader's --heartbeat-interval, so that it will miss its leader again and again: set both flags to the same on all members", minElectionTicks)
	case t != leaders:
		return "this member's --heartbeat-interval or --election-timeout is not the leader's: set both flags to the same on all members"
	}
	return ""
}
