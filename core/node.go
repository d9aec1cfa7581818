package core

import (
	"cmp"
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
	"google.golang.org/protobuf/proto"

	"weir/coalesce"
	"weir/core/auth"
	"weir/core/lease"
	"weir/core/mvcc"
	"weir/core/transport"
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
	// agreement is what members may write.
	agreement *agreement
	auth      *auth.Store
	hub       *coalesce.Hub
	applier   *applier

	raft      raftDriver
	transport *transport.Transport
	fromPeers fromPeers
	incoming  incoming
	tenure    tenure
	queue     *requestQueue
	reads     *readGate
	pings     *pingQueue
	toApply   *mailbox[toApply]
	backlog   backlog
	// reconfigurations go to run, which takes one at a time, and appliedChanges from the applier to it.
	reconfigurations chan *reconfiguration
	appliedChanges   chan appliedChange
	changes          changes
	cutter           cutter
	disk             diskGuard
	hashing          chan struct{} // held while a hash is computed for another member
	hadData          bool          // when it was opened

	metrics *metrics

	term, leader, committed, applied atomic.Uint64
	isLearner                        atomic.Bool
	refusals                         refusals
	standing                         standing
	appliedTerm                      uint64          // of the last entry that was applied; of the apply goroutine
	leaderMu                         sync.Mutex      // guards led and endLed
	led                              context.Context // ends when leader changes
	endLed                           context.CancelFunc

	ctx        context.Context // ends with stopped
	stopped    chan struct{}   // closed when the node stops or has failed
	stop       func()
	goroutines sync.WaitGroup

	published chan struct{} // closed when the cluster knows this member's name and URLs

	failed  chan struct{} // closed after failure has been set
	failure error
	failing sync.Once
}

// Open starts the member whose data is in cfg.DataDir, or founds or joins a cluster, as cfg says. WaitReady
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
		toApply: newMailbox[toApply](),
		pings:   newPingQueue(),

		reconfigurations: make(chan *reconfiguration),
		appliedChanges:   make(chan appliedChange),
		changes:          changes{expected: map[uint64]*expectedChange{}},

		fromPeers: fromPeers{wake: make(chan struct{}, 1)},
		cutter:    cutter{wake: make(chan struct{}, 1), turn: newTurn()},
		disk:      diskGuard{dir: cfg.DataDir, free: cfg.DiskFree, logger: cfg.Logger},
		metrics:   newNodeMetrics(),
		stopped:   make(chan struct{}),
		hashing:   make(chan struct{}, 1),

		published: make(chan struct{}),
		failed:    make(chan struct{}),
	}
	n.disk.pending = n.queue.pending
	var cancel context.CancelFunc
	n.ctx, cancel = context.WithCancel(context.Background())
	n.stop = sync.OnceFunc(func() { cancel(); close(n.stopped) })
	n.standing.begin(n.ctx)
	n.led, n.endLed = context.WithCancel(n.ctx)
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
	if n.agreement, err = loadAgreement(n.store, cfg.level); err != nil {
		return nil, fmt.Errorf("data directory %s: %w", cfg.DataDir, err)
	}
	applied := n.store.Applied()
	entries, err := n.checkFiles(recovered, applied)
	if err != nil {
		return nil, fmt.Errorf("data directory %s: %w", cfg.DataDir, err)
	}
	if len(entries) == 0 { // the next one follows what the store has
		if err := n.log.Cut(applied.Index); err != nil {
			return nil, fmt.Errorf("data directory %s: %w", cfg.DataDir, err)
		}
	}
	hasData := applied.Index != firstIndex || len(entries) > 0 // one that joins and has heard nothing is refused below
	if cfg.ForceNewCluster && !hasData {                       // as at etcd: whoever has lost its disk must not remove those who have not
		n.logger.Warn("there is no data, so --force-new-cluster removes nobody", "data-dir", cfg.DataDir)
	}
	if cfg.ForceNewCluster && hasData {
		if entries, err = n.forceNewCluster(recovered, applied, entries); err != nil {
			return nil, fmt.Errorf("data directory %s: %w", cfg.DataDir, err)
		}
	}
	n.hadData = hasData
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
	n.applied.Store(applied.Index)
	n.appliedTerm = applied.Term
	n.reads = newReadGate(applied.Index)
	var feed *coalesce.Feed
	n.hub, feed = coalesce.NewStoreHub(history{n.store}, n.store.Revision, cfg.HistoryBytes)
	n.applier = &applier{store: n.store, leases: n.leases, alarms: n.alarms, auth: n.auth, guard: guard{auth: n.auth, leases: n.leases, writers: leaseWriters{}}, metrics: n.metrics, version: n.version, members: n.members, agreement: n.agreement, hub: n.hub, feed: feed, header: n.headerAt}
	if err := n.startRaft(recovered.HardState, applied, entries); err != nil {
		return nil, err
	}
	n.transport = transport.New(transport.Config{
		ID: n.member.ID, ClusterID: n.member.ClusterID, Handler: peerHandler{n}, IsRemoved: n.members.wasRemoved, TLS: cfg.PeerTLS, Logger: n.logger,
		MaxMessage: max(cfg.MaxRequestBytes, maxBatchBytes) + messageExtra,
	})
	n.setPeers()
	n.logger.Info("opened member", "name", cfg.Name, "member-id", idString(n.member.ID), "cluster-id", idString(n.member.ClusterID),
		"data-dir", cfg.DataDir, "revision", n.store.Revision(), "applied-index", applied.Index, "entries-to-replay", len(entries))
	for _, goroutine := range []func(){n.run, n.apply, n.expire, n.checkpoint, n.cut, n.watchStore, n.tendVersion, n.tendLevel, n.autoCompact, n.checkStores, n.checkCompactions, n.publish, n.watchLeader, n.compareTiming} {
		n.goroutines.Add(1)
		go goroutine()
	}
	for range pingCalls {
		n.goroutines.Add(1)
		go n.sendPings()
	}
	return n, nil
}

// loadLeases makes the lessor from what the store holds.
func loadLeases(store stored, cfg Config) (*lease.Lessor, error) {
	set, err := readLeases(store, cfg)
	if err != nil {
		return nil, err
	}
	lessor := lease.New(cfg.Clock, 1)
	lessor.Reset(set)
	return lessor, nil
}

// WaitReady waits until this member serves: it knows a leader and has applied all that was committed, and the others know
// where it serves. If the member ends before, the error is why; so it is if this one does not hold what they do, see
// Config.InitialCorruptCheck.
func (n *Node) WaitReady(ctx context.Context) error {
	if err := n.waitApplied(ctx); err != nil {
		return err
	}
	if err := n.checkAtStart(ctx); err != nil {
		return err
	}
	select {
	case <-n.published:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait until the members know of this one: %w", ctx.Err())
	case <-n.stopped:
		return cmp.Or(n.Err(), rpctypes.ErrGRPCStopped)
	}
}

func (n *Node) waitApplied(ctx context.Context) error {
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
		self, _ := n.members.get(n.member.ID)
		n.logger.Warn("still waiting for a leader, who must reach this member at its peer URLs", "peer-urls", self.PeerURLs)
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
		if !errors.Is(err, ErrRemoved) { // which is no fault; who called Open says it
			n.logger.Error("the member cannot go on", "error", err)
		}
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
	n.transport.Close()
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
	errs = append(errs, n.incoming.discard())
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
