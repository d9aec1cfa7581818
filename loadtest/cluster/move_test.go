package cluster

import (
	"context"
	"os"
	"slices"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// Members move under load, a follower and the leader: their data is taken to another machine, the others are told of the new
// address, and they are started there. They stay who they are, and nothing that was promised is lost.
func TestMovedMembersLoseNothing(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.Etcd37, target.Core} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newScene(t, kind, targettest.SiteOptions{Timeout: 3 * time.Minute, Network: newNetwork(t, members+2)})
			s.round("follower moved", func() { s.move(others(s.leader(), s.rng)[0], s.tellOfMove) })
			s.round("leader moved", func() { s.move(s.leader(), s.tellOfMove) })
			s.finish()
		})
	}
}

// A member that is started at its new place before the others are told harms nobody, and is back when they are.
func TestMembersThatMoveUntoldLoseNothing(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.Etcd37, target.Core} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newScene(t, kind, targettest.SiteOptions{Timeout: 2 * time.Minute})
			s.round("follower moved untold", func() { s.move(others(s.leader(), s.rng)[0], nil) })
			s.finish()
		})
	}
}

// move takes a member and its data to another machine. If before is not nil it is called before the member is started there, else
// the others are told of the new address when it has run for a while.
func (s *scene) move(one int, before func(rest pb.ClusterClient, id uint64, m *target.Member)) {
	s.Helper()
	old, rest := s.Cluster.Members[one], pb.NewClusterClient(s.conns[(one+1)%members])
	id := s.find(rest, func(m *pb.Member) bool { return m.Name == old.Name }).ID
	s.Must(old.Stop())
	m, err := s.Cluster.Elsewhere(old)
	s.Must(err)
	s.Must(os.Rename(old.DataDir, m.DataDir))
	s.leave(one)
	if before != nil {
		before(rest, id, m)
	}
	s.Must(s.Cluster.Join(m))
	conn := s.goTo(m)
	if before == nil {
		// Who hears from nobody does not serve: it would be without a leader.
		s.pause(5 * time.Second)
		s.tellOfMove(rest, id, m)
	}
	s.Must(m.WaitReady(s.Ctx, target.Serves(m.Addr)))
	r, err := pb.NewMaintenanceClient(conn).Status(s.Ctx, &pb.StatusRequest{})
	s.Must(err)
	targettest.Want(s, "id of the member that has moved", r.Header.MemberId, id)
	s.watchAt(m, conn)
}

// tellOfMove tells the cluster where a member is to be reached.
func (s *scene) tellOfMove(rest pb.ClusterClient, id uint64, m *target.Member) {
	s.Helper()
	urls := []string{"http://" + m.Peer}
	s.until("the peer URL is updated", func(ctx context.Context) error {
		_, err := rest.MemberUpdate(ctx, &pb.MemberUpdateRequest{ID: id, PeerURLs: urls})
		return err
	}, func() bool {
		return slices.Equal(s.find(rest, func(m *pb.Member) bool { return m.ID == id }).PeerURLs, urls)
	})
}
