package core

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// diskReserve is how many bytes writes leave free on the disk of the data directory: for the log's next segment, which
// is taken whole, and for the store's pages. Without a reserve the first write that fails would end the member, and reads
// with it. The deletions and compactions that make room again live on it too. What has been let through and is not
// written yet comes on top, twice: it goes into the log and into the store.
const diskReserve = 64<<20 + 64<<20

// The disk is asked again after diskCheckInterval, and after diskCheckBytes have been let through.
const (
	diskCheckInterval = 100 * time.Millisecond
	diskCheckBytes    = 8 << 20
)

// diskGuard tells whether writes have come to the reserve. Methods may be called concurrently.
type diskGuard struct {
	dir     string
	free    func(dir string) (bytes int64, err error)
	pending func() (bytes int) // let through and not written yet
	logger  *slog.Logger

	low     atomic.Bool
	checked atomic.Int64 // when the disk was last asked, Unix time in nanoseconds
	through atomic.Int64 // bytes let through since
	asking  sync.Mutex   // of who asks the disk: a file system that hangs holds up one writer, not all
}

// isLow tells whether there is less than the reserve free for another write of some bytes. A disk that cannot be asked
// counts as having room: when it has none, the write that fails says so. A disk that was low is asked again for each write: an old
// answer would raise, once more, the alarm that somebody who has made room has just cleared.
func (g *diskGuard) isLow(bytes int) bool {
	due := g.low.Load() || time.Now().UnixNano()-g.checked.Load() >= int64(diskCheckInterval)
	if g.through.Add(int64(bytes)) >= diskCheckBytes || due {
		g.ask()
	}
	return g.low.Load()
}

// room is how many bytes may be written to the disk at once, beside the writes; it may be negative. It is not known of a disk that
// cannot be asked.
func (g *diskGuard) room() (bytes int64, known bool) {
	free, err := g.free(g.dir)
	return free - g.reserve(), err == nil
}

func (g *diskGuard) reserve() int64 { return diskReserve + 2*int64(g.pending()+diskCheckBytes) }

func (g *diskGuard) ask() {
	if !g.asking.TryLock() {
		return
	}
	defer g.asking.Unlock()
	g.checked.Store(time.Now().UnixNano())
	g.through.Store(0)
	free, err := g.free(g.dir)
	reserve := g.reserve()
	low := err == nil && free < reserve
	if was := g.low.Swap(low); low && !was {
		g.logger.Warn("the disk is nearly full: writes are refused", "data-dir", g.dir, "free", free, "reserve", reserve)
	}
}
