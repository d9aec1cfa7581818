package core

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"weir/core/auth"
	"weir/core/lease"
	"weir/core/mvcc"
	"weir/core/wal"
)

// Config is what a node is told at start. Zero values mean etcd's defaults where a field names one.
type Config struct {
	Name    string // of this member; default "default"
	DataDir string // created when missing
	WALDir  string // of the log, created when missing; default DataDir/member/wal

	// PeerURLs and ClientURLs are what this member advertises. With the token, the peer URLs decide the ids of a
	// member and a cluster that do not exist yet.
	PeerURLs, ClientURLs []string
	// ClusterToken keeps clusters apart that happen to have the same peer URLs; default "etcd-cluster".
	ClusterToken string
	// CheckToken refuses a data directory whose cluster was made with another token.
	CheckToken bool
	// JoinExisting refuses to make a new cluster (--initial-cluster-state=existing).
	JoinExisting bool

	SnapshotCount uint64 // entries between two cuts of the log; default 10,000
	QuotaBytes    int64  // of the store's file; 0 is DefaultQuotaBytes, negative none

	HeartbeatInterval time.Duration // raft's tick; default 100 ms
	ElectionTimeout   time.Duration // default 1 s

	// LaxReconfigCheck lets members be added and removed also when more voters are down than a majority could spare
	// (--strict-reconfig-check=false). While there is one voter it changes nothing.
	LaxReconfigCheck bool
	MaxLearners      int // in the cluster; default 1

	AutoCompaction AutoCompaction

	// CompactionBatch is how many revisions a compaction deletes in one transaction of the store, default 1000, and
	// CompactionSleep the pause between two, default 10 ms.
	CompactionBatch int
	CompactionSleep time.Duration
	// What is applied is committed to the store BatchInterval later, default 100 ms, or as soon as it is BatchLimit
	// changes; 0 is no limit but one in bytes. It is durable before, in the log.
	BatchInterval time.Duration
	BatchLimit    int
	// DefragmentAtStart is how many bytes of the store's file must be free for it to be defragmented by Open; 0 is never.
	DefragmentAtStart int64

	// SnapshotCatchUpEntries are to be kept when the log is cut, for members that lag. There are none yet, and none are
	// kept.
	SnapshotCatchUpEntries uint64

	// WarnApply is how long an entry may take to be applied before that is logged; default 100 ms.
	WarnApply time.Duration

	HistoryBytes int // of recent events kept in memory for watchers; default 64 MiB

	// Auth is how users log in while authentication is on. Its Clock and Logger are the node's.
	Auth auth.Config
	// ClientCertAuth takes the common name of a client's certificate for its user, unless it shows a token.
	ClientCertAuth bool

	// UnsafeNoFsync never waits for the disk. Acknowledged writes outlive the process, but not the machine.
	UnsafeNoFsync bool

	Logger *slog.Logger
	Clock  lease.Clock // leases live by it; default the machine's monotonic clock
	LogFS  wal.FS      // where the log is, and which makes the directories; default the file system
	// DiskFree is how many bytes are free where DataDir is; default asks the operating system.
	DiskFree func(dir string) (int64, error)
}

// DefaultQuotaBytes is how large the store's file may become unless Config says otherwise.
const DefaultQuotaBytes = 2 << 30

// cutBytes of log entries trigger a cut before SnapshotCount is reached: raft's storage holds in memory what has not
// been cut.
const cutBytes = 64 << 20

// withDefaults fills in what is zero and checks the rest.
func (c Config) withDefaults() (Config, error) {
	setDefault(&c.Name, "default")
	setDefault(&c.ClusterToken, "etcd-cluster")
	setDefault(&c.SnapshotCount, 10_000)
	setDefault(&c.HeartbeatInterval, 100*time.Millisecond)
	setDefault(&c.ElectionTimeout, time.Second)
	setDefault(&c.HistoryBytes, 64<<20)
	setDefault(&c.MaxLearners, 1)
	setDefault(&c.WarnApply, 100*time.Millisecond)
	setDefault(&c.QuotaBytes, DefaultQuotaBytes)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Clock == nil {
		c.Clock = lease.SystemClock{}
	}
	if c.LogFS == nil {
		c.LogFS = wal.OS()
	}
	if c.UnsafeNoFsync {
		c.LogFS = wal.Unsynced(c.LogFS)
	}
	if c.DiskFree == nil {
		c.DiskFree = diskFree
	}
	if c.DataDir == "" {
		return c, errors.New("no data directory is given: set --data-dir")
	}
	setDefault(&c.WALDir, filepath.Join(c.DataDir, "member", "wal"))
	if len(c.PeerURLs) == 0 {
		c.PeerURLs = []string{"http://localhost:2380"}
	}
	if c.electionTicks() < 5 {
		return c, fmt.Errorf("--election-timeout (%v) must be at least 5 times --heartbeat-interval (%v)", c.ElectionTimeout, c.HeartbeatInterval)
	}
	return c, c.AutoCompaction.check()
}

func (c Config) storeOptions() mvcc.Options {
	return mvcc.Options{
		BatchInterval: c.BatchInterval, BatchChanges: c.BatchLimit,
		CompactionBatch: c.CompactionBatch, CompactionSleep: c.CompactionSleep,
		NoSync: c.UnsafeNoFsync, Logger: c.Logger,
	}
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (c Config) electionTicks() int { return int(c.ElectionTimeout / c.HeartbeatInterval) }

// requestTimeout is how long a request may take, whatever its own deadline: 5 s for the disk and two elections,
// as at etcd.
func (c Config) requestTimeout() time.Duration { return 5*time.Second + 2*c.ElectionTimeout }

// minLeaseTTL in seconds: a lease should outlive an election by half. etcd's formula.
func (c Config) minLeaseTTL() int64 {
	minTTL := time.Duration(3*c.electionTicks()/2) * c.HeartbeatInterval
	return int64((minTTL + time.Second - 1) / time.Second)
}
