package core

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"weir/core/mvcc"
	"weir/grpcapi/wire"
)

func mustAddLearner(t *testing.T, n *Node, urls ...string) *pb.MemberAddResponse {
	t.Helper()
	resp, err := n.MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: urls, IsLearner: true})
	if err != nil {
		t.Fatalf("add a learner at %v: %v", urls, err)
	}
	return resp
}

func listMembers(t *testing.T, n *Node) []*pb.Member {
	t.Helper()
	resp, err := n.MemberList(t.Context(), &pb.MemberListRequest{Linearizable: true})
	if err != nil {
		t.Fatalf("list the members: %v", err)
	}
	if resp.Header.Revision != 0 || resp.Header.RaftTerm == 0 || resp.Header.MemberId != n.member.ID {
		t.Errorf("header %v", resp.Header)
	}
	return resp.Members
}

func sameMembers(a, b []*pb.Member) bool {
	return slices.EqualFunc(a, b, func(x, y *pb.Member) bool { return proto.Equal(x, y) })
}

func TestMembershipOutlivesRestartsAndCrashes(t *testing.T) {
	for _, committed := range []bool{false, true} {
		t.Run(fmt.Sprintf("committed=%v", committed), func(t *testing.T) {
			dir := t.TempDir()
			n := openNode(t, dir, func(c *Config) { c.ClientURLs = []string{"http://self:2379"}; c.MaxLearners = 2 })
			gone := mustAddLearner(t, n, "http://gone:1").Member
			if _, err := n.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: gone.ID}); err != nil {
				t.Fatal(err)
			}
			added := mustAddLearner(t, n, " http://b:2 ", "http://a:1")
			if !slices.Equal(added.Member.PeerURLs, []string{"http://a:1", "http://b:2"}) || !added.Member.IsLearner || len(added.Members) != 2 {
				t.Fatalf("answer %v", added)
			}
			mustAddLearner(t, n, "http://other:1")
			update := &pb.MemberUpdateRequest{ID: added.Member.ID, PeerURLs: []string{"http://z:2", "http://a:1"}}
			if _, err := n.MemberUpdate(t.Context(), update); err != nil {
				t.Fatal(err)
			}
			if _, err := n.MemberUpdate(t.Context(), &pb.MemberUpdateRequest{ID: n.member.ID, PeerURLs: []string{"http://self:9"}}); err != nil {
				t.Fatal(err)
			}
			mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
			before := listMembers(t, n)
			if committed {
				if err := n.store.Commit(); err != nil {
					t.Fatal(err)
				}
			}
			crashed := copyDataDir(t, dir)
			closeNode(t, n)

			for _, dir := range []string{crashed, dir} {
				n = openNode(t, dir, func(c *Config) { c.ClientURLs = []string{"http://self:2379"} })
				if after := listMembers(t, n); !sameMembers(before, after) {
					t.Errorf("members %v, before %v", after, before)
				}
				if !n.members.known(gone.ID) {
					t.Error("the id of the removed member is forgotten")
				}
				if cs := n.store.Applied().ConfState; len(cs.GetLearners()) != 2 || len(cs.GetVoters()) != 1 {
					t.Errorf("raft's configuration is %v", cs)
				}
				mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
				closeNode(t, n)
			}
		})
	}
}

func TestMembersAreStoredAsEtcdDoes(t *testing.T) {
	clock := newTestClock() // it stands at 1,000,000 seconds, which the ids are made of
	n := openNode(t, t.TempDir(), func(c *Config) {
		c.Clock, c.MaxLearners, c.ClientURLs = clock, 2, []string{"http://localhost:2379"}
	})
	defer closeNode(t, n)
	removed := mustAddLearner(t, n, "http://gone:1").Member.ID
	if _, err := n.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: removed}); err != nil {
		t.Fatal(err)
	}
	learner := mustAddLearner(t, n, "http://a:1").Member.ID
	if learner != 0xed360c58ab26f4af { // the first 8 bytes of the SHA-1 of "http://a:11000000"
		t.Errorf("learner's id %x", learner)
	}
	got := map[string]string{}
	for _, b := range []mvcc.Bucket{mvcc.BucketMembers, mvcc.BucketMembersRemoved} {
		err := n.store.ForEach(b, func(k, v []byte) error {
			got[b.String()+"/"+string(k)] = string(v)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]string{
		"members/8e9e05c52164694d":             `{"id":10276657743932975437,"peerURLs":["http://localhost:2380"],"name":"default","clientURLs":["http://localhost:2379"]}`,
		"members/" + idString(learner):         fmt.Sprintf(`{"id":%d,"peerURLs":["http://a:1"],"isLearner":true}`, learner),
		"members_removed/" + idString(removed): "removed",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("stored\n%v, want\n%v", got, want)
	}
	if cs := n.store.Applied().ConfState; !slices.Equal(cs.GetVoters(), []uint64{n.member.ID}) || !slices.Equal(cs.GetLearners(), []uint64{learner}) {
		t.Errorf("raft's configuration %v", cs)
	}
}

// Each of these is what etcd 3.7 answers on one member with one learner.
func TestChangesOfTheMembershipAreRefusedAsEtcdDoes(t *testing.T) {
	n := openNode(t, t.TempDir())
	defer closeNode(t, n)
	self := n.member.ID
	gone := mustAddLearner(t, n, "http://gone:1").Member.ID
	if _, err := n.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: gone}); err != nil {
		t.Fatal(err)
	}
	learner := mustAddLearner(t, n, "http://learner:1").Member.ID
	before := listMembers(t, n)
	add := func(learner bool, urls ...string) error {
		_, err := n.MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: urls, IsLearner: learner})
		return err
	}
	remove := func(id uint64) error {
		_, err := n.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: id})
		return err
	}
	promote := func(id uint64) error {
		_, err := n.MemberPromote(t.Context(), &pb.MemberPromoteRequest{ID: id})
		return err
	}
	update := func(id uint64, urls ...string) error {
		_, err := n.MemberUpdate(t.Context(), &pb.MemberUpdateRequest{ID: id, PeerURLs: urls})
		return err
	}
	move := func(id uint64) error {
		_, err := n.MoveLeader(t.Context(), &pb.MoveLeaderRequest{TargetID: id})
		return err
	}
	for name, c := range map[string]struct{ got, want error }{
		"add without URL":               {add(true), rpctypes.ErrGRPCMemberBadURLs},
		"add with empty URL":            {add(true, ""), rpctypes.ErrGRPCMemberBadURLs},
		"add what is no URL":            {add(true, "http://%"), rpctypes.ErrGRPCMemberBadURLs},
		"add with another scheme":       {add(true, "ftp://a:1"), rpctypes.ErrGRPCMemberBadURLs},
		"add without port":              {add(true, "http://a"), rpctypes.ErrGRPCMemberBadURLs},
		"add with path":                 {add(true, "http://a:1/"), rpctypes.ErrGRPCMemberBadURLs},
		"add with a member's URL":       {add(true, "http://new:1", "http://localhost:2380"), rpctypes.ErrGRPCPeerURLExist},
		"add a voter with a used URL":   {add(false, "http://learner:1"), rpctypes.ErrGRPCPeerURLExist},
		"add another learner":           {add(true, "http://new:1"), rpctypes.ErrGRPCTooManyLearners},
		"remove nobody":                 {remove(0), rpctypes.ErrGRPCMemberNotFound},
		"remove a stranger":             {remove(77), rpctypes.ErrGRPCMemberNotFound},
		"remove again":                  {remove(gone), rpctypes.ErrGRPCMemberNotFound},
		"remove the last voter":         {remove(self), errNotEnoughStarted},
		"promote a stranger":            {promote(77), rpctypes.ErrGRPCMemberNotFound},
		"promote who was removed":       {promote(gone), rpctypes.ErrGRPCMemberNotFound},
		"promote a voter":               {promote(self), rpctypes.ErrGRPCMemberNotLearner},
		"promote who never started":     {promote(learner), rpctypes.ErrGRPCLearnerNotReady},
		"update a stranger":             {update(77, "http://new:1"), rpctypes.ErrGRPCMemberNotFound},
		"update a stranger to nonsense": {update(77, "foo"), rpctypes.ErrGRPCMemberNotFound},
		"update who was removed":        {update(gone, "http://new:1"), rpctypes.ErrGRPCMemberNotFound},
		"update to another's URL":       {update(learner, "http://localhost:2380"), rpctypes.ErrGRPCPeerURLExist},
		"move to a stranger":            {move(77), rpctypes.ErrGRPCBadLeaderTransferee},
		"move to a learner":             {move(learner), rpctypes.ErrGRPCBadLeaderTransferee},
		"move to the leader":            {move(self), nil},
		// etcd takes these.
		"update to nothing":  {update(self), rpctypes.ErrGRPCMemberBadURLs},
		"update to nonsense": {update(self, "foo"), rpctypes.ErrGRPCMemberBadURLs},
	} {
		if !errors.Is(c.got, c.want) {
			t.Errorf("%s: %v, want %v", name, c.got, c.want)
		}
	}
	if after := listMembers(t, n); !sameMembers(before, after) {
		t.Errorf("members %v, before %v", after, before)
	}
}

func TestAMemberThatWasRemovedCanBeAddedAgainWithinTheSecond(t *testing.T) {
	n := openNode(t, t.TempDir(), func(c *Config) { c.Clock = newTestClock() })
	defer closeNode(t, n)
	ids := map[uint64]bool{}
	for range 3 {
		id := mustAddLearner(t, n, "http://a:1").Member.ID
		if ids[id] {
			t.Fatalf("id %x is given twice", id)
		}
		ids[id] = true
		if _, err := n.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
}

// Raft takes one change at a time and drops others in silence.
func TestChangesOfTheMembershipAtOnceAllGetTheirAnswer(t *testing.T) {
	const learners, rounds = 8, 5
	n := openNode(t, t.TempDir(), func(c *Config) { c.MaxLearners = learners })
	defer closeNode(t, n)
	var wg sync.WaitGroup
	for i := range learners {
		wg.Go(func() {
			for range rounds {
				resp, err := n.MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: []string{fmt.Sprintf("http://m:%d", i)}, IsLearner: true})
				if err != nil {
					t.Errorf("add: %v", err)
					return
				}
				if _, err := n.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: resp.Member.ID}); err != nil {
					t.Errorf("remove: %v", err)
				}
			}
		})
		wg.Go(func() {
			for range rounds {
				if _, err := tryPut(t, n, &pb.PutRequest{Key: []byte("k")}); err != nil {
					t.Errorf("put: %v", err)
				}
			}
		})
	}
	wg.Wait()
	if left := listMembers(t, n); len(left) != 1 {
		t.Errorf("members left: %v", left)
	}
}

func TestOfLearnersAddedAtOnceNoMoreArePermittedThanConfigured(t *testing.T) {
	const most, callers = 2, 8
	n := openNode(t, t.TempDir(), func(c *Config) { c.MaxLearners = most })
	defer closeNode(t, n)
	errs := make([]error, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			_, errs[i] = n.MemberAdd(t.Context(), &pb.MemberAddRequest{PeerURLs: []string{fmt.Sprintf("http://m:%d", i)}, IsLearner: true})
		})
	}
	wg.Wait()
	added := 0
	for _, err := range errs {
		switch {
		case err == nil:
			added++
		case !errors.Is(err, rpctypes.ErrGRPCTooManyLearners):
			t.Error(err)
		}
	}
	if added != most {
		t.Errorf("%d learners were added", added)
	}
}

func TestAChangeOfTheMembershipEndsWithItsCaller(t *testing.T) {
	n := openNode(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	add := func(ctx context.Context, url string) error {
		_, err := n.MemberAdd(ctx, &pb.MemberAddRequest{PeerURLs: []string{url}, IsLearner: true})
		return err
	}
	if err := add(ctx, "http://a:1"); err != nil && !errors.Is(err, rpctypes.ErrGRPCCanceled) { // it may have been quicker
		t.Errorf("after its caller: %v", err)
	}
	closeNode(t, n)
	if err := add(t.Context(), "http://b:1"); !errors.Is(err, rpctypes.ErrGRPCStopped) {
		t.Errorf("after the end: %v", err)
	}
}

func TestALearnerThatNeverStartsHoldsNothingUp(t *testing.T) {
	dir := t.TempDir()
	var logged strings.Builder
	const tick = 5 * time.Millisecond
	quick := func(c *Config) {
		c.HeartbeatInterval, c.ElectionTimeout, c.SnapshotCount, c.SnapshotCatchUpEntries = tick, 10*tick, 20, 10
		c.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelWarn}))
		c.WarnApply = time.Hour
	}
	n := openNode(t, dir, quick)
	mustAddLearner(t, n, "http://127.0.0.1:1")
	term := n.term.Load()
	writes := 0
	for start := time.Now(); time.Since(start) < 10*n.cfg.ElectionTimeout; writes++ {
		mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
		mustRange(t, n, &wire.RangeRequest{Key: []byte("k")})
	}
	if n.term.Load() != term {
		t.Errorf("an election was held in term %d", term)
	}
	waitCut(t, n, uint64(writes)-n.cfg.SnapshotCount-n.cfg.SnapshotCatchUpEntries)
	closeNode(t, n)
	n = openNode(t, dir, quick)
	mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
	closeNode(t, n)
	for line := range strings.Lines(logged.String()) {
		if !strings.Contains(line, "no connection to a peer") {
			t.Error("logged: " + line)
		}
	}
}

func TestASlowApplyIsLogged(t *testing.T) {
	var logged strings.Builder
	n := openNode(t, t.TempDir(), func(c *Config) {
		c.WarnApply = 1
		c.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelWarn}))
	})
	closeNode(t, n)
	if !strings.Contains(logged.String(), "apply request took too long") {
		t.Errorf("logged:\n%s", logged.String())
	}
}

// Voters cannot be added yet but by what is in the log.
func TestVotersAreAddedPromotedAndRemoved(t *testing.T) {
	n := openNode(t, t.TempDir())
	store, id := n.store, n.member.ID
	m, err := loadMembers(store)
	if err != nil {
		t.Fatal(err)
	}
	closeNode(t, n)
	if store, err = mvcc.Open(filepath.Join(t.TempDir(), "db"), mvcc.Options{NoSync: true}); err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	for _, c := range []confChange{
		{Type: raftpb.ConfChangeAddLearnerNode, Member: memberRecord{ID: 1, IsLearner: true, PeerURLs: []string{"http://a:1"}}, MaxLearners: 1},
		{Type: raftpb.ConfChangeAddNode, Member: memberRecord{ID: 1}, Promote: true},
		{Type: raftpb.ConfChangeAddNode, Member: memberRecord{ID: 2, PeerURLs: []string{"http://b:1"}}},
		{Type: raftpb.ConfChangeRemoveNode, Member: memberRecord{ID: id}},
		{Type: raftpb.ConfChangeRemoveNode, Member: memberRecord{ID: 2}},
	} {
		if err := m.check(c); err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
		tx := store.Begin(0, 0)
		err := m.apply(tx, c)
		tx.End()
		if err != nil {
			t.Fatalf("%+v: %v", c, err)
		}
	}
	want := []*pb.Member{{ID: 1, PeerURLs: []string{"http://a:1"}}}
	if got := m.list(); !sameMembers(got, want) {
		t.Errorf("members %v", got)
	}
	loaded, err := loadMembers(store)
	if err != nil || !sameMembers(loaded.list(), want) || !loaded.known(2) || !loaded.known(id) {
		t.Errorf("stored %v, removed %v, %v", loaded.list(), loaded.removed, err)
	}
}

// What a change becomes does not depend on who asked: the second check is for changes that met in the log.
func TestAppliedChangesAreCheckedAgain(t *testing.T) {
	n := openNode(t, t.TempDir())
	defer closeNode(t, n)
	learner := mustAddLearner(t, n, "http://a:1").Member.ID
	for name, c := range map[string]struct {
		change confChange
		want   error
	}{
		"an id twice":    {confChange{Type: raftpb.ConfChangeAddLearnerNode, Member: memberRecord{ID: learner, IsLearner: true}, MaxLearners: 9}, rpctypes.ErrGRPCMemberExist},
		"a URL twice":    {confChange{Type: raftpb.ConfChangeAddLearnerNode, Member: memberRecord{ID: 5, IsLearner: true, PeerURLs: []string{"http://a:1"}}, MaxLearners: 9}, rpctypes.ErrGRPCPeerURLExist},
		"many learners":  {confChange{Type: raftpb.ConfChangeAddLearnerNode, Member: memberRecord{ID: 5, IsLearner: true}, MaxLearners: 1}, rpctypes.ErrGRPCTooManyLearners},
		"nobody removed": {confChange{Type: raftpb.ConfChangeRemoveNode, Member: memberRecord{ID: 5}}, rpctypes.ErrGRPCMemberNotFound},
		"no voter left":  {confChange{Type: raftpb.ConfChangeRemoveNode, Member: memberRecord{ID: n.member.ID}}, errNotEnoughStarted},
	} {
		if err := n.reconfigure(t.Context(), c.change); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if got := listMembers(t, n); len(got) != 2 {
		t.Errorf("members %v", got)
	}
}
