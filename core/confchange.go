package core

import (
	"encoding/json"
	"errors"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// errStopping is returned where the end of the node cut something off. It is no failure.
var errStopping = errors.New("the member is stopping")

// ErrRemoved ends a member that is none any more.
var ErrRemoved = errors.New("this member has been removed from the cluster: to let the machine be a member again, add it as a new one, and start it with an empty data directory")

// confChange is a change of the membership. It goes through the log as raft's ConfChange, whose context it is.
//
// It is checked against the membership when it is applied, on every member alike, so the check depends on nothing but the change
// and the membership; what the member that was asked is configured with is in the change. That one does not check before: what it
// knows of the membership may be old.
type confChange struct {
	Type   raftpb.ConfChangeType `json:"-"`
	Member memberRecord          `json:"member"`
	// Promote tells a learner that becomes a voter from a new voter: raft has one type for both.
	Promote bool `json:"promote,omitempty"`
	// MaxLearners is how many learners there may be with the one that is added.
	MaxLearners int `json:"maxLearners,omitempty"`
}

// changeLevels are the types of changes that this weir knows, and of each the level that has brought it.
var changeLevels = map[raftpb.ConfChangeType]int{
	raftpb.ConfChangeAddNode:        1,
	raftpb.ConfChangeRemoveNode:     1,
	raftpb.ConfChangeUpdateNode:     1,
	raftpb.ConfChangeAddLearnerNode: 1,
}

// mayLog refuses a change that members, among them this one, could not apply, or would not all take for the same.
func (a *agreement) mayLog(c confChange) error {
	level, ok := changeLevels[c.Type]
	switch isLearner := c.Type == raftpb.ConfChangeAddLearnerNode; {
	case !ok:
		return status.Errorf(codes.FailedPrecondition, "weir: the leader does not know changes of the membership of type %d", c.Type)
	case c.Promote && c.Type != raftpb.ConfChangeAddNode:
		return status.Errorf(codes.InvalidArgument, "weir: %v promotes nobody", c.Type)
	case c.adds() && (c.Member.ID == 0 || c.Member.IsLearner != isLearner):
		return status.Errorf(codes.InvalidArgument, "weir: %v does not add member %s, learner %v", c.Type, idString(c.Member.ID), c.Member.IsLearner)
	}
	return a.permit(c.Type, level)
}

// adds tells whether the change brings a new member.
func (c confChange) adds() bool {
	return c.Type == raftpb.ConfChangeAddLearnerNode || c.Type == raftpb.ConfChangeAddNode && !c.Promote
}

// removes tells whether the change removes a member.
func (c confChange) removes(id uint64) bool {
	return c.Type == raftpb.ConfChangeRemoveNode && c.Member.ID == id
}

// encode makes the data of the entry.
func (c confChange) encode(id uint64) ([]byte, error) {
	context, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode a change of the membership: %w", err)
	}
	data, err := proto.Marshal(&raftpb.ConfChange{
		Id: proto.Uint64(id), Type: c.Type.Enum(), NodeId: proto.Uint64(c.Member.ID), Context: context,
	})
	if err != nil {
		return nil, fmt.Errorf("encode a change of the membership: %w", err)
	}
	return data, nil
}

// decodeConfChange reads the data of an entry.
func decodeConfChange(data []byte) (confChange, *raftpb.ConfChange, error) {
	cc := new(raftpb.ConfChange)
	if err := proto.Unmarshal(data, cc); err != nil {
		return confChange{}, nil, fmt.Errorf("decode a change of the membership: %w", err)
	}
	c := confChange{Type: cc.GetType()}
	if _, ok := changeLevels[c.Type]; !ok {
		return c, nil, fmt.Errorf("a change of the membership of type %d, which this weir does not know: run the weir that wrote it", c.Type)
	}
	if err := decodeStrictly(cc.GetContext(), &c); err != nil {
		return c, nil, fmt.Errorf("decode a change of the membership: %w", err)
	}
	if c.Member.ID != cc.GetNodeId() {
		return c, nil, fmt.Errorf("a change of the membership is of member %s and of member %s", idString(cc.GetNodeId()), idString(c.Member.ID))
	}
	return c, cc, nil
}

// applyConfChange applies an entry that changes the membership.
func (n *Node) applyConfChange(entry *raftpb.Entry) error {
	c, cc, err := decodeConfChange(entry.GetData())
	if err != nil {
		return err
	}
	refused := n.members.check(c)
	n.tenure.changesMembers()
	applied := appliedChange{id: cc.GetId(), change: cc, refused: refused, state: make(chan *raftpb.ConfState, 1)}
	var state *raftpb.ConfState
	select {
	case n.appliedChanges <- applied:
	case <-n.stopped:
		return errStopping
	}
	select {
	case state = <-applied.state:
	case <-n.stopped:
		return errStopping
	}
	tx := n.store.Begin(entry.GetIndex(), entry.GetTerm())
	if refused == nil {
		tx.SetConfState(state)
		if err := n.members.apply(tx, c); err != nil {
			tx.Fail(err)
			return err
		}
	}
	tx.End()
	n.reached(entry.GetIndex())
	if refused == nil {
		n.setPeers()
		n.logger.Info("changed the membership", "change", c.Type.String(), "member-id", idString(c.Member.ID), "peer-urls", c.Member.PeerURLs)
	}
	n.changes.applied(cc.GetId(), refused)
	n.countForCut(entry)
	if refused == nil && c.removes(n.member.ID) {
		n.goroutines.Add(1)
		go n.leave()
	}
	return nil
}

// leaveDelay is how long a member goes on after its removal, in heartbeat intervals: etcd's second by default. If it leads, the
// others learn from it that the removal is committed, and without that two members could not elect one of them any more.
const leaveDelay = 10

// leave ends this member, which has been removed.
func (n *Node) leave() {
	defer n.goroutines.Done()
	n.pause(leaveDelay * n.cfg.HeartbeatInterval)
	if n.ctx.Err() == nil {
		n.fail(ErrRemoved)
	}
}
