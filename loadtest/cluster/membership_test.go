package cluster

import (
	"context"
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// Requests about members are answered as etcd answers them, with the same codes and texts, by a leader, by a follower and by
// a learner; while all members are well, while one is away, and while some have not started yet.
func TestMembershipIsAsAtEtcd(t *testing.T) {
	t.Parallel()
	kinds := [...]target.Kind{target.Etcd37, target.Core}
	var answers [len(kinds)][]string
	t.Run("of", func(t *testing.T) {
		for i, kind := range kinds {
			t.Run(string(kind), func(t *testing.T) {
				t.Parallel()
				r := &roll{Site: targettest.NewSite(t, bin, kind, targettest.SiteOptions{Timeout: 2 * time.Minute, Members: members, MemberArgs: quick})}
				defer func() { answers[i] = r.answers }()
				r.call()
			})
		}
	})
	want, got := answers[0], answers[1]
	for i := range max(len(want), len(got)) {
		if at(want, i) != at(got, i) {
			t.Errorf("etcd: %s\ncore: %s", at(want, i), at(got, i))
		}
	}
}

// roll asks for changes of a cluster's members, one after another, and keeps the answers.
type roll struct {
	*targettest.Site
	answers []string
	added   uint64 // the id of the member that was added last
}

// unknown is the id of no member.
const unknown = 12345

// asked keeps how a request ended.
func (r *roll) asked(what string, err error) error {
	answer := "done"
	if err != nil {
		s := status.Convert(err)
		answer = fmt.Sprintf("%s: %s", s.Code(), s.Message())
	}
	r.answers = append(r.answers, what+": "+answer)
	r.Logf("%s: %s", what, answer)
	return err
}

// front is one member as it is asked.
type front struct {
	*roll
	name string
	conn *grpc.ClientConn
	ctx  context.Context
}

func (r *roll) at(name string, member int) *front {
	return &front{r, name, targettest.Dial(r, r.Cluster.Members[member].Addr), r.Ctx}
}

func (f *front) cluster() pb.ClusterClient { return pb.NewClusterClient(f.conn) }

func (f *front) add(what string, learner bool, urls ...string) error {
	a, err := f.cluster().MemberAdd(f.ctx, &pb.MemberAddRequest{PeerURLs: urls, IsLearner: learner})
	if err == nil {
		f.added = a.Member.ID
	}
	return f.asked(f.name+": add "+what, err)
}

func (f *front) remove(what string, id uint64) {
	_, err := f.cluster().MemberRemove(f.ctx, &pb.MemberRemoveRequest{ID: id})
	_ = f.asked(f.name+": remove "+what, err)
}

func (f *front) update(what string, id uint64, urls ...string) {
	_, err := f.cluster().MemberUpdate(f.ctx, &pb.MemberUpdateRequest{ID: id, PeerURLs: urls})
	_ = f.asked(f.name+": update "+what, err)
}

func (f *front) promote(what string, id uint64) error {
	_, err := f.cluster().MemberPromote(f.ctx, &pb.MemberPromoteRequest{ID: id})
	return f.asked(f.name+": promote "+what, err)
}

func (f *front) lead(what string, id uint64) {
	_, err := pb.NewMaintenanceClient(f.conn).MoveLeader(f.ctx, &pb.MoveLeaderRequest{TargetID: id})
	_ = f.asked(f.name+": let "+what+" lead", err)
}

// id is that of a member, by its place.
func (r *roll) id(member int) uint64 {
	r.Helper()
	s, err := pb.NewMaintenanceClient(targettest.Dial(r, r.Cluster.Members[member].Addr)).Status(r.Ctx, &pb.StatusRequest{})
	r.Must(err)
	return s.Header.MemberId
}

// leader is the place of the leader.
func (r *roll) leader() int {
	r.Helper()
	var conns []*grpc.ClientConn
	for _, m := range r.Cluster.Members {
		conns = append(conns, targettest.Dial(r, m.Addr))
	}
	return leader(r.Site, conns)
}

// away are peer URLs at which nobody is.
func away(n int) string { return fmt.Sprintf("http://127.0.0.1:%d", n) }

// addTooEarly asks for another voter while the members have known each other for less than the five seconds that etcd demands. On a busy
// machine they may have for longer: then who was added is removed, a follower restarted, whom they meet again, and it is tried again.
func (r *roll) addTooEarly(l *front, follower int) {
	r.Helper()
	for range 10 {
		a, err := l.cluster().MemberAdd(r.Ctx, &pb.MemberAddRequest{PeerURLs: []string{away(1)}})
		if err != nil {
			_ = r.asked("leader: add a voter to members who have only just met", err)
			return
		}
		_, err = l.cluster().MemberRemove(r.Ctx, &pb.MemberRemoveRequest{ID: a.Member.ID})
		r.Must(err)
		m := r.Cluster.Members[follower]
		r.Must(m.Kill())
		r.Must(m.Restart())
		r.Must(r.Cluster.WaitReady(r.Ctx))
	}
	r.Fatal("members who have only just met are given another")
}

// call is the whole sequence.
func (r *roll) call() {
	leader := r.leader()
	l, f := r.at("leader", leader), r.at("follower", (leader+1)%members)
	other := (leader + 2) % members
	ids := map[string]uint64{"leader": r.id(leader), "follower": r.id((leader + 1) % members), "other": r.id(other)}
	r.addTooEarly(l, other)
	r.settle(f)

	for _, at := range []*front{l, f} {
		_ = at.add("a voter with a member's URL", false, "http://"+r.Cluster.Members[other].Peer)
		_ = at.add("a voter with no URL", false)
		_ = at.add("a voter with nonsense", false, "nonsense")
		at.remove("nobody", unknown)
		at.update("nobody", unknown, away(2))
		at.update("the leader to another's URL", ids["leader"], "http://"+r.Cluster.Members[other].Peer)
		_ = at.promote("nobody", unknown)
		_ = at.promote("a voter", ids["other"])
		at.lead("nobody", unknown)
	}
	f.lead("the other", ids["other"])
	l.lead("itself", ids["leader"])
	r.learners(f, l)
	r.starts(f, l)
	r.one(f, other, ids["other"])
}

// settle waits until members have known each other for long enough to be changed: until a voter can be added, who is
// removed at once.
func (r *roll) settle(at *front) {
	r.Helper()
	var id uint64
	r.Eventually(30*time.Second, "members are well", func() error {
		a, err := at.cluster().MemberAdd(r.Ctx, &pb.MemberAddRequest{PeerURLs: []string{away(9)}})
		if err == nil {
			id = a.Member.ID
		}
		return err
	})
	_, err := at.cluster().MemberRemove(r.Ctx, &pb.MemberRemoveRequest{ID: id})
	r.Must(err)
	// Who is in sync, as far as a promotion asks, has nine tenths of the log. Of a short one it may lack the last entry.
	for range 100 {
		_, err := pb.NewKVClient(at.conn).Put(r.Ctx, &pb.PutRequest{Key: []byte("fill")})
		r.Must(err)
	}
	r.Must(r.Cluster.WaitReady(r.Ctx))
}

// learners adds a learner, who starts, is asked, and becomes a voter; then it leads, and is removed.
func (r *roll) learners(f, l *front) {
	r.Helper()
	m, err := r.Cluster.Next()
	r.Must(err)
	r.Must(f.add("a learner", true, "http://"+m.Peer))
	_ = f.add("one learner more", true, away(3))
	_ = f.promote("a learner who has not started", r.added)
	_ = l.promote("a learner who has not started", r.added)
	l.lead("a learner who has not started", r.added)
	r.Must(r.Cluster.Join(m))
	learner := r.at("learner", len(r.Cluster.Members)-1)
	learner.awaitStart()
	learner.ask()
	r.Eventually(30*time.Second, "the learner is promoted", func() error {
		_, err := f.cluster().MemberPromote(r.Ctx, &pb.MemberPromoteRequest{ID: r.added})
		return err
	})
	_ = f.promote("who was promoted", r.added)
	r.Must(m.WaitReady(r.Ctx, target.Serves(m.Addr)))
	f.remove("who was a learner", r.added)
	f.remove("it once more", r.added)
	r.ends("who was removed", m)
	r.Must(m.Restart())
	r.ends("who was removed and is started again", m)
	r.Cluster.Forget(m)
}

// ends waits until a member has ended by itself, which is no failure of its: whoever supervises it must not start it again.
// Of etcd's the status is mostly 0 too.
func (r *roll) ends(who string, m *target.Member) {
	r.Helper()
	awaitEnd(r, who, m.Process)
	if err := m.ExitError(); err != nil && r.Kind == target.Core {
		r.Errorf("%s: %v", who, err)
	}
}

// awaitStart waits until the member answers.
func (f *front) awaitStart() {
	f.Helper()
	f.Eventually(30*time.Second, "the learner has started", func() error {
		s, err := pb.NewMaintenanceClient(f.conn).Status(f.ctx, &pb.StatusRequest{})
		if err == nil && (!s.IsLearner || s.Leader == 0) {
			err = fmt.Errorf("status is %v", s)
		}
		return err
	})
}

// ask sends a learner one of each kind of request.
func (f *front) ask() {
	kv, lease, m, auth := pb.NewKVClient(f.conn), pb.NewLeaseClient(f.conn), pb.NewMaintenanceClient(f.conn), pb.NewAuthClient(f.conn)
	key := []byte("asked")
	for _, one := range []struct {
		what string
		do   func() error
	}{
		{"range", func() error { _, err := kv.Range(f.ctx, &pb.RangeRequest{Key: key}); return err }},
		{"serializable range", func() error { _, err := kv.Range(f.ctx, &pb.RangeRequest{Key: key, Serializable: true}); return err }},
		{"put", func() error { _, err := kv.Put(f.ctx, &pb.PutRequest{Key: key}); return err }},
		{"delete", func() error { _, err := kv.DeleteRange(f.ctx, &pb.DeleteRangeRequest{Key: key}); return err }},
		{"txn", func() error { _, err := kv.Txn(f.ctx, &pb.TxnRequest{}); return err }},
		{"compact", func() error { _, err := kv.Compact(f.ctx, &pb.CompactionRequest{Revision: 1}); return err }},
		{"grant", func() error { _, err := lease.LeaseGrant(f.ctx, &pb.LeaseGrantRequest{TTL: 10}); return err }},
		{"leases", func() error { _, err := lease.LeaseLeases(f.ctx, &pb.LeaseLeasesRequest{}); return err }},
		{"status", func() error { _, err := m.Status(f.ctx, &pb.StatusRequest{}); return err }},
		{"hash", func() error { _, err := m.HashKV(f.ctx, &pb.HashKVRequest{}); return err }},
		{"defragment", func() error { _, err := m.Defragment(f.ctx, &pb.DefragmentRequest{}); return err }},
		{"alarms", func() error { _, err := m.Alarm(f.ctx, &pb.AlarmRequest{}); return err }},
		{"members", func() error {
			_, err := f.cluster().MemberList(f.ctx, &pb.MemberListRequest{Linearizable: true})
			return err
		}},
		{"serializable members", func() error { _, err := f.cluster().MemberList(f.ctx, &pb.MemberListRequest{}); return err }},
		{"auth status", func() error { _, err := auth.AuthStatus(f.ctx, &pb.AuthStatusRequest{}); return err }},
		{"users", func() error { _, err := auth.UserList(f.ctx, &pb.AuthUserListRequest{}); return err }},
		{"lead", func() error {
			_, err := m.MoveLeader(f.ctx, &pb.MoveLeaderRequest{TargetID: f.added})
			return err
		}},
	} {
		_ = f.asked(f.name+": "+one.what, one.do())
	}
}

// starts adds voters who do not start until no more may be added, and removes them again.
func (r *roll) starts(f, l *front) {
	var added []uint64
	for i := range 4 {
		if f.add(fmt.Sprintf("voter %d who will not start", i+4), false, away(10+i)) == nil {
			added = append(added, r.added)
		}
	}
	for i, id := range added {
		l.remove(fmt.Sprintf("voter %d who has not started", i+4), id)
	}
}

// one takes a member away and asks for changes that two of three can bear, and for others.
func (r *roll) one(f *front, other int, id uint64) {
	r.Must(r.Cluster.Members[other].Kill())
	r.awaitAway(f)
	_ = f.add("a voter while one is away", false, away(20))
	_ = f.add("a learner while one is away", true, away(21))
	_ = f.promote("that learner", r.added)
	f.remove("that learner", r.added)
	f.update("who is away", id, away(22))
	f.remove("who is well while one is away", r.id(r.leader()))
	f.remove("who is away", id)
	r.Cluster.Forget(r.Cluster.Members[other])
}

// awaitAway waits until one member is known to be away: then nobody can be added. It tries with learners: with one more voter who is
// away there would be no majority.
func (r *roll) awaitAway(at *front) {
	r.Helper()
	r.Eventually(30*time.Second, "it is noticed that a member is away", func() error {
		a, err := at.cluster().MemberAdd(r.Ctx, &pb.MemberAddRequest{PeerURLs: []string{away(30)}, IsLearner: true})
		if err != nil {
			return nil
		}
		_, err = at.cluster().MemberRemove(r.Ctx, &pb.MemberRemoveRequest{ID: a.Member.ID})
		r.Must(err)
		return fmt.Errorf("a learner was added")
	})
}
