package main

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"time"

	"weir/cmd/internal/process"
	"weir/core"
)

// storeFlags are raft, the log and the store behind it.
type storeFlags struct {
	heartbeat, election  uint // ms
	preVote, tickAdvance bool

	snapshotCount, catchUpEntries uint64
	quota                         int64
	defragment                    uint // MB
	batchInterval                 time.Duration
	batchLimit                    int
	noFsync                       bool
	warnApply                     time.Duration

	compactionMode, compactionRetention string
	compactionBatch                     int
	compactionSleep                     time.Duration

	corruptCheck, compactHashCheck time.Duration
}

// maxElectionTimeout in milliseconds is etcd's.
const maxElectionTimeout = 50_000

func (s *storeFlags) define(f *process.Flags) {
	f.UintVar(&s.heartbeat, "heartbeat-interval", 100, "Time in milliseconds of a heartbeat interval.")
	f.UintVar(&s.election, "election-timeout", 1000, "Time in milliseconds for an election to time out.")
	f.BoolVar(&s.preVote, "pre-vote", true, "Ask the others before an election whether it could be won, so that a member that was away does not depose the leader.")
	f.BoolVar(&s.tickAdvance, "initial-election-tick-advance", true, "Hold a first election as soon as a majority is reached and no leader is heard of, instead of after the election timeout.")
	f.Uint64Var(&s.snapshotCount, "snapshot-count", 10_000, "Number of committed entries after which the log is cut.")
	f.Uint64Var(&s.catchUpEntries, "snapshot-catchup-entries", 5000, "Number of entries kept for slow members when the log is cut.")
	f.Int64Var(&s.quota, "quota-backend-bytes", 0, "Size of the store's file at which writes are refused with an alarm. 0 is 2 GiB, negative is none.")
	f.DurationVar(&s.batchInterval, "backend-batch-interval", 100*time.Millisecond, "Maximum time before a transaction of the store is committed (0 is 100ms).")
	f.IntVar(&s.batchLimit, "backend-batch-limit", 0, "Number of changes after which a transaction of the store is committed (0 is no such limit, but one of 16 MiB).")
	f.UintVar(&s.defragment, "bootstrap-defrag-threshold-megabytes", 0, "Megabytes of the store's file that must be free for it to be defragmented at start (0 to disable).")
	f.BoolVar(&s.noFsync, "unsafe-no-fsync", false, "Never wait for the disk. UNSAFE: what was acknowledged is lost when the machine loses power.")
	f.DurationVar(&s.warnApply, "warning-apply-duration", 100*time.Millisecond, "Time after which the applying of a request is logged as slow.")
	f.StringVar(&s.compactionMode, "auto-compaction-mode", "periodic", "What --auto-compaction-retention counts: 'periodic' time, 'revision' revisions.")
	f.StringVar(&s.compactionRetention, "auto-compaction-retention", "0", "How much of the past automatic compaction keeps: a duration, or hours without a unit; or a number of revisions. 0 is all.")
	f.IntVar(&s.compactionBatch, "compaction-batch-limit", 1000, "Maximum number of revisions that a compaction deletes in one go (0 is 1000).")
	f.DurationVar(&s.compactionSleep, "compaction-sleep-interval", 10*time.Millisecond, "Pause of a compaction between two batches (0 is 10ms).")
	f.DurationVar(&s.corruptCheck, "corrupt-check-time", 0, "Time between two checks that all members hold the same, for which each reads all it has (0 to disable).")
	f.DurationVar(&s.compactHashCheck, "compact-hash-check-time", time.Minute, "Time between two checks that members held the same when they compacted, if the feature CompactHashCheck is on.")
}

func (s *storeFlags) apply(_ *process.Flags, o *options) error {
	var wrong process.Mistakes
	heartbeat, election := time.Duration(s.heartbeat)*time.Millisecond, time.Duration(s.election)*time.Millisecond
	switch {
	case s.heartbeat == 0 || s.election == 0:
		wrong.Addf("--heartbeat-interval and --election-timeout must be positive")
	case s.election > maxElectionTimeout:
		wrong.Addf("--election-timeout=%d is too long: at most %d", s.election, maxElectionTimeout)
	case s.election/5 < s.heartbeat:
		wrong.Addf("--election-timeout=%d must be at least 5 times --heartbeat-interval=%d", s.election, s.heartbeat)
	}
	if wrong.Err() != nil {
		heartbeat, election = 0, 0 // their defaults, which core does not refuse in its turn
	}
	if s.defragment > math.MaxInt64>>20 {
		wrong.Addf("--bootstrap-defrag-threshold-megabytes=%d is too many", s.defragment)
	}
	for _, n := range []struct {
		flag  string
		value int64
	}{
		{"backend-batch-interval", int64(s.batchInterval)},
		{"backend-batch-limit", int64(s.batchLimit)},
		{"compaction-batch-limit", int64(s.compactionBatch)},
		{"compaction-sleep-interval", int64(s.compactionSleep)},
		{"warning-apply-duration", int64(s.warnApply)},
		{"corrupt-check-time", int64(s.corruptCheck)},
	} {
		if n.value < 0 {
			wrong.Addf("--%s must not be negative", n.flag)
		}
	}
	if s.compactHashCheck <= 0 {
		wrong.Addf("--compact-hash-check-time=%v is not possible: it must be positive", s.compactHashCheck)
	}
	compaction, err := parseAutoCompaction(s.compactionMode, s.compactionRetention)
	wrong.Add(err)
	c := &o.core
	c.AutoCompaction = compaction
	c.NoPreVote, c.NoElectionTickAdvance = !s.preVote, !s.tickAdvance
	c.HeartbeatInterval, c.ElectionTimeout = heartbeat, election
	c.SnapshotCount, c.SnapshotCatchUpEntries = s.snapshotCount, s.catchUpEntries
	c.QuotaBytes = cmp.Or(s.quota, core.DefaultQuotaBytes) // which is logged
	c.BatchInterval, c.BatchLimit, c.UnsafeNoFsync, c.WarnApply = s.batchInterval, s.batchLimit, s.noFsync, s.warnApply
	c.DefragmentAtStart = int64(s.defragment) << 20
	c.CorruptCheckInterval, c.CompactHashCheckInterval = s.corruptCheck, s.compactHashCheck
	c.CompactionBatch, c.CompactionSleep = s.compactionBatch, s.compactionSleep
	return wrong.Err()
}

// parseAutoCompaction reads the two flags as etcd does: a number is hours, or revisions.
//
// A duration given to the mode revision is refused. etcd takes its nanoseconds for revisions.
func parseAutoCompaction(mode, retention string) (core.AutoCompaction, error) {
	var none core.AutoCompaction
	if err := oneOf("auto-compaction-mode", mode, "periodic", "revision"); err != nil {
		return none, err
	}
	if retention == "" {
		return none, nil
	}
	n, numberErr := strconv.ParseInt(retention, 10, 64)
	if mode == "revision" {
		if numberErr != nil || n < 0 {
			return none, fmt.Errorf("malformed --auto-compaction-retention=%s: give a number of revisions, or --auto-compaction-mode=periodic", retention)
		}
		if n == 0 {
			return none, nil
		}
		return core.AutoCompaction{Mode: mode, Revisions: n}, nil
	}
	period, err := time.ParseDuration(retention)
	if numberErr == nil {
		period, err = time.Duration(n)*time.Hour, nil
	}
	if err != nil || period < 0 || numberErr == nil && n > math.MaxInt64/int64(time.Hour) {
		return none, fmt.Errorf("malformed --auto-compaction-retention=%s: give hours, or a duration with its unit as in 30m", retention)
	}
	if period == 0 {
		return none, nil
	}
	return core.AutoCompaction{Mode: mode, Retention: period}, nil
}
