package core

import (
	"context"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The Cluster service.

// errNotEnoughStarted is rpctypes.ErrGRPCMemberNotEnoughStarted as etcd sends it: by an oversight of etcd's its code is Unknown.
// Clients go by the text.
var errNotEnoughStarted = status.Error(codes.Unknown, rpctypes.ErrorDesc(rpctypes.ErrGRPCMemberNotEnoughStarted))

// MemberList lists the members of the cluster. A linearizable list waits as a linearizable read does.
func (n *Node) MemberList(ctx context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	if r.Linearizable {
		if err := n.linearizable(ctx); err != nil {
			return nil, err
		}
	}
	if err := n.permitKnown(ctx); err != nil {
		return nil, err
	}
	return &pb.MemberListResponse{Header: n.clusterHeader(), Members: n.members.list()}, nil
}

// MemberAdd adds a member, which is to be started then.
func (n *Node) MemberAdd(ctx context.Context, r *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	urls, err := parsePeerURLs(r.PeerURLs)
	if err != nil {
		return nil, err
	}
	slices.Sort(urls)
	if err := n.permitAdmin(ctx); err != nil {
		return nil, err
	}
	c := confChange{
		Type:        raftpb.ConfChangeAddNode,
		Member:      memberRecord{ID: n.newMemberID(urls), PeerURLs: urls, IsLearner: r.IsLearner},
		MaxLearners: n.cfg.MaxLearners,
	}
	if r.IsLearner {
		c.Type = raftpb.ConfChangeAddLearnerNode
	}
	if err := n.mayAdd(r.IsLearner); err != nil {
		n.logger.Warn("a member must not be added now, and is not waited for", "member-id", idString(c.Member.ID), "peer-urls", urls, "learner", r.IsLearner, "error", err)
		return nil, err
	}
	if err := n.reconfigure(ctx, c); err != nil {
		return nil, err
	}
	return &pb.MemberAddResponse{
		Header:  n.clusterHeader(),
		Member:  &pb.Member{ID: c.Member.ID, PeerURLs: urls, IsLearner: r.IsLearner},
		Members: n.members.list(),
	}, nil
}

// newMemberID gives a member that is added an id, computed as etcd does. etcd refuses one that was removed and is added
// again within a second, whose id is the same; here it gets the id of the next second.
func (n *Node) newMemberID(urls []string) uint64 {
	for second := n.cfg.Clock.Now().Unix(); ; second++ {
		if id := memberID(urls, strconv.FormatInt(second, 10)); id != 0 && !n.members.known(id) {
			return id
		}
	}
}

// MemberRemove removes a member, but not the last voter.
func (n *Node) MemberRemove(ctx context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	if err := n.permitAdmin(ctx); err != nil {
		return nil, err
	}
	if err := n.mayRemove(r.ID); err != nil {
		n.logger.Warn("a member must not be removed now", "member-id", idString(r.ID), "error", err)
		return nil, err
	}
	c := confChange{Type: raftpb.ConfChangeRemoveNode, Member: memberRecord{ID: r.ID}}
	if err := n.reconfigure(ctx, c); err != nil {
		return nil, err
	}
	// If it is this one, the others may have told that it is gone before its own log does.
	left := slices.DeleteFunc(n.members.list(), func(m *pb.Member) bool { return m.ID == r.ID })
	return &pb.MemberRemoveResponse{Header: n.clusterHeader(), Members: left}, nil
}

// MemberUpdate changes the peer URLs of a member. (etcd takes what is not a URL, too, and then stumbles over it.)
func (n *Node) MemberUpdate(ctx context.Context, r *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	if err := n.permitAdmin(ctx); err != nil {
		return nil, err
	}
	urls, _ := parsePeerURLs(r.PeerURLs) // if they are not valid there are none, which check refuses in its turn
	c := confChange{Type: raftpb.ConfChangeUpdateNode, Member: memberRecord{ID: r.ID, PeerURLs: urls}}
	if err := n.reconfigure(ctx, c); err != nil {
		return nil, err
	}
	return &pb.MemberUpdateResponse{Header: n.clusterHeader(), Members: n.members.list()}, nil
}

// MemberPromote makes a learner that has the leader's log a voter.
func (n *Node) MemberPromote(ctx context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	if err := n.permitAdmin(ctx); err != nil {
		return nil, err
	}
	c := confChange{Type: raftpb.ConfChangeAddNode, Member: memberRecord{ID: r.ID}, Promote: true}
	if err := n.reconfigure(ctx, c); err != nil {
		return nil, err
	}
	return &pb.MemberPromoteResponse{Header: n.clusterHeader(), Members: n.members.list()}, nil
}

// clusterHeader is the header of the Cluster service, which has no revision at etcd.
func (n *Node) clusterHeader() *pb.ResponseHeader {
	h := n.pbHeader()
	h.Revision = 0
	return h
}

// parsePeerURLs returns the URLs in their canonical form. There must be one, and each must be
// http(s)://host:port or unix(s)://path.
func parsePeerURLs(raw []string) ([]string, error) {
	if len(raw) == 0 {
		return nil, rpctypes.ErrGRPCMemberBadURLs
	}
	urls := make([]string, len(raw))
	for i, s := range raw {
		u, err := url.Parse(strings.TrimSpace(s))
		if err != nil {
			return nil, rpctypes.ErrGRPCMemberBadURLs
		}
		switch u.Scheme {
		case "http", "https":
			if _, _, err := net.SplitHostPort(u.Host); err != nil || u.Path != "" {
				return nil, rpctypes.ErrGRPCMemberBadURLs
			}
		case "unix", "unixs":
		default:
			return nil, rpctypes.ErrGRPCMemberBadURLs
		}
		urls[i] = u.String()
	}
	return urls, nil
}
