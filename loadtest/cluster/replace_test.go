package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// Members are replaced under load, the leader first: a learner joins, becomes a voter, and the old member is removed. Nothing
// that was promised is lost.
func TestReplacedMembersLoseNothing(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.Etcd37, target.Core} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newScene(t, kind, targettest.SiteOptions{Timeout: 2 * time.Minute})
			// One stays, where the watches of etcd's client find the others' history.
			s.round("leader replaced", func() { leader := s.leader(); s.replace(leader, (leader+1)%members) })
			s.round("leader removes itself", func() { leader := s.leader(); s.replace(leader, leader) })
			s.finish()
		})
	}
}

// replace puts a new member in the place of one, which is removed by a request to by.
func (s *scene) replace(one, by int) {
	s.Helper()
	old, rest := s.Cluster.Members[one], pb.NewClusterClient(s.conns[(one+1)%members])
	id := s.find(rest, func(m *pb.Member) bool { return m.Name == old.Name }).ID
	m, err := s.Cluster.Next()
	s.Must(err)
	urls := []string{"http://" + m.Peer}
	joined := func(m *pb.Member) bool { return slices.Equal(m.PeerURLs, urls) }
	s.until("a learner is added", func(ctx context.Context) error {
		_, err := rest.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: urls, IsLearner: true})
		return err
	}, func() bool { return s.find(rest, joined) != nil })
	s.Must(s.Cluster.Join(m))
	s.until("the learner is promoted", func(ctx context.Context) error {
		_, err := rest.MemberPromote(ctx, &pb.MemberPromoteRequest{ID: s.find(rest, joined).ID})
		return err
	}, func() bool { return !s.find(rest, joined).IsLearner })
	s.until("the old member is removed", func(ctx context.Context) error {
		_, err := pb.NewClusterClient(s.conns[by]).MemberRemove(ctx, &pb.MemberRemoveRequest{ID: id})
		return err
	}, func() bool { return s.find(rest, func(m *pb.Member) bool { return m.ID == id }) == nil })
	awaitEnd(s, "who was removed", old.Process)
	s.leave(one)
	s.watchAt(m, s.goTo(m))
}

// leave lets clients go to a member no more.
func (s *scene) leave(one int) {
	s.Helper()
	m := s.Cluster.Members[one]
	s.watches = slices.DeleteFunc(s.watches, func(w watch) bool { return w.at == m })
	s.Must(s.load.Leave(m.Name))
	s.Must(s.conns[one].Close())
	s.conns = slices.Delete(s.conns, one, one+1)
	s.Cluster.Forget(m)
}

// until asks again and again until it is done: what is asked for under load may fail, and then have been done all the same.
func (s *scene) until(what string, ask func(context.Context) error, done func() bool) {
	s.Helper()
	s.Eventually(30*time.Second, what, func() error {
		ctx, cancel := context.WithTimeout(s.Ctx, 5*time.Second)
		defer cancel()
		err := ask(ctx)
		if done() {
			return nil
		}
		return errors.Join(err, fmt.Errorf("not yet"))
	})
}

// find is a member as another one knows it; nil if it does not.
func (s *scene) find(at pb.ClusterClient, what func(*pb.Member) bool) *pb.Member {
	s.Helper()
	r, err := at.MemberList(s.Ctx, &pb.MemberListRequest{})
	s.Must(err)
	if i := slices.IndexFunc(r.Members, what); i >= 0 {
		return r.Members[i]
	}
	return nil
}
