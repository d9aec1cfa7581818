package access

import (
	"sync"
	"time"
)

// goneLeases are leases of which upstream has said within maxAge that they are not there. They are for pings only: by one that comes
// a moment too early a lease is kept alive once that somebody else has just been granted, while a put or a revocation would do
// more. The zero value is ready for use.
type goneLeases struct {
	mu sync.Mutex              // guards what follows
	at map[int64]time.Duration // when upstream was asked
}

// maxGoneLeases are some 3 MB.
const maxGoneLeases = 1 << 16

// add notes that upstream, asked then, had no such lease. Where there is no room all others are forgotten, which are looked up again.
func (l *goneLeases) add(id int64, asked time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.at == nil || len(l.at) >= maxGoneLeases {
		l.at = map[int64]time.Duration{}
	}
	l.at[id] = asked
}

// has tells whether a lease was not there a moment before now.
func (l *goneLeases) has(id int64, now time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	asked, ok := l.at[id]
	return ok && now-asked <= maxAge
}
