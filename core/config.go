package core

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"weir/core/lease"
	"weir/core/wal"
)

// Config is what a node is told at start. Zero values mean etcd's defaults where a field names one.
type Config struct {
	Name    string // of this member; default "default"
	DataDir string // created when missing

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
	QuotaBytes    int64  // of the store's file; 0 is 2 GiB, negative none

	HeartbeatInterval time.Duration // raft's tick; default 100 ms
	ElectionTimeout   time.Duration // default 1 s

	HistoryBytes int // of recent events kept in memory for watchers; default 64 MiB

	// UnsafeNoFsync never waits for the disk. Acknowledged writes outlive the process, but not the machine.
	UnsafeNoFsync bool

	Logger *slog.Logger
	Clock  lease.Clock // leases live by it; default the machine's monotonic clock
	LogFS  wal.FS      // where the log is, and which makes the directories; default the file system
	// DiskFree is how many bytes are free where DataDir is; default asks the operating system.
	DiskFree func(dir string) (int64, error)
}

const (
	defaultQuotaBytes = 2 << 30
	// cutBytes of log entries trigger a cut before SnapshotCount is reached: raft's storage holds in memory what
	// has not been cut.
	cutBytes = 64 << 20
)

// withDefaults fills in what is zero and checks the rest.
func (c Config) withDefaults() (Config, error) {
	setDefault(&c.Name, "default")
	setDefault(&c.ClusterToken, "etcd-cluster")
	setDefault(&c.SnapshotCount, 10_000)
	setDefault(&c.HeartbeatInterval, 100*time.Millisecond)
	setDefault(&c.ElectionTimeout, time.Second)
	setDefault(&c.HistoryBytes, 64<<20)
	setDefault(&c.QuotaBytes, defaultQuotaBytes)
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
	if len(c.PeerURLs) == 0 {
		c.PeerURLs = []string{"http://localhost:2380"}
	}
	if c.electionTicks() < 5 {
		return c, fmt.Errorf("--election-timeout (%v) must be at least 5 times --heartbeat-interval (%v)", c.ElectionTimeout, c.HeartbeatInterval)
	}
	return c, nil
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
