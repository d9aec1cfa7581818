package core

import (
	"log/slog"
	"sync"
	"time"
)

// diskReserve is how many bytes writes leave free on the disk of the data directory: room for the log's next segment
// and for the store to take what is in the log, and for the deletions and compactions that make room again. Without a
// reserve the first write that fails would end the member, and reads with it.
const diskReserve = 128 << 20

// diskCheckInterval bounds how often the disk is asked. At a gigabyte a second it sees the reserve coming.
const diskCheckInterval = 100 * time.Millisecond

// diskGuard tells whether writes have come to the reserve. Methods may be called concurrently.
type diskGuard struct {
	dir    string
	free   func(dir string) (bytes int64, err error)
	logger *slog.Logger

	mu      sync.Mutex // guards all below
	checked time.Time
	low     bool
}

// isLow tells whether less than the reserve is free. A disk that cannot be asked counts as having room: when it has
// none, the write that fails says so.
func (g *diskGuard) isLow() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := time.Now(); now.Sub(g.checked) >= diskCheckInterval {
		g.checked = now
		free, err := g.free(g.dir)
		low := err == nil && free < diskReserve
		if low && !g.low {
			g.logger.Warn("the disk is nearly full: writes are refused", "data-dir", g.dir, "free", free, "reserve", diskReserve)
		}
		g.low = low
	}
	return g.low
}
