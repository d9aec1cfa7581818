package process

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

func TestOptionsCountAllOrNoneAndTheRestNeedsARestart(t *testing.T) {
	log, text := logTo(t, "info")
	r := NewReloader(log)
	start := map[string]string{"level": "info", "port": "1"}
	found, broken, refuse := start, error(nil), error(nil)
	var applied [][]string
	r.AddOptions(Options{Live: []string{"level", "limit"}, Read: func() (map[string]string, func([]string) error, error) {
		return found, func(changed []string) error {
			if refuse == nil {
				applied = append(applied, changed)
			}
			return refuse
		}, broken
	}}, start)
	step := func(what string, forced bool, reloaded, refused uint64, stale bool, want ...string) {
		t.Helper()
		applied = nil
		r.look(forced)
		if !forced {
			r.look(false) // it has to be found twice
		}
		s := r.Status()[0]
		if s.Reloaded != reloaded || s.Refused != refused || s.Stale != stale || len(want) > 0 != (len(applied) == 1) || len(want) > 0 && !slices.Equal(applied[0], want) {
			t.Errorf("%s: %+v, applied %v, want %v", what, s, applied, want)
		}
	}
	step("nothing", false, 0, 0, false)
	step("nothing, asked for", true, 0, 0, false)
	found = map[string]string{"level": "debug", "port": "2", "limit": "5"}
	step("a change", false, 1, 0, false, "level", "limit")
	step("the same", false, 1, 0, false)
	if n := strings.Count(text(), `"msg":"changed options count only after a restart","flags":["port"]`); n != 1 {
		t.Errorf("what needs a restart is said %d times: %s", n, text())
	}
	broken = errors.New("file.yaml:3: unknown key")
	step("a bad file", false, 1, 1, true)
	step("the same bad file", false, 1, 1, true)
	broken = nil
	step("a good file again", false, 2, 1, false)
	found, refuse = map[string]string{"level": "loud", "port": "2", "limit": "5"}, errors.New("no such level")
	step("what cannot be applied", false, 2, 2, true)
	refuse = nil
	found = map[string]string{"level": "warn", "port": "1"}
	step("another, and the port as it was", false, 3, 2, false, "level", "limit")
}

// What the options name may be right by now, although they are as they were.
func TestOptionsThatCouldNotBeAppliedAreTriedAgain(t *testing.T) {
	log, text := logTo(t, "info")
	r := NewReloader(log)
	found, refuse := map[string]string{"level": "info"}, error(nil)
	applied := 0
	r.AddOptions(Options{Live: []string{"level"}, Read: func() (map[string]string, func([]string) error, error) {
		return found, func([]string) error {
			applied++
			return refuse
		}, nil
	}}, found)
	found, refuse = map[string]string{"level": "warn"}, errors.New("it names a file that is not there")
	for range 5 {
		r.look(false)
	}
	if s := r.Status()[0]; s.Refused != 1 || !s.Stale || strings.Count(text(), "not reloaded") != 1 {
		t.Errorf("while it is not there: %+v, %s", s, text())
	}
	refuse = nil
	r.look(false)
	if s := r.Status()[0]; s.Reloaded != 1 || s.Stale {
		t.Errorf("when it is there: %+v", s)
	}
	was := applied
	r.look(false)
	if applied != was {
		t.Error("it is applied again")
	}
}
