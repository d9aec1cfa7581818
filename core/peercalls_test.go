package core

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"weir/core/transport"
	"weir/grpcapi/wire"
)

// deaf is the handler of a transport that is not sent anything.
type deaf struct{ transport.Handler }

func (deaf) Unreachable(uint64) {}

// stranger starts a transport that claims to be of the cluster, and knows where its members are.
func (c *testCluster) stranger(id uint64) *transport.Transport {
	c.Helper()
	tr := transport.New(transport.Config{
		ID: id, ClusterID: c.members[0].node.member.ClusterID, Handler: deaf{}, Logger: slog.New(slog.DiscardHandler),
	})
	c.Cleanup(tr.Close)
	return tr
}

func TestMembersAnswerOnlyMembers(t *testing.T) {
	c := newCluster(t, 1)
	n := c.members[0].node
	tr := c.stranger(0x99)
	tr.SetPeers(map[uint64][]string{n.member.ID: {c.members[0].url}})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for name := range peerCalls {
		err := tr.Conn(n.member.ID).Invoke(ctx, "/"+memberService+"/"+name, wire.Raw(nil), new(wire.Raw), grpc.WaitForReady(true))
		if !errors.Is(err, transport.ErrNotKnown) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A leader that was elected before it has applied that a member was added does not know it yet.
func TestLeaderThatDoesNotKnowAMemberYetIsAskedAgain(t *testing.T) {
	c := newLeaseCluster(t)
	const id = 7
	c.grant(id, 100)
	leader, asking := c.leader(), c.follower()
	c.mustPing(asking, id, 100)
	n, by := c.node(leader), c.node(asking)

	known := n.members.peerURLs()
	others := maps.Clone(known)
	delete(others, by.member.ID)
	n.transport.SetPeers(others)
	if _, err := by.callPeer(t.Context(), n.member.ID, callPing, nil); !errors.Is(err, rpctypes.ErrGRPCNotLeader) {
		t.Errorf("who is not known got %v", err)
	}
	if _, term, err := by.pingLeader([]int64{id}); !errors.Is(err, errAskAgain) || term != 0 {
		t.Errorf("its pings got %v, as if sent in term %d", err, term)
	}
	n.transport.SetPeers(known)
	c.mustPing(asking, id, 100)
}
