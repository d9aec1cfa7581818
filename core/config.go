package core

import (
	"context"
	"crypto/tls"
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
	// InitialCluster are the members of a cluster that does not exist yet, this one among them; default this one alone.
	// It must be the same on all of them. The name of this one must be Name.
	InitialCluster []InitialMember
	// Discover finds InitialCluster, if that is empty, for a member that has no data; nil: see there. Only the peer URLs of
	// others count, since each member may be told other names.
	Discover func(context.Context) ([]InitialMember, error)
	// PeerTLS makes the configuration of each connection to another member: what this one shows, and asks of the other. nil is
	// plaintext. It may be called concurrently.
	PeerTLS func() *tls.Config
	// ClusterToken keeps clusters apart that happen to have the same peer URLs; default "etcd-cluster".
	ClusterToken string
	// CheckToken refuses a data directory whose cluster was made with another token.
	CheckToken bool
	// JoinExisting has a member without data join the cluster that has added it (--initial-cluster-state=existing).
	// InitialCluster then are its members, this one included.
	JoinExisting bool
	// ForceNewCluster removes all other members from the cluster that there is data of, without asking them
	// (--force-new-cluster): for when a majority is lost for good. They must not run any more.
	ForceNewCluster bool

	MaxRequestBytes int // of a client's request, as the server for clients has it; default 1.5 MiB

	SnapshotCount uint64 // entries between two cuts of the log; default 10,000
	QuotaBytes    int64  // of the store's file; 0 is DefaultQuotaBytes, negative none

	HeartbeatInterval time.Duration // raft's tick; default 100 ms
	ElectionTimeout   time.Duration // default 1 s
	NoPreVote         bool          // --pre-vote=false
	// NoElectionTickAdvance has a member that has just started wait for the whole election timeout before it holds an
	// election, also when it reaches a majority before (--initial-election-tick-advance=false).
	NoElectionTickAdvance bool

	// LaxReconfigCheck lets members be added and removed also when more voters are down than a majority could spare
	// (--strict-reconfig-check=false). While there is one voter it changes nothing.
	LaxReconfigCheck bool
	MaxLearners      int // in the cluster; default 1

	stableAfter time.Duration // see countStable; default stableAfter

	level         int           // the highest that this weir knows; default newestLevel
	levelInterval time.Duration // see tendLevel; default levelInterval

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

	// InitialCorruptCheck has a member that was there before compare what it holds with the others before it is ready.
	InitialCorruptCheck bool
	// CorruptCheckInterval is how often the leader has all members hash what they hold, and CompactHashCheckInterval how often it
	// compares the hashes that compactions leave; 0 is never. If a member differs the CORRUPT alarm is raised.
	CorruptCheckInterval, CompactHashCheckInterval time.Duration

	// SnapshotCatchUpEntries are kept when the log is cut, for members that lag, as far as they are not too large (see
	// maxCatchUpBytes); default 5,000. A cluster of one member keeps none.
	SnapshotCatchUpEntries uint64

	// WarnApply is how long an entry may take to be applied before that is logged; default 100 ms.
	WarnApply time.Duration

	HistoryBytes int // of recent events kept in memory for watchers; default 32 MiB

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

// InitialMember is one of the first members of a cluster.
type InitialMember struct {
	Name     string
	PeerURLs []string
}

// DefaultQuotaBytes is how large the store's file may become unless Config says otherwise.
const DefaultQuotaBytes = 2 << 30

// cutBytes of log entries trigger a cut before SnapshotCount is reached: raft's storage holds in memory what has not
// been cut, and the garbage collector lets half as much garbage stand beside it. A cut commits the store, which it does ten times a
// second anyway under such a load.
const cutBytes = 8 << 20

// minElectionTicks is how many heartbeats an election timeout has at least, as at etcd.
const minElectionTicks = 5

// withDefaults fills in what is zero and checks the rest.
func (c Config) withDefaults() (Config, error) {
	setDefault(&c.Name, "default")
	setDefault(&c.ClusterToken, "etcd-cluster")
	setDefault(&c.MaxRequestBytes, 3<<19)
	setDefault(&c.SnapshotCount, 10_000)
	setDefault(&c.SnapshotCatchUpEntries, 5_000)
	setDefault(&c.HeartbeatInterval, 100*time.Millisecond)
	setDefault(&c.ElectionTimeout, time.Second)
	setDefault(&c.HistoryBytes, 32<<20)
	setDefault(&c.MaxLearners, 1)
	setDefault(&c.stableAfter, stableAfter)
	setDefault(&c.level, newestLevel)
	setDefault(&c.levelInterval, levelInterval)
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
	if len(c.InitialCluster) == 0 && c.Discover == nil {
		c.InitialCluster = []InitialMember{{c.Name, c.PeerURLs}}
	}
	if c.electionTicks() < minElectionTicks {
		return c, fmt.Errorf("--election-timeout (%v) must be at least %d times --heartbeat-interval (%v)", c.ElectionTimeout, minElectionTicks, c.HeartbeatInterval)
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
