package core

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/core/auth"
)

// kindOfLevel2 is one that weirs before level 2 do not know: another name for a transaction.
const kindOfLevel2 kind = 61

func init() {
	kinds[kindOfLevel2] = kindInfo{"of-level-2", func() proto.Message { return new(pb.TxnRequest) }, 2}
}

// levels says which level each member knows, by name; 1 if it does not say. Members ask each other all the time, unless idle is set.
type levels struct {
	of   map[string]int
	idle bool
}

func (l *levels) apply(cfg *Config) {
	cfg.level, cfg.levelInterval = max(l.of[cfg.Name], 1), 10*time.Millisecond
	if l.idle {
		cfg.levelInterval = time.Hour
	}
}

// newMixed starts a cluster of members that know these levels.
func newMixed(t *testing.T, idle bool, known ...int) (*testCluster, *levels) {
	t.Helper()
	l := &levels{map[string]int{}, idle}
	for i, level := range known {
		l.of[fmt.Sprintf("m%d", i)] = level
	}
	return newCluster(t, len(known), settled, l.apply), l
}

// upgrade stops a member and starts a weir of level 2 with its data.
func (c *testCluster) upgrade(i int, l *levels) {
	c.Helper()
	c.stop(i)
	l.of[c.members[i].name] = 2
	c.start(i)
	c.waitReady(i)
}

// raise has whoever leads ask the others, and returns what is agreed on then.
func (c *testCluster) raise() (level int, err error) {
	c.Helper()
	c.connected()
	for {
		leader := c.members[c.leader()].node
		if _, err := leader.awaitTenure(c.Context()); err != nil {
			continue
		}
		if level, err = leader.raiseLevel(c.Context()); leader.tenure.ofTerm() != 0 {
			return level, err
		}
	}
}

// force puts a level into the log, as if all members had said that they know it.
func (c *testCluster) force(level int) {
	c.Helper()
	c.try(fmt.Sprintf("raise the level to %d", level), func() error {
		leader := c.members[c.leader()].node
		term, err := leader.awaitTenure(c.Context())
		if err != nil {
			return err
		}
		r := &levelRaise{Level: level}
		for _, m := range leader.members.records() {
			r.Members = append(r.Members, m.ID)
		}
		return leader.proposeLevel(c.Context(), r, term)
	})
}

// wantLevel waits until all members that are up have a level.
func (c *testCluster) wantLevel(level int) {
	c.Helper()
	for _, i := range c.up() {
		c.until(fmt.Sprintf("%s has level %d", c.members[i].name, level), func() bool { return c.members[i].node.agreement.level() == level })
	}
}

// putNew writes what only level 2 can.
func (c *testCluster) putNew(by int, key, value string) error {
	c.Helper()
	txn := &pb.TxnRequest{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{
		RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte(value)},
	}}}}
	_, err := c.members[by].node.proposeAs(c.Context(), kindOfLevel2, auth.Identity{}, txn)
	return err
}

func wantOneLine(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one with %q", parts)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q, want %q in it", err, part)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("it has several lines: %q", err)
	}
}

func TestInARollingUpgradeNothingNewIsWrittenBeforeTheLastMemberKnowsIt(t *testing.T) {
	c, l := newMixed(t, false, 1, 1, 1)
	c.put(0, "k", "0")
	for i := range 2 {
		c.upgrade(i, l)
		c.put(i, "k", fmt.Sprint(i))
		if level, err := c.raise(); level != 1 {
			t.Fatalf("level %d is agreed on when %d of 3 know it, %v", level, i+1, err)
		}
		if err := c.putNew(i, "new", "1"); status.Code(err) != codes.FailedPrecondition {
			t.Fatalf("what the others do not know: %v", err)
		}
	}
	c.upgrade(2, l)
	c.wantLevel(2)
	for i := range c.members {
		c.try("write what is new", func() error { return c.putNew(i, "new", "2") })
	}
	c.wantAll("new", "2")
	c.wantSame()
}

func TestTheLeaderSaysWhoHoldsTheUpgradeUp(t *testing.T) {
	c, l := newMixed(t, true, 3, 3, 1)
	leads := c.leader()
	for leads == 2 { // who knows nothing newer does not ask
		other := c.members[0].node.member.ID
		if _, err := c.members[2].node.MoveLeader(t.Context(), &pb.MoveLeaderRequest{TargetID: other}); err != nil {
			t.Logf("move the leadership: %v", err)
		}
		leads = c.leader()
	}
	last := idString(c.members[2].node.member.ID)
	level, err := c.raise()
	wantOneLine(t, err, last+" knows levels up to 1")
	c.stop(2)
	_, err = c.raise()
	wantOneLine(t, err, last+" does not tell its level")
	if level != 1 {
		t.Errorf("level %d is agreed on", level)
	}
	// Not all know the highest, but all know a higher one.
	l.of["m2"] = 2
	c.start(2)
	c.waitReady(2)
	c.until("level 2 is agreed on", func() bool {
		level, err = c.raise()
		return level == 2
	})
	wantOneLine(t, err, last+" knows levels up to 2")
	c.wantLevel(2)
}

func TestTheLevelIsNeverLoweredAndOutlivesLeadersAndRestarts(t *testing.T) {
	c, l := newMixed(t, false, 2, 2, 2)
	c.wantLevel(2)
	if err := c.putNew(0, "k", "0"); err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		c.upgrade(c.leader(), l)
		c.wantLevel(2)
		c.try("write what is new", func() error { return c.putNew(round, "k", fmt.Sprint(round)) })
	}
	c.restartAll()
	c.wantLevel(2)
	c.wantAll("k", "2")
	// What an older leader may have put into the log after it was overtaken lowers nothing.
	c.force(1)
	c.wantLevel(2)
	c.wantSame()
}

func TestAWeirOlderThanWhatIsAgreedOnDoesNotStart(t *testing.T) {
	c, l := newMixed(t, false, 2, 2, 2)
	c.wantLevel(2)
	old := (c.leader() + 1) % 3
	c.stop(old)
	l.of[c.members[old].name] = 1
	node, err := Open(c.config(old))
	if err == nil {
		closeNode(t, node)
	}
	wantOneLine(t, err, "agreed on level 2", "up to 1", "start the newer weir")
	c.put(c.up()[0], "k", "v")
	c.upgrade(old, l)
	c.wantAll("k", "v")
}

// It was asked when it was newer, and has been put back before it heard what was agreed on.
func TestAWeirOlderThanWhatTheLogAgreesOnEndsAndLosesNothing(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"by an entry":   func(*Config) {},
		"by a snapshot": func(cfg *Config) { cfg.SnapshotCount, cfg.SnapshotCatchUpEntries = 20, 10 },
	} {
		t.Run(name, func(t *testing.T) {
			l := &levels{map[string]int{"m0": 2, "m1": 2, "m2": 2}, true}
			c := newCluster(t, 3, settled, l.apply, change)
			c.put(0, "k", "before")
			old := (c.leader() + 1) % 3
			c.stop(old)
			l.of[c.members[old].name] = 1
			c.force(2)
			by := c.up()[0]
			for i := range 100 {
				c.put(by, "k", fmt.Sprint(i))
			}
			if name == "by a snapshot" {
				waitCut(t, c.members[c.leader()].node, 50)
			}
			for range 2 {
				node := c.start(old)
				<-node.Failed()
				wantOneLine(t, node.Err(), "agreed on level 2", "up to 1")
				c.members[old].server.Stop()
				c.members[old].node = nil
				if err := node.Close(); err != nil { // it has an entry that it could not apply
					wantOneLine(t, err, "agreed on level 2")
				}
			}
			c.put(by, "k", "after")
			c.upgrade(old, l)
			c.wantAll("k", "after")
			c.wantLevel(2)
			c.wantSame()
		})
	}
}

func TestWhoJoinsKnowsWhatIsAgreedOn(t *testing.T) {
	c, l := newMixed(t, false, 2)
	c.wantLevel(2)
	if err := c.putNew(0, "k", "v"); err != nil {
		t.Fatal(err)
	}
	joins := c.add(0, true)
	node, err := Open(c.config(joins))
	if err == nil {
		closeNode(t, node)
	}
	wantOneLine(t, err, "join cluster", "agreed on level 2", "up to 1")
	if _, err := os.Stat(filepath.Join(c.dir, c.members[joins].name, "member", "wal")); err == nil {
		t.Error("it has a log")
	}
	l.of[c.members[joins].name] = 3
	c.start(joins)
	c.waitReady(joins)
	c.wantLevel(2)
	c.wantAll("k", "v")
}

func TestAMemberThatHasNotStartedHoldsTheLevel(t *testing.T) {
	c, l := newMixed(t, true, 2)
	joins := c.add(0, true)
	level, err := c.members[0].node.raiseLevel(t.Context())
	if level != 1 {
		t.Errorf("level %d is agreed on", level)
	}
	wantOneLine(t, err, "does not tell its level")
	// It was added after the leader had asked: the raise comes too late.
	leader := c.members[0].node
	err = leader.proposeLevel(t.Context(), &levelRaise{Level: 2, Members: []uint64{leader.member.ID}}, leader.tenure.ofTerm())
	if !errors.Is(err, errNotAsked) {
		t.Errorf("a raise without it: %v", err)
	}
	l.of[c.members[joins].name] = 1
	c.start(joins)
	c.waitReady(joins)
	c.wantLevel(1)
	c.upgrade(joins, l)
	c.until("level 2 is agreed on", func() bool {
		level, err = c.raise()
		return level == 2 && err == nil
	})
	c.wantLevel(2)
}

func TestASnapshotIsRestoredByAWeirThatKnowsItsLevel(t *testing.T) {
	n := openNode(t, t.TempDir(), func(cfg *Config) { cfg.level, cfg.levelInterval = 2, time.Millisecond })
	c := &testCluster{T: t, members: []*testMember{{name: "m0", node: n}}}
	c.wantLevel(2)
	if err := n.store.Commit(); err != nil {
		t.Fatal(err)
	}
	saved := saveSnapshot(t, n)
	closeNode(t, n)
	for level, want := range map[int]string{1: "agreed on level 2", 2: ""} {
		cfg := Config{DataDir: filepath.Join(t.TempDir(), "data"), level: level}
		err := Restore(t.Context(), cfg, saved)
		if want != "" {
			wantOneLine(t, err, want)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		n := openNode(t, cfg.DataDir, func(cfg *Config) { cfg.level = level })
		if got := n.agreement.level(); got != 2 {
			t.Errorf("the restored cluster has level %d", got)
		}
		closeNode(t, n)
	}
}

func TestAMemberTellsItsLevels(t *testing.T) {
	n := openNode(t, t.TempDir(), func(cfg *Config) { cfg.level, cfg.levelInterval = 2, time.Hour })
	defer closeNode(t, n)
	expectMetrics(t, n, map[string]float64{"weir_level": 1, "weir_level_newest": 2})
	if level, err := n.raiseLevel(t.Context()); level != 2 || err != nil {
		t.Fatalf("level %d, %v", level, err)
	}
	expectMetrics(t, n, map[string]float64{"weir_level": 2, "weir_level_newest": 2})
}

func TestTheLeaderLogsWhatHoldsTheLevelOnce(t *testing.T) {
	logged := new(lockedBuilder)
	n := openNode(t, t.TempDir(), func(cfg *Config) {
		cfg.level, cfg.levelInterval = 2, time.Millisecond
		cfg.Logger = slog.New(slog.NewTextHandler(logged, nil))
	})
	defer closeNode(t, n)
	c := &testCluster{T: t, members: []*testMember{{name: "m0", node: n}}}
	c.wantLevel(2)
	c.until("it is logged", func() bool { return strings.Contains(logged.String(), "raised the level") })
	if strings.Count(logged.String(), "raised the level") != 1 {
		t.Errorf("logged:\n%s", logged)
	}
}
