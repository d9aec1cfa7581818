package core

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"weir/coalesce"
	"weir/core/auth"
	"weir/core/lease"
	"weir/core/mvcc"
	"weir/core/wal"
	"weir/grpcapi/wire"
)

// Node is one member. Its methods may be called concurrently; grpcapi.Backend says what they promise.
type Node struct {
	cfg    Config
	logger *slog.Logger
	member member

	lock    *os.File // held until the files are closed
	store   *mvcc.Store
	log     *wal.Log
	leases  *lease.Lessor
	alarms  *alarms
	members *members
	version *clusterVersion
	auth    *auth.Store
	hub     *coalesce.Hub
	applier *applier

	raft    *consensus
	queue   *requestQueue
	reads   *readGate
	toApply *mailbox[*raftpb.Message]
	// reconfigurations go to run, which takes one at a time, and appliedChanges from the applier to it.
	reconfigurations chan *reconfiguration
	appliedChanges   chan appliedChange
	cutter           cutter
	disk             diskGuard

	metrics *metrics

	term, leader, committed, applied atomic.Uint64

	ctx        context.Context // ends with stopped
	stopped    chan struct{}   // closed when the node stops or has failed
	stop       func()
	goroutines sync.WaitGroup

	failed  chan struct{} // closed after failure has been set
	failure error
	failing sync.Once
}

// Open starts the member whose data is in cfg.DataDir, or makes a new cluster of one member there. WaitReady
// tells when it serves. An error is one line that says what is wrong and how to mend it; nothing is left running.
func Open(cfg Config) (_ *Node, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := checkAuth(cfg); err != nil {
		return nil, err
	}
	n := &Node{
		cfg:     cfg,
		logger:  cfg.Logger,
		queue:   newRequestQueue(rand.Uint64()),
		toApply: newMailbox[*raftpb.Message](),

		reconfigurations: make(chan *reconfiguration),
		appliedChanges:   make(chan appliedChange),

		cutter:  cutter{wake: make(chan struct{}, 1)},
		disk:    diskGuard{dir: cfg.DataDir, free: cfg.DiskFree, logger: cfg.Logger},
		metrics: newNodeMetrics(),
		stopped: make(chan struct{}),
		failed:  make(chan struct{}),
	}
	n.disk.pending = n.queue.pending
	var cancel context.CancelFunc
	n.ctx, cancel = context.WithCancel(context.Background())
	n.stop = sync.OnceFunc(func() { cancel(); close(n.stopped) })
	defer func() {
		if err != nil {
			n.stop()
			err = errors.Join(err, n.closeFiles())
		}
	}()
	recovered, err := n.openFiles()
	if err != nil {
		return nil, err
	}
	applied := n.store.Applied()
	entries, err := n.checkFiles(recovered, applied)
	if err != nil {
		return nil, fmt.Errorf("data directory %s: %w", cfg.DataDir, err)
	}
	// The store has what came before: it is not needed, and in a new log it never was.
	if err := n.log.Cut(applied.Index); err != nil {
		return nil, fmt.Errorf("data directory %s: %w", cfg.DataDir, err)
	}
	if n.alarms, err = loadAlarms(n.store); err != nil {
		return nil, err
	}
	if n.version, err = loadClusterVersion(n.store); err != nil {
		return nil, err
	}
	if n.leases, err = loadLeases(n.store, cfg); err != nil {
		return nil, err
	}
	if n.auth, err = loadAuth(n.store, cfg); err != nil {
		return nil, err
	}
	if n.raft, err = newConsensus(cfg, n.member, recovered.HardState, applied, entries, n.logger); err != nil {
		return nil, err
	}
	n.term.Store(n.raft.hardState.GetTerm())
	n.committed.Store(n.raft.hardState.GetCommit())
	n.applied.Store(applied.Index)
	n.reads = newReadGate(applied.Index)
	var feed *coalesce.Feed
	n.hub, feed = coalesce.NewStoreHub(history{n.store}, n.store.Revision, cfg.HistoryBytes)
	n.applier = &applier{store: n.store, leases: n.leases, alarms: n.alarms, auth: n.auth, guard: guard{auth: n.auth, leases: n.leases, writers: leaseWriters{}}, metrics: n.metrics, version: n.version, hub: n.hub, feed: feed, header: n.headerAt}
	n.logger.Info("opened member", "name", cfg.Name, "member-id", idString(n.member.ID), "cluster-id", idString(n.member.ClusterID),
		"data-dir", cfg.DataDir, "revision", n.store.Revision(), "applied-index", applied.Index, "entries-to-replay", len(entries))
	for _, goroutine := range []func(){n.run, n.apply, n.expire, n.cut, n.watchStore, n.tendVersion, n.autoCompact} {
		n.goroutines.Add(1)
		go goroutine()
	}
	return n, nil
}

// loadLeases makes the lessor from what the store holds.
func loadLeases(store *mvcc.Store, cfg Config) (*lease.Lessor, error) {
	lessor := lease.New(cfg.Clock, 1)
	err := store.ForEach(mvcc.BucketLease, func(_, v []byte) error {
		record, err := lease.ParseRecord(v)
		if err != nil {
			return err
		}
		_, err = lessor.Grant(record.ID, record.TTL)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("load the leases: %w", err)
	}
	err = store.LeasedKeys(func(key []byte, id int64) {
		// A key may name a lease that is gone when an etcd that had this bug made the data; it then stays.
		if err := lessor.Attach(id, key); err != nil {
			cfg.Logger.Warn("a key names a lease that does not exist", "lease", idString(uint64(id)))
		}
	})
	if err != nil {
		return nil, fmt.Errorf("load the leases: %w", err)
	}
	return lessor, nil
}

// WaitReady waits until this member serves: it knows a leader and has applied all that was committed. If the member
// ends before, the error is why.
func (n *Node) WaitReady(ctx context.Context) error {
	for {
		err := n.linearizable(ctx)
		if err == nil {
			return nil
		}
		if failure := n.Err(); failure != nil {
			return failure
		}
		if !errors.Is(err, rpctypes.ErrGRPCTimeout) {
			return fmt.Errorf("wait until the member serves: %w", err)
		}
		n.logger.Warn("still waiting for a leader")
	}
}

// Failed is closed when the node has ended because of an error, which Err gives. The process should end then: what
// was acknowledged is on disk, and a restart goes on from it.
func (n *Node) Failed() <-chan struct{} { return n.failed }

// Err is why the node has ended by itself, nil if it has not.
func (n *Node) Err() error {
	select {
	case <-n.failed:
		return n.failure
	default:
		return nil
	}
}

// fail ends the node because of err. Any goroutine may call it; the first error counts.
func (n *Node) fail(err error) {
	n.failing.Do(func() {
		n.logger.Error("the member cannot go on", "error", err)
		n.failure = err
		close(n.failed)
	})
	n.stop()
}

// watchStore ends the node when the store could not commit.
func (n *Node) watchStore() {
	defer n.goroutines.Done()
	select {
	case err := <-n.store.Failed():
		n.fail(fmt.Errorf("commit the store: %w", err))
	case <-n.stopped:
	}
}

// Close ends the member: requests that wait get ErrGRPCStopped, watchers end, what is pending is committed.
func (n *Node) Close() error {
	n.queue.close()
	n.stop()
	n.goroutines.Wait()
	n.hub.Close()
	return n.closeFiles()
}

func (n *Node) closeFiles() error {
	var errs []error
	if n.auth != nil {
		n.auth.Close()
	}
	if n.log != nil {
		errs = append(errs, n.log.Close())
	}
	if n.store != nil {
		errs = append(errs, n.store.Close())
	}
	if n.lock != nil {
		errs = append(errs, n.lock.Close())
	}
	return errors.Join(errs...)
}

// Header is the ResponseHeader as of now.
func (n *Node) Header() wire.Header { return n.headerAt(n.store.Revision()) }

func (n *Node) headerAt(revision int64) wire.Header {
	return wire.Header{ClusterID: n.member.ClusterID, MemberID: n.member.ID, Revision: revision, RaftTerm: n.term.Load()}
}

func (n *Node) pbHeader() *pb.ResponseHeader {
	h := n.Header()
	return &pb.ResponseHeader{ClusterId: h.ClusterID, MemberId: h.MemberID, Revision: h.Revision, RaftTerm: h.RaftTerm}
}

// Hub is the watch engine.
func (n *Node) Hub() *coalesce.Hub { return n.hub }

// proposeMessage proposes a request that is not on the hot path, as whoever sends it.
func (n *Node) proposeMessage(ctx context.Context, k kind, m proto.Message) (result, error) {
	as, err := n.identify(ctx)
	if err != nil {
		return result{}, err
	}
	return n.proposeAs(ctx, k, as, m)
}

func (n *Node) proposeAs(ctx context.Context, k kind, as auth.Identity, m proto.Message) (result, error) {
	payload, err := proto.Marshal(m)
	if err != nil {
		return result{}, fmt.Errorf("encode %v request: %w", k, err)
	}
	return n.propose(ctx, k, as, payload, m)
}
