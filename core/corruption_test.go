package core

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"weir/core/mvcc"
	"weir/grpcapi/wire"
)

func TestWhoDiffersFromAMajorityIsInTheMinority(t *testing.T) {
	for _, c := range []struct {
		claims  map[uint64]string
		members int
		want    []uint64
	}{
		{map[uint64]string{1: "a"}, 1, nil},
		{map[uint64]string{1: "a", 2: "a", 3: "a"}, 3, nil},
		{map[uint64]string{1: "a", 2: "a"}, 5, nil}, // nobody differs, though it is not known of most
		{map[uint64]string{1: "a", 2: "b", 3: "a"}, 3, []uint64{2}},
		{map[uint64]string{1: "b", 2: "a", 3: "a"}, 3, []uint64{1}},
		{map[uint64]string{1: "a", 2: "b"}, 2, []uint64{0}},
		{map[uint64]string{1: "a", 2: "b"}, 3, []uint64{0}},
		{map[uint64]string{1: "a", 2: "b", 3: "c"}, 3, []uint64{0}},
		{map[uint64]string{1: "a", 2: "a", 3: "b", 4: "b"}, 4, []uint64{0}},
		{map[uint64]string{5: "c", 4: "b", 3: "a", 2: "a", 1: "a"}, 5, []uint64{4, 5}},
		{map[uint64]string{1: "a", 2: "a", 3: "b"}, 5, []uint64{0}},
	} {
		if got := minority(c.claims, c.members); !slices.Equal(got, c.want) {
			t.Errorf("of %d members %v: %v, want %v", c.members, c.claims, got, c.want)
		}
	}
}

func TestOnlyHashesOfTheSameKindAreClaims(t *testing.T) {
	n := &Node{member: member{ID: 1}, logger: slog.New(slog.DiscardHandler)}
	own := mvcc.KVHash{Hash: 10, Compact: 5, Revision: 9}
	others := []testimony[hashAnswer]{
		{member: 2, told: hashAnswer{own, 9}},
		{member: 3, told: hashAnswer{mvcc.KVHash{Hash: 11, Compact: 5, Revision: 9}, 9}},
		{member: 4, told: hashAnswer{mvcc.KVHash{Hash: 12, Compact: 4, Revision: 9}, 9}},
		{member: 5, told: hashAnswer{mvcc.KVHash{Hash: 13, Compact: 5, Revision: 8}, 9}},
		{member: 6, err: rpctypes.ErrGRPCCompacted},
		{member: 7, told: hashAnswer{own, 12}},
	}
	got := n.claimsOf(own, others, func(a hashAnswer) bool { return a.Revision > 11 })
	want := map[uint64]claim{1: {hash: 10}, 2: {hash: 10}, 3: {hash: 11}, 7: {ahead: true}}
	if !maps.Equal(got, want) {
		t.Errorf("got %s, want %s", describe(got), describe(want))
	}
}

// alter stops a member and changes a bit of the newest value in its file.
func (c *testCluster) alter(i int) {
	c.Helper()
	if err := c.members[i].node.linearizable(c.Context()); err != nil { // it may not have heard of it yet
		c.Fatal(err)
	}
	c.stop(i)
	db, err := bolt.Open(filepath.Join(c.dir, c.members[i].name, "member", "store.db"), 0o600, &bolt.Options{Timeout: 10 * time.Second})
	if err != nil {
		c.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		bucket := tx.Bucket([]byte("key"))
		k, v := bucket.Cursor().Last()
		altered := slices.Clone(v)
		altered[len(altered)-1] ^= 1 // the value comes last
		return bucket.Put(k, altered)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		c.Fatalf("alter %s: %v", c.members[i].name, err)
	}
}

func (c *testCluster) startAgain(i int) {
	c.Helper()
	c.start(i)
	c.waitReady(i)
}

// moveLeader has a member lead.
func (c *testCluster) moveLeader(to int) {
	c.Helper()
	for from := c.leader(); from != to; from = c.leader() {
		_, err := c.members[from].node.MoveLeader(c.Context(), &pb.MoveLeaderRequest{TargetID: c.members[to].node.member.ID})
		if err != nil && !errors.Is(err, rpctypes.ErrGRPCNotLeader) {
			c.Fatalf("have %s lead: %v", c.members[to].name, err)
		}
	}
}

// compareStores has the leader make a periodic check.
func (c *testCluster) compareStores() {
	c.Helper()
	if err := c.members[c.leader()].node.compareStores(c.Context()); err != nil {
		c.Errorf("compare what the members hold: %v", err)
	}
}

// wantCorrupt compares the members that have a CORRUPT alarm, as all that are up see it.
func (c *testCluster) wantCorrupt(want ...uint64) {
	c.Helper()
	for _, i := range c.up() {
		n := c.members[i].node
		resp, err := n.Alarm(c.Context(), &pb.AlarmRequest{Action: pb.AlarmRequest_GET, Alarm: pb.AlarmType_CORRUPT})
		if err != nil {
			c.Fatal(err)
		}
		var got []uint64
		for _, a := range resp.Alarms {
			got = append(got, a.MemberID)
		}
		if !slices.Equal(got, want) {
			c.Errorf("%s takes %x for corrupt, want %x", c.members[i].name, got, want)
		}
	}
}

// As at etcd reads go on.
func (c *testCluster) wantNoWrites() {
	c.Helper()
	for _, i := range c.up() {
		n := c.members[i].node
		if _, err := tryPut(c.T, n, &pb.PutRequest{Key: []byte("more")}); !errors.Is(err, rpctypes.ErrGRPCCorrupt) {
			c.Errorf("%s answered a put with %v", c.members[i].name, err)
		}
		mustRange(c.T, n, &wire.RangeRequest{Key: []byte("more")})
	}
}

// compact compacts to the newest revision, and waits until all that are up have.
func (c *testCluster) compact() {
	c.Helper()
	leader := c.members[c.leader()].node
	if err := leader.linearizable(c.Context()); err != nil { // others may have applied more
		c.Fatal(err)
	}
	revision := leader.store.Revision()
	for _, i := range c.up() {
		_, err := c.members[i].node.Compact(c.Context(), &pb.CompactionRequest{Revision: revision, Physical: true})
		if err != nil && !errors.Is(err, rpctypes.ErrGRPCCompacted) {
			c.Fatalf("compact: %v", err)
		}
	}
}

func TestWhoeverHoldsSomethingElseIsFoundCorrupt(t *testing.T) {
	for name, leads := range map[string]bool{"a follower": false, "the leader": true} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 3)
			c.put(0, "k", "v")
			c.compareStores()
			c.wantCorrupt()

			bad := (c.leader() + 1) % 3
			c.alter(bad)
			c.startAgain(bad)
			if leads {
				c.moveLeader(bad)
			}
			corrupt := c.members[bad].node.member.ID
			c.compareStores()
			c.wantCorrupt(corrupt)
			c.wantNoWrites()
			c.compareStores() // again
			c.wantCorrupt(corrupt)

			_, err := c.members[0].node.Alarm(t.Context(), &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: corrupt, Alarm: pb.AlarmType_CORRUPT})
			if err != nil {
				t.Fatal(err)
			}
			c.put(0, "k", "w")
		})
	}
}

// Of two members that differ nobody can tell which is right.
func TestNobodyIsNamedWithoutAMajority(t *testing.T) {
	c := newCluster(t, 2)
	c.put(0, "k", "v")
	c.alter(1)
	c.startAgain(1)
	c.compareStores()
	c.wantCorrupt(0)
	c.wantNoWrites()
}

// What differs may be gone already: what compactions have seen is enough.
func TestCompactionsFindWhoHeldSomethingElse(t *testing.T) {
	c := newCluster(t, 3)
	bad := (c.leader() + 1) % 3
	check := func() (checked int64) {
		leader := compactionCheck{n: c.members[c.leader()].node}
		if err := leader.compare(t.Context()); err != nil {
			t.Fatal(err)
		}
		return leader.checked
	}
	c.put(0, "k", "1")
	c.compact()
	revision := c.members[0].node.store.Revision()
	if got := check(); got != revision {
		t.Errorf("checked %d, want %d", got, revision)
	}
	c.put(0, "k", "2")
	c.alter(bad)
	c.startAgain(bad)
	if got := check(); got != 0 {
		t.Errorf("checked %d, of which a member has no hash any more", got)
	}
	c.put(0, "k", "3")
	c.compact()
	c.wantCorrupt()
	check()
	c.wantCorrupt(c.members[bad].node.member.ID)
	c.wantNoWrites()
}

// Checks are made while members write and compact, and are not all at the same revision.
func TestMembersUnderLoadAreNotTakenForCorrupt(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.CompactionBatch, cfg.CompactionSleep = 5, time.Millisecond })
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for i, m := range c.members {
		wg.Go(func() {
			for v := 0; ctx.Err() == nil; v++ {
				var err error
				switch key := fmt.Sprintf("k%d", v%7); {
				case v%5 == 4:
					_, err = tryTxn(t, m.node, &pb.TxnRequest{Success: []*pb.RequestOp{deleteOp(key, false)}})
				case v%50 == 10*i:
					_, err = m.node.Compact(ctx, &pb.CompactionRequest{Revision: m.node.store.Revision()})
				default:
					_, err = tryPut(t, m.node, &pb.PutRequest{Key: []byte(key), Value: fmt.Append(nil, i, v)})
				}
				if errors.Is(err, rpctypes.ErrGRPCCorrupt) {
					t.Error(err)
					return
				}
			}
		})
	}
	compactions := compactionCheck{n: c.members[c.leader()].node}
	for range 50 {
		c.compareStores()
		if err := compactions.compare(ctx); err != nil {
			t.Error(err)
		}
	}
	cancel()
	wg.Wait()
	c.wantCorrupt()
	if compactions.checked == 0 {
		t.Error("no compaction was checked")
	}
}

func TestAMemberThatHoldsSomethingElseDoesNotBecomeReady(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.InitialCorruptCheck = true })
	c.put(0, "k", "v")
	bad := (c.leader() + 1) % 3
	c.alter(bad)
	c.start(bad)
	err := c.members[bad].node.WaitReady(t.Context())
	for _, part := range []string{idString(c.members[bad].node.member.ID) + " found data inconsistency with peers", "remove the member"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("got %v, want %q", err, part)
		}
	}
	// One that agrees with a majority becomes ready, though that one runs.
	good := (bad + 1) % 3
	c.stop(good)
	c.startAgain(good)
	// Whether it does when it differs from the only one that it reaches nobody can tell.
	c.stop(good)
	c.stop((good + 1) % 3)
	c.start(good)
	if err := c.members[good].node.WaitReady(t.Context()); err == nil || !strings.Contains(err.Error(), "found data inconsistency") {
		t.Errorf("got %v", err)
	}
	c.wantCorrupt()
}

func TestMembersThatCannotBeAskedKeepNobodyFromBecomingReady(t *testing.T) {
	c := newCluster(t, 3, func(cfg *Config) { cfg.InitialCorruptCheck = true })
	c.put(0, "k", "v")
	c.stop(0)
	c.stop(1)
	c.startAgain(1)
	c.wantAll("k", "v")
}

// What is compacted has a hash already, but of before the compaction.
func TestMembersThatHaveJustCompactedAreCompared(t *testing.T) {
	c := newCluster(t, 3)
	c.put(0, "k", "v")
	bad := (c.leader() + 1) % 3
	c.alter(bad)
	c.startAgain(bad)
	c.compact()
	c.compareStores()
	c.wantCorrupt(c.members[bad].node.member.ID)
}

func TestChecksAreMadeAtTheirIntervals(t *testing.T) {
	for name, interval := range map[string]func(*Config){
		"of stores":      func(cfg *Config) { cfg.CorruptCheckInterval = time.Hour },
		"of compactions": func(cfg *Config) { cfg.CompactHashCheckInterval = time.Hour },
	} {
		t.Run(name, func(t *testing.T) {
			clock := newTestClock()
			c := newCluster(t, 3, interval, func(cfg *Config) { cfg.Clock = clock })
			c.put(0, "k", "1")
			bad := (c.leader() + 1) % 3
			c.alter(bad)
			c.startAgain(bad)
			c.compact()
			clock.advance(time.Hour - time.Second)
			c.wantCorrupt()
			corrupt, alarms := c.members[bad].node.member.ID, c.members[bad].node.alarms
			// Whoever has looked at the clock after it moved waits for an hour from then on.
			for len(alarms.list(pb.AlarmType_CORRUPT)) == 0 && t.Context().Err() == nil {
				clock.advance(time.Hour)
				mustRange(t, c.members[c.leader()].node, &wire.RangeRequest{Key: []byte("k")})
			}
			c.wantCorrupt(corrupt)
		})
	}
}

func TestAHashIsGivenToOtherMembersAsSoonAsItsRevisionIsThere(t *testing.T) {
	c := newCluster(t, 3)
	for v := range 20 {
		by := c.members[v%3].node
		put := mustPut(t, by, &pb.PutRequest{Key: []byte("k"), Value: fmt.Append(nil, v)})
		others, err := askOthers[hashAnswer](t.Context(), by, callHash, hashRequest{put.Header.Revision}, time.Minute)
		if err != nil || len(others) != 2 {
			t.Fatalf("%v, %v", others, err)
		}
		own, _, err := by.store.ComputeHash(t.Context(), put.Header.Revision)
		for _, o := range others {
			if err != nil || o.err != nil || o.told != (hashAnswer{own, put.Header.Revision}) {
				t.Errorf("%v, %v, %v, want %v", o, o.err, err, own)
			}
		}
	}
	others, _ := askOthers[hashAnswer](t.Context(), c.members[0].node, callHash, hashRequest{1 << 40}, time.Minute)
	for _, o := range others {
		if !errors.Is(o.err, rpctypes.ErrGRPCFutureRev) {
			t.Errorf("of a revision to come: %v", o.err)
		}
	}
}
