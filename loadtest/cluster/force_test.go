package cluster

import (
	"context"
	"os"
	"slices"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// A majority is lost for good. The member that is left, started with --force-new-cluster, is a cluster with all that was acknowledged,
// which grows again. An old member that comes back is none of it.
func TestAMemberThatIsLeftIsANewCluster(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.Etcd37, target.Core} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newScene(t, kind, targettest.SiteOptions{Timeout: 2 * time.Minute})
			s.round("nothing", func() { s.pause(time.Second) })
			left := others(s.leader(), s.rng)[0]
			m := s.Cluster.Members[left]
			newest := s.revision(left) // it has all that was acknowledged
			before := s.status(left)
			var lost []*target.Member
			for _, other := range s.Cluster.Members {
				if other != m {
					lost = append(lost, other)
				}
				s.Must(other.Kill())
			}
			for _, other := range lost {
				s.leave(s.place(other))
			}
			s.Must(os.RemoveAll(lost[0].DataDir))
			s.Must(s.Cluster.StartAs(m, "--force-new-cluster"))
			s.Must(s.Cluster.WaitReady(s.Ctx))

			after := s.status(0)
			targettest.Want(s, "id of the member", after.Header.MemberId, before.Header.MemberId)
			targettest.Want(s, "id of the cluster", after.Header.ClusterId, before.Header.ClusterId)
			targettest.Want(s, "revision", s.revision(0), newest)
			s.wantLedger("the member alone")
			s.wantMembers(1)

			// It is started again as it was, and gets two members.
			s.Must(m.Kill())
			s.Must(s.Cluster.StartAs(m))
			s.Must(s.Cluster.WaitReady(s.Ctx))
			for range members - 1 {
				s.join()
			}
			s.wantLedger("three members again")
			s.wantMembers(members)
			if kind == target.Core { // etcd's goes on asking for votes, which nobody gives it
				s.Must(lost[1].Restart())
				awaitEnd(s, "who is none of the new cluster", lost[1].Process)
				s.wantMembers(members)
			}
		})
	}
}

// place is where among the members one is.
func (s *scene) place(m *target.Member) int {
	s.Helper()
	for i, other := range s.Cluster.Members {
		if other == m {
			return i
		}
	}
	s.Fatalf("%s is no member", m.Name)
	return -1
}

func (s *scene) status(member int) *pb.StatusResponse {
	s.Helper()
	r, err := pb.NewMaintenanceClient(s.conns[member]).Status(s.Ctx, &pb.StatusRequest{})
	s.Must(err)
	return r
}

// wantLedger compares what the first member has with what was acknowledged.
func (s *scene) wantLedger(when string) {
	s.Helper()
	wrong, err := s.ledger.Check(s.Ctx, s.conns[0])
	s.Must(err)
	for _, w := range wrong {
		s.Errorf("%s: %s", when, w)
	}
}

// wantMembers compares how many members each member knows.
func (s *scene) wantMembers(n int) {
	s.Helper()
	for i, conn := range s.conns {
		r, err := pb.NewClusterClient(conn).MemberList(s.Ctx, &pb.MemberListRequest{Linearizable: true})
		s.Must(err)
		if len(r.Members) != n {
			s.Errorf("%s knows %d members: %v", s.Cluster.Members[i].Name, len(r.Members), r.Members)
		}
	}
}

// join adds a voter, starts it and lets clients go to it.
func (s *scene) join() (*target.Member, *grpc.ClientConn) {
	s.Helper()
	m, err := s.Cluster.Next()
	s.Must(err)
	urls, rest := []string{"http://" + m.Peer}, pb.NewClusterClient(s.conns[0])
	s.until("a member is added", func(ctx context.Context) error { // members who have only just met are no majority
		_, err := rest.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: urls})
		return err
	}, func() bool {
		return s.find(rest, func(known *pb.Member) bool { return slices.Equal(known.PeerURLs, urls) }) != nil
	})
	s.Must(s.Cluster.Join(m))
	conn := s.goTo(m)
	s.Must(s.Cluster.WaitReady(s.Ctx))
	return m, conn
}
