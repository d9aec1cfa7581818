package process

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"
)

// gcPercent is how much garbage may stand beside what lives, in percent. A server of short requests has little
// that lives and much garbage, and a quarter of its CPU time goes into collecting at Go's default of 100.
const gcPercent = 400

// TuneMemory sets the garbage collector for a server: gcPercent, and a limit of three quarters of the memory that
// this process may use, near which the collector works harder instead of letting the kernel end the process. What
// the operator says with GOGC and GOMEMLIMIT stands.
func TuneMemory() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		if total := AvailableMemory(); total > 0 {
			debug.SetMemoryLimit(total / 4 * 3)
		}
	}
}

const (
	// cachedPercent is how much garbage may stand beside what lives in a cache: it makes none.
	cachedPercent = 50
	// leastGarbage is how many bytes of garbage may stand beside however little lives: a server of which hardly anything
	// lives would collect fifty times a second.
	leastGarbage = 32 << 20
)

// SpareCache keeps the garbage that may stand in proportion to what makes garbage: cached tells how many bytes live
// only in a cache, of which gcPercent would be several times as much memory for nothing. It returns when ctx ends, or at
// once if the operator has set GOGC.
func SpareCache(ctx context.Context, cached func() int) {
	spare(ctx, func(int) int { return cached() })
}

// SpareStore is SpareCache for a process that holds a store. What lives there for long (the index of all keys, what is kept of
// the log and of the history) makes as little garbage as a cache, and is all but workingBytes.
func SpareStore(ctx context.Context) {
	spare(ctx, func(live int) int { return live - workingBytes })
}

// workingBytes is about what lives in a store for the sake of the requests that are under way, when they are many.
const workingBytes = 16 << 20

// spare is SpareCache, where cached is also told how many bytes live in all.
func spare(ctx context.Context, cached func(live int) int) {
	if os.Getenv("GOGC") != "" {
		return
	}
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	set := gcPercent
	ticks := time.NewTicker(time.Second)
	defer ticks.Stop()
	for {
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return
		}
		metrics.Read(sample)
		live := int(sample[0].Value.Uint64())
		percent := garbagePercent(live, cached(live))
		if percent < set*9/10 || percent > set*11/10 { // each change stops the world for a moment
			set = percent
			debug.SetGCPercent(set)
		}
	}
}

// garbagePercent is how much garbage may stand beside live bytes, of which some are cached.
func garbagePercent(live, cached int) int {
	if live == 0 {
		return gcPercent
	}
	cached = max(0, min(cached, live))
	return max(gcPercent*(live-cached)+cachedPercent*cached, 100*leastGarbage) / live
}

// AvailableMemory is the limit of the control group, else the machine's memory, in bytes; 0 when neither can be
// read, as on systems without /proc.
func AvailableMemory() int64 {
	limit := int64(0)
	for _, file := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		if b, err := os.ReadFile(file); err == nil {
			if n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64); err == nil && n > 0 {
				limit = n
				break
			}
		}
	}
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return limit
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err == nil && (limit == 0 || kb<<10 < limit) {
				return kb << 10
			}
		}
	}
	return limit
}
