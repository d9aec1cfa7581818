package access

import (
	"log/slog"
	"sync"
	"time"
)

// complaint is what keeps the proxy's own identity from being of use, while something does: a wrong password, or too few rights.
// All methods may be called concurrently.
type complaint struct {
	log   *slog.Logger
	clock clock

	mu    sync.Mutex // guards what follows
	error string     // "" if there is nothing to complain of
	said  time.Duration
}

// complaintInterval is how often the log is told the same.
const complaintInterval = time.Minute

// about says what is wrong, and how to mend it.
func (c *complaint) about(user string, err error, mend string) {
	c.mu.Lock()
	text, now := err.Error(), c.clock.now()
	again := text == c.error && now-c.said < complaintInterval
	if !again {
		c.error, c.said = text, now
	}
	c.mu.Unlock()
	if !again {
		c.log.Warn("the proxy's own identity is of no use upstream: "+mend, "user", user, "error", text)
	}
}

// over says that the identity is of use, or not needed.
func (c *complaint) over() {
	c.mu.Lock()
	was := c.error
	c.error = ""
	c.mu.Unlock()
	if was != "" {
		c.log.Info("the proxy's own identity is of use upstream again, or not needed any more")
	}
}

func (c *complaint) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.error
}
