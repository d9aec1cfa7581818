package process

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/internal/bubble"
)

// logTo is a log in a file, and what it has by now.
func logTo(t *testing.T, level string) (*Log, func() string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "log")
	log, err := OpenLog(LogConfig{Level: level, Outputs: []string{path}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	return log, func() string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
}

func TestAChangeCountsWhenItWasFoundTwice(t *testing.T) {
	var s Steady
	s.Start("old")
	for i, c := range []struct {
		content string
		forced  bool
		want    bool
	}{
		{"old", false, false},
		{"half", false, false},
		{"whole", false, false}, // it was being written
		{"whole", false, true},
		{"whole", false, false}, // once
		{"", false, false},      // away for a moment
		{"whole", false, false},
		{"whole", false, false},
		{"new", true, true}, // somebody says that it is whole
		{"new", false, false},
		{"new", true, true},
	} {
		if got := s.Judge(c.forced, c.content); got != c.want {
			t.Errorf("%d: %q: %v", i, c.content, got)
		}
	}
}

func TestFilesAreLookedAtAgainAndAgain(t *testing.T) {
	log, _ := logTo(t, "info")
	bubble.Test(t, func(t *testing.T) {
		r := NewReloader(log)
		looks := 0
		r.Add("file", func(forced bool) error {
			if forced {
				t.Error("nobody has asked")
			}
			looks++
			return nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), 10*lookInterval+time.Second)
		defer cancel()
		r.run(ctx, nil)
		if looks != 10 {
			t.Errorf("%d looks", looks)
		}
	})
}

func TestWhatBecameOfAReloadIsTold(t *testing.T) {
	log, text := logTo(t, "info")
	r := NewReloader(log)
	var bad error
	r.Add("file", func(bool) error {
		if bad != nil {
			r.Refused("file", bad)
		} else {
			r.Applied("file", "limits")
		}
		return bad
	})
	r.look(false)
	bad = errors.New("file.yaml:3: no such thing\nand more")
	r.look(false)
	r.look(false)
	s := r.Status()[0]
	if s.Reloaded != 1 || s.Refused != 1 || !s.Stale || s.LastRefusal != "file.yaml:3: no such thing; and more" || s.At == nil || s.LastRefusalAt == nil {
		t.Errorf("status: %+v", s)
	}
	r.handle(reloadNow)
	if n := strings.Count(text(), "not reloaded, what was there before stays in use"); n != 2 {
		t.Errorf("the refusal is told %d times, not once and once more to who asked", n)
	}
	bad = nil
	r.handle(reloadNow)
	if s := r.Status()[0]; s.Reloaded != 2 || s.Stale {
		t.Errorf("status: %+v", s)
	}
	if _, err := NewRegistry("proxy", r); err != nil {
		t.Error(err)
	}
	if !strings.Contains(text(), `"msg":"reloaded all there is"`) || !strings.Contains(text(), `"what":"file","changed":["limits"]`) {
		t.Errorf("the log is %s", text())
	}
}

func TestTheLogLevelChangesWhileItIsUsed(t *testing.T) {
	log, text := logTo(t, "warn")
	r := NewReloader(log)
	derived := log.With("of", "derived")
	say := func(want ...string) {
		t.Helper()
		before := len(text())
		derived.Debug("a debug line")
		derived.Info("an info line")
		got := text()[before:]
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("at level %s there is no %s", log.Level(), w)
			}
		}
		if strings.Count(got, "\n") != len(want) {
			t.Errorf("at level %s: %s", log.Level(), got)
		}
	}
	say()
	r.handle(logMore)
	say("a debug line", "an info line")
	if err := log.Configure("info"); err != nil {
		t.Fatal(err)
	}
	say("a debug line", "an info line")
	r.handle(logLess)
	say("an info line")
	if err := log.Configure("loud"); err == nil || log.Level() != "info" {
		t.Errorf("level %s, %v", log.Level(), err)
	}
}

func TestValuesTellWhichFlagsHaveChanged(t *testing.T) {
	values := func(args ...string) map[string]string {
		f := NewFlags("test", "TEST")
		f.String("name", "", "")
		f.Int("number", 1, "")
		f.Func("list", "", func(string) error { return nil })
		if err := f.Parse(args, []string{"TEST_NUMBER=7"}); err != nil {
			t.Fatal(err)
		}
		return f.Values()
	}
	before := values("--name=a", "--list=x", "--list=y")
	if got := Changed(before, values("--name=a", "--list=x", "--list=y")); got != nil {
		t.Errorf("nothing has changed but %v", got)
	}
	if got := Changed(before, values("--list=x,y", "--number=8")); strings.Join(got, " ") != "list name number" {
		t.Errorf("changed: %v", got)
	}
}
