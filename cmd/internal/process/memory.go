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

// How much garbage may stand beside what lives, in percent. A server of short requests has little that lives and much garbage: at Go's
// default of 100 it collects for a sixth to a fifth of its processor time; docs/measurements.md has the figures.
//
// But that is so only of what lives for the sake of requests. What lives for long (an index, a cache, history, the log) makes little
// garbage, and several times as much memory beside it is spent for nothing. How much of either lives nobody counts; requests that are
// under way seldom have more than workingBytes, so the rest is taken for the other. Rejected: to ask the caches how large they are,
// which left out the history of watches, and let a proxy grow by four times what that takes.
const (
	gcPercent    = 400
	workingBytes = 16 << 20
	keptPercent  = 50 // beside what lives beyond workingBytes
	// leastGarbage is how many bytes of garbage may stand beside however little lives: a server of which hardly anything
	// lives would collect fifty times a second.
	leastGarbage = 32 << 20
)

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

// SpareMemory keeps the garbage that may stand as it should be for what lives. It returns when ctx ends, or at once if the operator has
// set GOGC.
func SpareMemory(ctx context.Context) {
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
		percent := garbagePercent(int(sample[0].Value.Uint64()))
		if percent < set*9/10 || percent > set*11/10 { // each change stops the world for a moment
			set = percent
			debug.SetGCPercent(set)
		}
	}
}

// garbagePercent is how much garbage may stand beside live bytes.
func garbagePercent(live int) int {
	if live == 0 {
		return gcPercent
	}
	working := min(live, workingBytes)
	return max(gcPercent*working+keptPercent*(live-working), 100*leastGarbage) / live
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
