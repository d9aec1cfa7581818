package mvcc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Errors that callers match. The first two are etcd's.
var (
	ErrCompacted = errors.New("mvcc: required revision has been compacted")
	ErrFutureRev = errors.New("mvcc: required revision is a future revision")
	ErrLocked    = errors.New("mvcc: the file is in use by another process")
	ErrClosed    = errors.New("mvcc: the store is closed")
)

// Options of Open. A zero field takes its default.
type Options struct {
	// BatchInterval is the longest time between an entry and the bbolt transaction that holds it. Default 100 ms.
	BatchInterval time.Duration
	// BatchBytes is how much is gathered before it is committed without waiting for BatchInterval. Applied
	// entries take at most twice as much memory, plus one entry; then Begin waits. Default 16 MiB.
	BatchBytes int
	// BatchChanges is the same in changes: revisions, and keys of other buckets. Default: no such bound.
	BatchChanges int
	// CompactionBatch is how many revisions a compaction deletes in one transaction. Default 1000.
	CompactionBatch int
	// CompactionSleep is the pause between these transactions. Default 10 ms.
	CompactionSleep time.Duration
	// LockTimeout is how long Open waits for another process to let go of the file. Default 1 s.
	LockTimeout time.Duration
	// NoSync never waits for the disk: a crash of the machine may destroy the file.
	NoSync bool
	// Logger gets what an operator should know. Default: nothing is logged.
	Logger *slog.Logger

	mapSize int64 // for tests: how much of the file is mapped at first
}

func (o Options) withDefaults() Options {
	if o.BatchInterval <= 0 {
		o.BatchInterval = 100 * time.Millisecond
	}
	if o.BatchBytes <= 0 {
		o.BatchBytes = 16 << 20
	}
	if o.CompactionBatch <= 0 {
		o.CompactionBatch = 1000
	}
	if o.CompactionSleep <= 0 {
		o.CompactionSleep = 10 * time.Millisecond
	}
	if o.LockTimeout <= 0 {
		o.LockTimeout = time.Second
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Store is every revision of every key. See the package comment.
//
// One goroutine at a time may write (Begin to Entry.End); all other methods may be called concurrently.
type Store struct {
	path    string
	options Options
	log     *slog.Logger

	// writing guards what the writer shares with the committer and the compactor: the five below. The writer holds it
	// from Begin to End, so a batch ends between entries.
	writing    sync.Mutex
	tree       *keyTree
	batch      *batch
	failure    error // of the committer, or of Entry.Fail; nothing is committed after it
	generation int   // counts the contents that were served; only the committer changes it
	room       *sync.Cond

	state      atomic.Pointer[state] // what readers see
	publishing sync.Mutex            // held to replace state; taken after writing

	committer committer
	compactor compactor
	hashes    hashCache

	size, sizeInUse atomic.Int64
	metrics         *metrics

	failed chan error
	ctx    context.Context // ends when Close is called
	cancel context.CancelFunc
	tasks  sync.WaitGroup // what Close waits for
	closed sync.Once
}

// Open opens or creates the store at path, and reads all of it to build the index. An unfinished compaction is
// resumed. An error wraps ErrLocked when another process has the file open, and ErrDamaged when that is what shows.
func Open(path string, o Options) (*Store, error) {
	o = o.withDefaults()
	db, mapped, err := openFile(path, o)
	if err != nil {
		return nil, err
	}
	c, err := readContents(context.Background(), db, mapped, o.Logger)
	if err == nil {
		err = removeTemps(path)
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	s := &Store{path: path, options: o, log: o.Logger, failed: make(chan error, 1)}
	s.metrics = newMetrics(s)
	s.room = sync.NewCond(&s.writing)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.committer = newCommitter(s, db, mapped)
	s.compactor = newCompactor(s)
	s.serve(c)
	s.tasks.Go(s.committer.run)
	s.tasks.Go(s.compactor.run)
	return s, nil
}

// serve has readers and the writer see c from now on, and nothing of what was there before. It is called by Open, and then by
// the committer alone.
func (s *Store) serve(c *contents) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.generation++
	s.tree, s.batch = c.tree, &batch{}
	s.publishing.Lock()
	s.state.Store(c.state)
	s.publishing.Unlock()
	s.measure(c.state.tx)
	s.metrics.keys.Set(float64(c.keys))
	s.hashes.forget()
	if c.unfinished != nil {
		c.unfinished.generation = s.generation
		s.log.Info("resuming compaction", "revision", c.unfinished.rev)
	}
	s.compactor.restart(c.unfinished)
	s.room.Broadcast()
}

// Close commits what is pending and closes the file. It waits for open Views and Snapshots. What is called after it
// or concurrently fails with ErrClosed where it can fail, and otherwise sees an empty store.
func (s *Store) Close() error {
	err := ErrClosed
	s.closed.Do(func() {
		s.cancel()
		s.tasks.Wait() // the committer commits once more
		tx := s.state.Load().tx
		s.publish(func(st *state) { *st = state{compact: -1, tree: newTree()} })
		if tx != nil {
			tx.release()
		}
		err = s.committer.close()
	})
	return err
}

// Revision is the newest revision, 1 for an empty store.
func (s *Store) Revision() int64 { return s.state.Load().rev }

// CompactRevision is the revision of the newest compaction, from its proposal on: reads below it fail. It is -1 when
// nothing was ever compacted, as etcd has it.
func (s *Store) CompactRevision() int64 { return s.state.Load().compact }

// Applied is how far the raft log is in the file: what the last committed transaction says. The log before it is
// needed no more.
func (s *Store) Applied() Applied { return s.state.Load().applied }

// Failed gives the error after which nothing more is committed, because the disk failed or is full. The process
// should end then; what was acknowledged is in the log.
func (s *Store) Failed() <-chan error { return s.failed }

// Size is the length in bytes of the file, as far as it was ever used.
func (s *Store) Size() int64 { return s.size.Load() }

// SizeInUse is Size without the pages that are free.
func (s *Store) SizeInUse() int64 { return s.sizeInUse.Load() }
