package core

import (
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/core/consensus"
	"weir/core/wal"
	"weir/grpcapi/wire"
)

// stallFS is a disk whose syncs of files stand still while a test wants that.
type stallFS struct {
	wal.FS
	syncing func()     // is called at each sync; may be nil
	mu      sync.Mutex // guards all below
	stalled chan struct{}
	waiting bool
}

func (f *stallFS) stall() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stalled = make(chan struct{})
}

// goOn ends what stall has begun, once.
func (f *stallFS) goOn() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stalled != nil {
		close(f.stalled)
		f.stalled, f.waiting = nil, false
	}
}

func (f *stallFS) wait() {
	f.mu.Lock()
	stalled := f.stalled
	f.waiting = stalled != nil
	f.mu.Unlock()
	if stalled != nil {
		<-stalled
	}
}

// isWaitedFor tells whether somebody waits until the disk goes on.
func (f *stallFS) isWaitedFor() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.waiting
}

func (f *stallFS) Create(path string) (wal.File, error) { return f.wrap(f.FS.Create(path)) }
func (f *stallFS) Open(path string) (wal.File, error)   { return f.wrap(f.FS.Open(path)) }

func (f *stallFS) wrap(file wal.File, err error) (wal.File, error) {
	if err != nil {
		return nil, err
	}
	return stallFile{file, f}, nil
}

type stallFile struct {
	wal.File
	fs *stallFS
}

func (f stallFile) Sync() error {
	if f.fs.syncing != nil {
		f.fs.syncing()
	}
	f.fs.wait()
	return f.File.Sync()
}

// newStallCluster starts three members, the log of each on a disk of its own.
func newStallCluster(t *testing.T, change ...func(*Config)) (c *testCluster, disks map[string]*stallFS) {
	t.Helper()
	disks = map[string]*stallFS{}
	c = newCluster(t, 3, append(change, func(cfg *Config) {
		if disks[cfg.Name] == nil {
			disks[cfg.Name] = &stallFS{FS: wal.OS()}
		}
		cfg.LogFS = disks[cfg.Name]
	})...)
	t.Cleanup(func() { // before the members are stopped
		for _, d := range disks {
			d.goOn()
		}
	})
	return c, disks
}

// has tells whether a member has applied a key.
func (c *testCluster) has(i int, key string) bool {
	c.Helper()
	return len(mustRange(c.T, c.members[i].node, &wire.RangeRequest{Key: []byte(key), Serializable: true}).Kvs) > 0
}

// A follower's log is busy all the time when the leader has much to write, or its disk is slow. What it was asked for goes to the
// leader all the same.
func TestAFollowerWhoseLogIsBusyProposes(t *testing.T) {
	c, disks := newStallCluster(t)
	leader := c.leader()
	follower := (leader + 1) % 3
	disks[c.members[follower].name].stall()
	c.put(leader, "busy", "v")
	c.until("the follower's log is busy", func() bool { return !c.isLogIdle(follower) })
	var puts sync.WaitGroup
	for i := range 3 {
		puts.Go(func() {
			key := fmt.Sprint("from the follower ", i)
			if _, err := tryPut(t, c.members[follower].node, &pb.PutRequest{Key: []byte(key)}); err != nil {
				t.Errorf("put: %v", err)
			}
		})
	}
	c.until("the leader has one of what the follower was asked for", func() bool {
		return c.has(leader, "from the follower 0") || c.has(leader, "from the follower 1") || c.has(leader, "from the follower 2")
	})
	disks[c.members[follower].name].goOn()
	puts.Wait()
	c.wantSame()
}

func (c *testCluster) isLogIdle(i int) bool {
	idle := make(chan bool)
	c.members[i].node.raft.inbox.put(func(m *consensus.Machine) { idle <- m.IsLogIdle() })
	return <-idle
}

// A follower's disk that stands still, with much to write, is nobody else's trouble, and no reason for an election.
func TestAFollowerWhoseDiskStandsStillFollows(t *testing.T) {
	c, disks := newStallCluster(t, func(cfg *Config) { cfg.ElectionTimeout = 10 * time.Second }) // so that a slow machine is no reason either
	leader := c.leader()
	follower := (leader + 1) % 3
	term := c.members[leader].node.term.Load()
	disks[c.members[follower].name].stall()
	value := string(make([]byte, 1<<20))
	for i := range 24 { // more than raft sends without an answer, and the log takes without waiting
		c.put(leader, fmt.Sprint(i), value)
	}
	if c.isLogIdle(follower) { // which its raft goroutine says, without waiting for the disk
		t.Error("its log has nothing to do")
	}
	if got := c.members[follower].node.term.Load(); got != term {
		t.Errorf("it is in term %d, and the leader was elected in term %d", got, term)
	}
	disks[c.members[follower].name].goOn()
	c.wantAll("23", value)
	c.wantSame()
}

// When the leader's disk stands still the others go on without it, under another leader, and nothing is lost.
func TestALeaderWhoseDiskStandsStillHandsOver(t *testing.T) {
	c, disks := newStallCluster(t)
	stuck := c.leader()
	others := []int{(stuck + 1) % 3, (stuck + 2) % 3}
	disks[c.members[stuck].name].stall()
	c.put(others[0], "0", "v")
	for i := 1; c.members[others[0]].node.leader.Load() == c.members[stuck].node.member.ID; i++ {
		c.put(others[i%2], fmt.Sprint(i), "v")
	}
	c.put(others[0], "after", "v")
	disks[c.members[stuck].name].goOn()
	c.wantAll("0", "v")
	c.wantAll("after", "v")
	c.wantSame()
}

// sendSlowly has a member that lags be sent a snapshot, and the disk of its log stand still when it has to install it.
func (c *testCluster) sendSlowly(leader, lagging int, disk *stallFS, meanwhile func()) {
	c.Helper()
	node := c.members[lagging].node
	c.members[lagging].server.Stop()
	for i := range 200 {
		c.put(leader, fmt.Sprint(i%10), "v")
	}
	if !node.cutter.turn.take(c.Context().Done()) { // so that it waits
		c.Fatal("the test is over")
	}
	c.serve(lagging, node)
	state := func() (received, installing bool) {
		now := make(chan [2]bool)
		node.raft.inbox.put(func(m *consensus.Machine) { now <- [2]bool{node.raft.received != nil, m.IsInstalling()} })
		got := <-now
		return got[0], got[1]
	}
	c.until("the snapshot has come", func() bool {
		received, installing := state()
		if installing {
			c.Fatal("a snapshot is installed while the log is cut")
		}
		return received
	})
	meanwhile()
	disk.stall()
	node.cutter.turn.end()
	c.until("the snapshot is being installed", func() bool { _, installing := state(); return installing })
	c.until("the log is being replaced", disk.isWaitedFor)
}

// What is behind a snapshot stays in the log of the leader while the receiver takes long to install it, however much is written, so that
// one snapshot is enough.
func TestOneSnapshotIsEnoughForWhoTakesLongToInstallIt(t *testing.T) {
	log := new(syncLog)
	c, disks := newStallCluster(t, func(cfg *Config) {
		cfg.SnapshotCount, cfg.SnapshotCatchUpEntries, cfg.ElectionTimeout = 20, 10, 10*time.Second
		cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
	})
	leader := c.leader()
	lagging := (leader + 1) % 3
	disk, node := disks[c.members[lagging].name], c.members[leader].node
	write := func() {
		for i := range 100 {
			c.put(leader, fmt.Sprint(i%10), "v")
			if err := node.linearizable(t.Context()); err != nil { // by heartbeats
				t.Fatal(err)
			}
		}
	}
	c.sendSlowly(leader, lagging, disk, write)
	c.until("the leader knows that the snapshot has come", func() bool { return log.has("a snapshot has arrived", "") })
	write()
	disk.goOn()
	c.put(lagging, "after", "v")
	c.wantAll("after", "v")
	c.wantSame()
	if n := log.count("sending a snapshot"); n != 1 {
		t.Errorf("%d snapshots were sent", n)
	}
}

// A cut that finds the snapshot in the store while raft does not know of it yet would make it raft's.
func TestTheLogIsNotCutWhileASnapshotIsInstalled(t *testing.T) {
	c, disks := newStallCluster(t, func(cfg *Config) { cfg.SnapshotCount, cfg.SnapshotCatchUpEntries = 20, 10 })
	leader := c.leader()
	lagging := (leader + 1) % 3
	node, disk := c.members[lagging].node, disks[c.members[lagging].name]
	c.sendSlowly(leader, lagging, disk, func() {})
	cut := make(chan error, 1)
	go func() { cut <- node.cutLog() }()
	c.until("the log is being replaced", func() bool { return len(node.cutter.turn) == 1 && !c.isLogIdle(lagging) })
	if len(cut) > 0 {
		t.Error("the log was cut while a snapshot is installed")
	}
	disk.goOn()
	if err := <-cut; err != nil {
		t.Fatal(err)
	}
	c.put(lagging, "after", "v")
	c.wantAll("after", "v")
	c.wantSame()
}
