package core

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"weir/core/auth"
	"weir/core/lease"
)

// AutoCompaction says what the member compacts by itself. The zero value: nothing.
type AutoCompaction struct {
	// Mode is "periodic", to keep what is not older than Retention, or "revision", to keep the newest Revisions.
	Mode string
	// Retention is how far back a periodic compaction keeps history; 0 turns it off.
	Retention time.Duration
	// Revisions is how many of them are kept; 0 turns it off.
	Revisions int64
}

func (a AutoCompaction) check() error {
	switch a.Mode {
	case "", "periodic", "revision":
	default:
		return fmt.Errorf("--auto-compaction-mode=%s is not known: give periodic or revision", a.Mode)
	}
	if a.Retention < 0 || a.Revisions < 0 {
		return errors.New("--auto-compaction-retention must not be negative")
	}
	return nil
}

// compactor compacts the store by itself while this member leads, by etcd's rules (its v3compactor package), so that
// as much history is kept as there. It lives in one goroutine, run.
type compactor struct {
	AutoCompaction
	clock    lease.Clock
	logger   *slog.Logger
	revision func() int64 // the newest
	leads    func() bool
	// compact has a compaction committed; one as late as an earlier one is no error.
	compact func(ctx context.Context, revision int64) error
}

// compactEvery is how often the compaction by revision looks.
const compactEvery = 5 * time.Minute

// run returns when ctx has ended, or at once if there is nothing to do.
func (c *compactor) run(ctx context.Context) {
	switch {
	case c.Mode == "periodic" && c.Retention > 0:
		c.runPeriodic(ctx)
	case c.Mode == "revision" && c.Revisions > 0:
		c.runRevision(ctx)
	}
}

// runPeriodic notes the revision ten times an interval, and once each interval, an hour at most, compacts to the one that
// was the newest a retention ago, or one note before; for the first time when a retention has passed since the start.
// What fails is tried again at the next note.
func (c *compactor) runPeriodic(ctx context.Context) {
	interval := min(c.Retention, time.Hour)
	pause := max(interval/10, time.Millisecond)
	most := int(c.Retention/pause) + 1
	var notes []int64
	var last int64
	due := c.clock.Now().Add(c.Retention)
	for {
		if notes = append(notes, c.revision()); len(notes) > most {
			notes = notes[1:]
		}
		if !c.sleep(ctx, pause) {
			return
		}
		oldest := notes[0]
		if !c.leads() || oldest == last || c.clock.Now().Before(due) {
			continue
		}
		if c.compactTo(ctx, oldest) {
			last, due = oldest, c.clock.Now().Add(interval)
		}
	}
}

// runRevision compacts every compactEvery to what lies Revisions before the newest.
func (c *compactor) runRevision(ctx context.Context) {
	var last int64
	for c.sleep(ctx, compactEvery) {
		revision := c.revision() - c.Revisions
		if c.leads() && revision > 0 && revision != last && c.compactTo(ctx, revision) {
			last = revision
		}
	}
}

// sleep reports whether d has passed, and ctx has not ended.
func (c *compactor) sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-c.clock.At(c.clock.Now().Add(d)):
		return true
	case <-ctx.Done():
		return false
	}
}

func (c *compactor) compactTo(ctx context.Context, revision int64) bool {
	if err := c.compact(ctx, revision); err != nil {
		c.logger.Warn("could not compact automatically", "mode", c.Mode, "revision", revision, "error", err)
		return false
	}
	c.logger.Info("compacted automatically", "mode", c.Mode, "revision", revision)
	return true
}

// autoCompact is the goroutine of the compactor.
func (n *Node) autoCompact() {
	defer n.goroutines.Done()
	c := &compactor{
		AutoCompaction: n.cfg.AutoCompaction, clock: n.cfg.Clock, logger: n.logger,
		revision: n.store.Revision, leads: n.leads,
		compact: func(ctx context.Context, revision int64) error {
			_, err := n.proposeAs(ctx, kindCompact, auth.Identity{}, &pb.CompactionRequest{Revision: revision})
			if errors.Is(err, rpctypes.ErrGRPCCompacted) {
				err = nil
			}
			return err
		},
	}
	c.run(n.ctx)
}
