package core

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/core/lease"
	"weir/grpcapi/wire"
	"weir/internal/bubble"
)

// compaction is one that a compactor asked for.
type compaction struct {
	after    time.Duration // since its start
	revision int64
}

// runCompactor lets a compactor run for that long. Its store gets a revision a minute; step is called before each of
// them.
func runCompactor(t *testing.T, a AutoCompaction, runFor time.Duration, step func(minute int, fails, leads *atomic.Bool)) (asked []compaction) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		start := time.Now()
		var fails, leads atomic.Bool
		leads.Store(true)
		c := &compactor{
			AutoCompaction: a, clock: lease.SystemClock{}, logger: slog.New(slog.DiscardHandler),
			revision: func() int64 { return 1 + int64(time.Since(start)/time.Minute) },
			leads:    leads.Load,
			compact: func(_ context.Context, revision int64) error {
				asked = append(asked, compaction{time.Since(start), revision})
				if fails.Load() {
					return errors.New("no quorum")
				}
				return nil
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		go c.run(ctx)
		for minute := 0; time.Since(start) < runFor; minute++ {
			if step != nil {
				step(minute, &fails, &leads)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
		}
		cancel()
		synctest.Wait()
	})
	return asked
}

func TestPeriodicCompactionKeepsTheRetention(t *testing.T) {
	for name, c := range map[string]struct {
		retention, every time.Duration
	}{
		"minutes":    {30 * time.Minute, 30 * time.Minute},
		"an hour":    {time.Hour, time.Hour},
		"many hours": {5 * time.Hour, time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			asked := runCompactor(t, AutoCompaction{Mode: "periodic", Retention: c.retention}, 10*time.Hour, nil)
			if len(asked) == 0 {
				t.Fatal("none")
			}
			for i, a := range asked {
				if want := c.retention + time.Duration(i)*c.every; a.after != want {
					t.Errorf("compaction %d after %v, want %v", i, a.after, want)
				}
				kept := c.retention
				if i > 0 {
					kept += min(c.retention, time.Hour) / 10 // etcd's window is as much too long
				}
				if want := 1 + int64((a.after-kept)/time.Minute); a.revision != want {
					t.Errorf("after %v to revision %d, want %d", a.after, a.revision, want)
				}
			}
		})
	}
}

func TestPeriodicCompactionThatFailsIsTriedAgainAtTheNextNote(t *testing.T) {
	asked := runCompactor(t, AutoCompaction{Mode: "periodic", Retention: time.Hour}, 3*time.Hour, func(minute int, fails, _ *atomic.Bool) {
		fails.Store(minute < 70)
	})
	var after []time.Duration
	for _, a := range asked {
		after = append(after, a.after)
	}
	want := []time.Duration{60 * time.Minute, 66 * time.Minute, 72 * time.Minute, 132 * time.Minute}
	if len(after) != len(want) {
		t.Fatalf("after %v, want %v", after, want)
	}
	for i := range want {
		if after[i] != want[i] {
			t.Fatalf("after %v, want %v", after, want)
		}
	}
}

func TestOnlyTheLeaderCompacts(t *testing.T) {
	for _, a := range []AutoCompaction{{Mode: "periodic", Retention: time.Hour}, {Mode: "revision", Revisions: 10}} {
		asked := runCompactor(t, a, 5*time.Hour, func(minute int, _, leads *atomic.Bool) { leads.Store(minute >= 200) })
		if len(asked) == 0 || asked[0].after < 200*time.Minute {
			t.Errorf("%s: %v", a.Mode, asked)
		}
	}
}

func TestRevisionCompactionKeepsTheNewest(t *testing.T) {
	asked := runCompactor(t, AutoCompaction{Mode: "revision", Revisions: 100}, 3*time.Hour, nil)
	if len(asked) == 0 || asked[0].after != 100*time.Minute {
		t.Fatalf("%v", asked)
	}
	for _, a := range asked {
		if a.after%compactEvery != 0 || a.revision != 1+int64(a.after/time.Minute)-100 {
			t.Errorf("after %v to revision %d", a.after, a.revision)
		}
	}
}

func TestWithoutARetentionNothingIsCompacted(t *testing.T) {
	for _, a := range []AutoCompaction{{}, {Mode: "periodic"}, {Mode: "revision"}, {Mode: "periodic", Revisions: 5}} {
		if asked := runCompactor(t, a, 24*time.Hour, nil); len(asked) != 0 {
			t.Errorf("%+v: %v", a, asked)
		}
	}
}

func TestTheMemberCompactsByItself(t *testing.T) {
	clock := newTestClock()
	n := openNode(t, t.TempDir(), func(c *Config) {
		c.Clock, c.AutoCompaction = clock, AutoCompaction{Mode: "revision", Revisions: 3}
	})
	defer closeNode(t, n)
	for range 10 {
		mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
	}
	for deadline := time.Now().Add(10 * time.Second); n.store.CompactRevision() < 8; {
		if time.Now().After(deadline) {
			t.Fatalf("compacted to %d", n.store.CompactRevision())
		}
		clock.advance(compactEvery)
	}
	if _, err := n.Range(t.Context(), &wire.RangeRequest{Key: []byte("k"), Revision: 8}); err != nil {
		t.Errorf("what is kept: %v", err)
	}
}

func TestAnUnknownModeOfCompactionIsRefusedInOneLine(t *testing.T) {
	_, err := Open(Config{DataDir: t.TempDir(), AutoCompaction: AutoCompaction{Mode: "daily"}})
	if err == nil || !strings.Contains(err.Error(), "--auto-compaction-mode=daily") {
		t.Errorf("got %v", err)
	}
}
