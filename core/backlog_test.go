package core

import (
	"errors"
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/raft/v3/raftpb"
)

func TestABacklogIsBoundedInBytesAndTime(t *testing.T) {
	const patience = time.Second
	begun := time.Unix(1000, 0)
	after := func(d time.Duration) time.Time { return begun.Add(d) }
	large := &raftpb.Entry{Data: make([]byte, maxBacklogBytes)}
	small := &raftpb.Entry{Data: []byte("x")}
	for _, one := range []struct {
		name string
		is   func(b *backlog)
		at   time.Time
		want bool
	}{
		{"nothing waits", func(*backlog) {}, after(time.Hour), false},
		{"as much as may", func(b *backlog) { b.add(begun, []*raftpb.Entry{large}) }, begun, false},
		{"too much", func(b *backlog) { b.add(begun, []*raftpb.Entry{large, small}) }, begun, true},
		{"too much, of which a part is applied", func(b *backlog) {
			b.add(begun, []*raftpb.Entry{small, large})
			b.applied(small)
		}, begun, false},
		{"something waits for as long as it may", func(b *backlog) { b.add(begun, nil) }, after(patience), false},
		{"something waits for too long", func(b *backlog) { b.add(begun, nil) }, after(patience + 1), true},
		{"the oldest is done", func(b *backlog) {
			b.add(begun, nil)
			b.add(after(patience), nil)
			b.done()
		}, after(2 * patience), false},
		{"the next one waits for too long", func(b *backlog) {
			b.add(begun, nil)
			b.add(after(patience), nil)
			b.done()
		}, after(2*patience + 1), true},
		{"all is done", func(b *backlog) {
			b.add(begun, []*raftpb.Entry{large, small})
			b.applied(large)
			b.applied(small)
			b.done()
		}, after(time.Hour), false},
	} {
		var b backlog
		one.is(&b)
		if got := b.isTooLong(one.at, patience); got != one.want {
			t.Errorf("%s: too long is %v", one.name, got)
		}
	}
}

// A member whose applier is held up refuses writes, and takes them again when it has caught up; the others are not concerned.
func TestAMemberThatLagsInApplyingTakesNoWrites(t *testing.T) {
	c := newCluster(t, 3)
	leader := c.leader()
	lagging := (leader + 1) % 3
	node := c.members[lagging].node
	hold := node.store.Begin(0, 0) // its applier stands still at the next entry
	value := string(make([]byte, 1<<20))
	for i := range maxBacklogBytes>>20 + 2 {
		c.put(leader, fmt.Sprintf("k%d", i), value)
	}
	last := c.members[leader].node.applied.Load()
	c.until("the member that lags knows what is committed", func() bool { return node.committed.Load() >= last })
	_, err := tryPut(t, node, &pb.PutRequest{Key: []byte("k"), Value: []byte("refused")})
	if !errors.Is(err, rpctypes.ErrGRPCRequestTooManyRequests) {
		t.Errorf("a write at the member that lags: %v", err)
	}
	c.put(leader, "k", "taken")
	hold.End()
	c.until("the member has caught up", func() bool { return node.backlog.bytes.Load() == 0 })
	c.wantAll("k", "taken")
	c.put(lagging, "k", "taken too")
	c.wantSame()
}
