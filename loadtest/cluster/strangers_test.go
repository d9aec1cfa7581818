package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// stranger is a process that is started to be a member of a cluster, and must not become one.
type stranger struct {
	*proc.Process
	name, dir, addr, peer string
}

// strange is a cluster that strangers come to.
type strange struct {
	*targettest.Site
	came int
}

func newStrange(t *testing.T, kind target.Kind) *strange {
	t.Helper()
	s := &strange{Site: targettest.NewSite(t, bin, kind, targettest.SiteOptions{Timeout: 2 * time.Minute, Members: members, MemberArgs: quick})}
	s.write()
	return s
}

// write writes at each member.
func (s *strange) write() {
	s.Helper()
	for _, m := range s.Cluster.Members {
		kv := pb.NewKVClient(targettest.Dial(s, m.Addr))
		s.Eventually(30*time.Second, "a write at "+m.Name, func() error { // on a machine that is busy the leader may change
			ctx, cancel := context.WithTimeout(s.Ctx, 5*time.Second)
			defer cancel()
			_, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("k"), Value: []byte(m.Name)})
			return err
		})
	}
}

// comes has a program started as a member of a name, with places of its own and more arguments, of which the last count.
func (s *strange) comes(kind target.Kind, name string, more ...string) *stranger {
	s.Helper()
	path, err := bin.Build(s.Ctx, kind.Member())
	s.Must(err)
	s.came++
	who := &stranger{name: name, dir: filepath.Join(s.TempDir(), fmt.Sprintf("stranger%d", s.came))}
	who.addr, err = proc.FreeAddr()
	s.Must(err)
	who.peer, err = proc.FreeAddr()
	s.Must(err)
	args := append(target.MemberArgs(name, who.dir, who.addr, who.peer), quick...)
	who.Process, err = proc.Start("stranger", path, append(args, more...), nil)
	s.Must(err)
	s.Cleanup(func() { _ = who.Kill() }) // it has ended, if all is well
	return who
}

// listens are the arguments of who listens at a peer address that the cluster has been told of.
func listens(peer string) []string {
	return []string{"--listen-peer-urls=http://" + peer, "--initial-advertise-peer-urls=http://" + peer}
}

// initial is --initial-cluster with all members, and one more of that name and peer address.
func (s *strange) initial(name, peer string) string {
	m := &target.Member{Name: name, Peer: peer}
	all := slices.DeleteFunc(slices.Clone(s.Cluster.Members), func(other *target.Member) bool { return other.Name == name })
	return "--initial-cluster=" + target.InitialCluster(append(all, m))
}

// wantEnd waits until the stranger has ended, with a last line that says why.
func (s *strange) wantEnd(who *stranger, says string) {
	s.Helper()
	last := awaitEnd(s, fmt.Sprintf("the stranger who is to say %q", says), who.Process)
	if who.ExitError() == nil || !strings.Contains(last, says) {
		s.Errorf("the stranger ends with %v and the line %s, want %q", who.ExitError(), last, says)
	}
}

// members lists the members, as all of them know them.
func (s *strange) members() string {
	s.Helper()
	var lists []string
	for _, m := range s.Cluster.Members {
		c := pb.NewClusterClient(targettest.Dial(s, m.Addr))
		s.Eventually(30*time.Second, "a list of members by "+m.Name, func() error {
			r, err := c.MemberList(s.Ctx, &pb.MemberListRequest{Linearizable: true})
			if err == nil {
				lists = append(lists, fmt.Sprint(r.Members))
			}
			return err
		})
	}
	if len(slices.Compact(lists)) != 1 {
		s.Errorf("members know different members: %v", lists)
	}
	return lists[0]
}

// add tells the cluster of a member at a peer address where there is nobody yet.
func (s *strange) add() (peer string) {
	s.Helper()
	peer, err := proc.FreeAddr()
	s.Must(err)
	s.Eventually(30*time.Second, "a member is added", func() error { // members who have only just met are no majority
		c := pb.NewClusterClient(targettest.Dial(s, s.Cluster.Members[0].Addr))
		_, err := c.MemberAdd(s.Ctx, &pb.MemberAddRequest{PeerURLs: []string{"http://" + peer}, IsLearner: true})
		return err
	})
	return peer
}

// A member of weir does not join an etcd cluster, though ids, flags and ports look alike, neither as one that was added nor as one of
// its founders.
func TestWeirJoinsNoEtcd(t *testing.T) {
	t.Parallel()
	s := newStrange(t, target.Etcd37)
	peer := s.add()
	before := s.members()
	const says = "this is a member of an etcd cluster"
	s.wantEnd(s.comes(target.Core, "m4", append(listens(peer), s.initial("m4", peer), "--initial-cluster-state=existing")...), says)
	s.wantEnd(s.comes(target.Core, "m4", append(listens(peer), s.initial("m4", peer))...), says)
	gone := s.Cluster.Members[2]
	s.Must(gone.Kill())
	s.wantEnd(s.comes(target.Core, gone.Name, append(listens(gone.Peer), s.initial(gone.Name, gone.Peer))...), says)
	s.Must(gone.Restart())
	s.Must(s.Cluster.WaitReady(s.Ctx))
	targettest.Want(t, "members", s.members(), before)
	s.write()
}

// A member of etcd that comes to a weir cluster is never part of it. That etcd ends is etcd's doing, and where it does not it waits for
// members, of which weir's say that it is none.
func TestEtcdJoinsNoWeir(t *testing.T) {
	t.Parallel()
	s := newStrange(t, target.Core)
	peer := s.add()
	before := s.members()
	joins := s.comes(target.Etcd37, "m4", append(listens(peer), s.initial("m4", peer), "--initial-cluster-state=existing")...)
	s.Eventually(30*time.Second, "it is noticed that the new member is none of weir", func() error {
		for _, m := range s.Cluster.Members {
			if strings.Contains(m.Log(), "what answers there is not a weir member") {
				return nil
			}
		}
		return fmt.Errorf("nobody says so")
	})
	s.wantNotServing(joins)
	s.Must(joins.Kill())
	gone := s.Cluster.Members[2]
	s.Must(gone.Kill())
	s.wantEnd(s.comes(target.Etcd37, gone.Name, append(listens(gone.Peer), s.initial(gone.Name, gone.Peer))...), "has already been bootstrapped")
	s.Must(gone.Restart())
	s.Must(s.Cluster.WaitReady(s.Ctx))
	targettest.Want(t, "members", s.members(), before)
	s.write()
}

// wantNotServing asks for what a member has: nothing that it could answer with.
func (s *strange) wantNotServing(who *stranger) {
	s.Helper()
	r, err := pb.NewKVClient(targettest.Dial(s, who.addr)).Range(s.Ctx, &pb.RangeRequest{Key: []byte("k"), Serializable: true})
	if err == nil && len(r.Kvs) > 0 {
		s.Errorf("the stranger has what the cluster has: %v", r)
	}
}

// A weir member that is none of this weir cluster is told so, in one line, and the cluster does not change.
func TestWhoIsOfAnotherClusterIsRefused(t *testing.T) {
	t.Parallel()
	s := newStrange(t, target.Core)
	peer := s.add()
	before := s.members()
	gone := s.Cluster.Members[2]
	s.Must(gone.Kill())
	founds := append(listens(gone.Peer), s.initial(gone.Name, gone.Peer))
	s.wantEnd(s.comes(target.Core, gone.Name, append(founds, "--initial-cluster-token=other")...), "which has been formed")
	s.wantEnd(s.comes(target.Core, gone.Name, founds...), "has already been bootstrapped")
	s.wantEnd(s.comes(target.Core, gone.Name, append(founds, "--initial-cluster-state=existing")...), "it has 4 members and --initial-cluster has 3")
	four := target.InitialCluster(append(slices.Clone(s.Cluster.Members), &target.Member{Name: "m4", Peer: peer}))
	s.wantEnd(s.comes(target.Core, gone.Name, append(founds, "--initial-cluster="+four, "--initial-cluster-state=existing")...), "was started before, with data that is not here")
	s.wantEnd(s.comes(target.Core, "m4", append(listens(peer), s.initial("m4", peer))...), "which has been formed")

	// The data of another cluster, at the place of a member of this one.
	other := s.comes(target.Core, gone.Name)
	s.Must(other.WaitReady(s.Ctx, target.Serves(other.addr)))
	s.Must(other.Stop())
	s.wantEnd(s.comes(target.Core, gone.Name, append(founds, "--data-dir="+other.dir, "--initial-cluster-token=other")...), "is of another cluster")
	alone := s.comes(target.Core, gone.Name, append(founds, "--data-dir="+other.dir)...)
	s.Must(alone.WaitReady(s.Ctx, target.Serves(alone.addr))) // the cluster that it is of has no other member
	s.Eventually(30*time.Second, "it is noticed that it is of another cluster", func() error {
		for _, m := range s.Cluster.Members[:2] {
			if strings.Contains(m.Log(), "but called by one of cluster") {
				return nil
			}
		}
		return fmt.Errorf("nobody says so")
	})
	s.Must(alone.Stop())

	s.Must(gone.Restart())
	s.Must(s.Cluster.WaitReady(s.Ctx))
	used := s.Cluster.Members[0]
	s.wantEnd(s.comes(target.Core, "m4", append(listens(peer), s.initial("m4", peer), "--initial-cluster-state=existing", "--data-dir="+used.DataDir)...), "in use by another process")
	targettest.Want(t, "members", s.members(), before)
	s.write()

	// What was added and not refused joins, with whatever token.
	joins := s.comes(target.Core, "m4", append(listens(peer), s.initial("m4", peer), "--initial-cluster-state=existing", "--initial-cluster-token=other")...)
	s.Eventually(30*time.Second, "the member that was added has what the others have", func() error {
		r, err := pb.NewKVClient(targettest.Dial(s, joins.addr)).Range(s.Ctx, &pb.RangeRequest{Key: []byte("k"), Serializable: true})
		if err == nil && len(r.Kvs) == 0 {
			err = os.ErrNotExist
		}
		return err
	})
	s.Must(joins.Stop())
}
