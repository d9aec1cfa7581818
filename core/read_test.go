package core

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

func passed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestReadJoinsOnlyACheckNotYetSent(t *testing.T) {
	g := newReadGate(0)
	early := g.join()
	ctx := g.take()
	late := g.join()
	g.confirm(ctx, 0)
	if !passed(early) {
		t.Fatal("the read that the check was sent for still waits")
	}
	if passed(late) {
		t.Fatal("a read passed on a check that was sent before it came")
	}
	g.confirm(g.take(), 0)
	if !passed(late) {
		t.Fatal("the later read still waits")
	}
}

func TestReadWaitsUntilTheStoreHasReachedTheIndex(t *testing.T) {
	g := newReadGate(4)
	c := g.join()
	g.confirm(g.take(), 7)
	for index := uint64(5); index < 7; index++ {
		if g.reached(index); passed(c) {
			t.Fatalf("passed at index %d, the check said 7", index)
		}
	}
	if g.reached(7); !passed(c) {
		t.Fatal("still waits at index 7")
	}
}

func TestCheckWithoutAnAnswerIsSentAgain(t *testing.T) {
	g := newReadGate(0)
	c := g.join()
	ctx := g.take()
	for range retryTicks - 1 {
		if again := g.tick(); again != nil {
			t.Fatal("sent again too early")
		}
	}
	again := g.tick()
	if len(again) != 1 || string(again[0]) != string(ctx) {
		t.Fatalf("sent again: %v", again)
	}
	g.confirm(again[0], 0)
	g.confirm(ctx, 0) // both answers arrive
	if !passed(c) {
		t.Fatal("still waits")
	}
}

func TestOnlyAMemberThatHasBeenAloneInItsWholeTenureReadsWithoutACheck(t *testing.T) {
	dir := t.TempDir()
	n := openNode(t, dir)
	mustPut(t, n, &pb.PutRequest{Key: []byte("k")}) // so that the tenure has begun
	checks := func() uint64 {
		n.reads.mu.Lock()
		defer n.reads.mu.Unlock()
		return n.reads.lastID
	}
	wantCheck := func(when string, want bool) {
		t.Helper()
		before := checks()
		if err := n.linearizable(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := checks() > before; got != want {
			t.Errorf("%s: a read asks raft: %v", when, got)
		}
	}
	wantCheck("alone", false)
	added := mustAddLearner(t, n, "http://a:1").Member
	wantCheck("with another member", true)
	if _, err := n.MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: added.ID}); err != nil {
		t.Fatal(err)
	}
	wantCheck("left alone", true)
	closeNode(t, n)
	n = openNode(t, dir)
	mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
	wantCheck("in the next tenure", false)
	closeNode(t, n)
}
