package process

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"weir/internal/bubble"
)

// written is what a log has written so far.
type written struct {
	mu  sync.Mutex // guards buf
	buf strings.Builder
}

func (w *written) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(b)
}

func (w *written) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

func newLimited(level slog.Level) (*slog.Logger, *written, *limiter) {
	out := &written{}
	l := newLimiter(newLineHandler(level, formatJSON, &outputs{writers: []io.Writer{out}}))
	return slog.New(l), out, l
}

func TestAFloodOfOneMessageIsAFewLinesAndACount(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		log, out, l := newLimited(slog.LevelInfo)
		defer l.close()
		const seconds, each = 60, 1000
		for s := range seconds {
			for i := range each {
				log.With("client", i).Warn("flood", "at", s)
			}
			if s == 0 {
				log.Info("something else")
			}
			time.Sleep(time.Second)
		}
		time.Sleep(logPeriod)
		text := out.String()
		periods := int(seconds*time.Second/logPeriod) + 1
		if n := strings.Count(text, `"msg":"flood"`); n > periods*(logLines+1) || n < logLines {
			t.Errorf("%d lines in %d periods", n, periods)
		}
		told := strings.Count(text, `"msg":"flood"`) - strings.Count(text, "more-like-this")
		for line := range strings.Lines(text) {
			if _, rest, ok := strings.Cut(line, `"more-like-this":`); ok {
				var n int
				if _, err := fmt.Sscan(strings.Split(rest, ",")[0], &n); err != nil {
					t.Fatal(err)
				}
				told += n
			}
		}
		if told != seconds*each {
			t.Errorf("%d lines are told of, %d were logged", told, seconds*each)
		}
		if strings.Count(text, "something else") != 1 {
			t.Error("another message was lost")
		}
		for range logLines {
			log.Warn("flood")
		}
		if n := strings.Count(out.String()[len(text):], "\n"); n != logLines {
			t.Errorf("of a new period %d lines are written", n)
		}
	})
}

func TestWhatWasLeftOutIsToldAtTheEnd(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		log, out, l := newLimited(slog.LevelInfo)
		for range logLines + 5 {
			log.Error("flood")
		}
		l.close()
		if !strings.Contains(out.String(), `"msg":"flood","more-like-this":5,`) {
			t.Errorf("got %s", out.String())
		}
	})
}

// A line that counts those of many must not look as if all were one's.
func TestTheCountIsNobodys(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		log, out, l := newLimited(slog.LevelInfo)
		for i := range logLines + 5 {
			log.With("tenant", i).Warn("flood")
		}
		l.close()
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if last := lines[len(lines)-1]; !strings.Contains(last, `"more-like-this":5`) || strings.Contains(last, "tenant") {
			t.Errorf("got %s", last)
		}
	})
}

func TestMessagesThatAreNoConstantsAreBoundedToo(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		log, out, l := newLimited(slog.LevelInfo)
		for i := range 100_000 {
			log.Info(fmt.Sprint("message ", i))
		}
		if n := len(l.counts.of); n > maxMessages+1 {
			t.Errorf("%d are counted", n)
		}
		l.close()
		if n := strings.Count(out.String(), "\n"); n > maxMessages+2*logLines {
			t.Errorf("%d lines", n)
		}
	})
}

func TestDebugLinesAreBoundedLater(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		log, out, l := newLimited(slog.LevelDebug)
		for range 2 * debugLines {
			log.Debug("flood")
		}
		l.close()
		if n := strings.Count(out.String(), "\n"); n != debugLines+1 {
			t.Errorf("%d lines", n)
		}
	})
}
