package process

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"
)

// limiter is a handler that writes, in any logPeriod, no more than so many lines of one message, and at the end of it one that says
// how many were left out. What a client, a peer or upstream can cause again and again so costs a bounded number of lines, whoever
// logs it, while each message that is new is written at once.
//
// A message is its text and level: its attributes differ from line to line. So a text is a constant, and what varies an attribute.
// One that is not is bounded too: beyond maxMessages all share one count.
//
// Rejected: a limit where each line is logged, which is forgotten where it matters; and sampling (each hundredth), of which nobody
// knows what it has left out.
type limiter struct {
	next   slog.Handler
	counts *logCounts // of all that are derived from one
}

const (
	logPeriod   = 10 * time.Second
	logLines    = 20   // of one message in a period
	debugLines  = 1000 // likewise, at debug level: who asks for that wants to see much, but not to fill the disk
	maxMessages = 1000
)

// logCounts is how often each message was logged in the current period.
type logCounts struct {
	mu     sync.Mutex // guards what follows
	of     map[logMessage]*logCount
	begun  time.Time   // the period
	end    *time.Timer // tells what was left out; nil if nothing was
	closed bool
	by     slog.Handler // writes what is told, without the attributes that only some of the lines had
}

type logMessage struct {
	level slog.Level
	text  string
}

type logCount struct{ lines, omitted int }

func newLimiter(next slog.Handler) *limiter {
	return &limiter{next: next, counts: &logCounts{of: map[logMessage]*logCount{}, by: next}}
}

// Enabled is slog.Handler's.
func (l *limiter) Enabled(ctx context.Context, level slog.Level) bool {
	return l.next.Enabled(ctx, level)
}

// WithAttrs is slog.Handler's.
func (l *limiter) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &limiter{next: l.next.WithAttrs(attrs), counts: l.counts}
}

// WithGroup is slog.Handler's.
func (l *limiter) WithGroup(name string) slog.Handler {
	return &limiter{next: l.next.WithGroup(name), counts: l.counts}
}

// Handle is slog.Handler's.
func (l *limiter) Handle(ctx context.Context, r slog.Record) error {
	if !l.counts.admit(logMessage{r.Level, r.Message}) {
		return nil
	}
	return l.next.Handle(ctx, r)
}

// admit tells whether a message is to be written.
func (c *logCounts) admit(m logMessage) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.begun) >= logPeriod {
		if c.end == nil { // else that is about to end it
			clear(c.of)
			c.begun = now
		}
	}
	n := c.of[m]
	if n == nil {
		if len(c.of) >= maxMessages {
			m = logMessage{m.level, "other messages"}
			n = c.of[m]
		}
		if n == nil {
			n = &logCount{}
			c.of[m] = n
		}
	}
	most := logLines
	if m.level < slog.LevelInfo {
		most = debugLines
	}
	if n.lines < most || c.closed {
		n.lines++
		return true
	}
	n.omitted++
	if c.end == nil {
		c.end = time.AfterFunc(time.Until(c.begun.Add(logPeriod)), c.tell)
	}
	return false
}

// tell ends the period, and writes how many lines of which message were left out in it.
func (c *logCounts) tell() {
	c.mu.Lock()
	of := maps.Clone(c.of)
	clear(c.of)
	c.begun, c.end = time.Now(), nil
	c.mu.Unlock()
	for m, n := range of {
		if n.omitted > 0 {
			r := slog.NewRecord(time.Now(), m.level, m.text, 0)
			r.AddAttrs(slog.Int("more-like-this", n.omitted), slog.Duration("within", logPeriod))
			_ = c.by.Handle(context.Background(), r) // as in Log, there is nobody to tell
		}
	}
}

// close tells what is still to be told, and limits nothing any more.
func (l *limiter) close() {
	c := l.counts
	c.mu.Lock()
	owed := c.end != nil && c.end.Stop()
	c.closed = true
	c.mu.Unlock()
	if owed {
		c.tell()
	}
}
