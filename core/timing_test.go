package core

import (
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestAnotherTimingThanTheLeadersIsComplainedOf(t *testing.T) {
	usual := timing{100 * time.Millisecond, time.Second}
	for _, c := range []struct {
		own, leaders timing
		want         string
	}{
		{usual, usual, ""},
		{usual, timing{200 * time.Millisecond, time.Second}, "is not the leader's"},
		{usual, timing{100 * time.Millisecond, 5 * time.Second}, "is not the leader's"},
		{usual, timing{201 * time.Millisecond, 5 * time.Second}, "less than 5 of the leader's"},
	} {
		if got := c.own.differsFrom(c.leaders); !strings.Contains(got, c.want) || (got == "") != (c.want == "") {
			t.Errorf("%v beside %v: %q, want %q", c.own, c.leaders, got, c.want)
		}
	}
}

// logged is what a member logs.
type logged struct {
	mu    sync.Mutex // guards lines
	lines strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines.Write(p)
}

func (l *logged) has(what string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.lines.String(), what)
}

func TestAMemberWithAnotherTimingThanTheLeaderSaysSo(t *testing.T) {
	logs := map[string]*logged{"m0": {}, "m1": {}, "m2": {}}
	c := newCluster(t, 3, func(cfg *Config) {
		cfg.Logger = slog.New(slog.NewTextHandler(logs[cfg.Name], nil))
		if cfg.Name == "m0" {
			cfg.ElectionTimeout *= 2
		}
	})
	c.until("one who has another timing than the leader says so", func() bool {
		leader := c.members[c.leader()].name
		return leader == "m0" && logs["m1"].has("is not the leader's") && logs["m2"].has("is not the leader's") ||
			leader != "m0" && logs["m0"].has("is not the leader's")
	})
	c.put(0, "k", "v")
	c.wantAll("k", "v")
}
