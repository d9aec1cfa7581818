package process

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/grpcapi/statuspage"
)

func TestThePageSaysWhatIsNotReloadedForAsLongAsItIs(t *testing.T) {
	log, _ := logTo(t, "info")
	r := NewReloader(log)
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	r.now = func() time.Time { return now }
	var bad error
	r.Add("tenants", func(bool) error {
		if bad != nil {
			r.Refused("tenants", bad)
		}
		return bad
	})
	if got := r.Reloads().Notices(false); got != nil {
		t.Errorf("while all is well: %v", got)
	}
	bad = errors.New("tenants.yaml:3: no such thing")
	r.look(false)
	got := r.Reloads().Notices(true)
	if len(got) != 2 || got[0].Level != statuspage.Warn || !strings.Contains(got[0].Text, "Draining") ||
		got[1].Level != statuspage.Bad || !strings.HasSuffix(got[1].Text, "tenants: tenants.yaml:3: no such thing") {
		t.Errorf("got %v", got)
	}
	bad = nil
	r.look(false)
	if s := r.Status()[0]; s.Stale || s.LastRefusal == "" || s.MendedAt == nil || !s.MendedAt.Equal(now) || r.Reloads().Notices(false) != nil {
		t.Errorf("when it is mended: %+v", s)
	}
	now = now.Add(keepMended)
	if s := r.Status()[0]; s.LastRefusal != "" || s.LastRefusalAt != nil || s.MendedAt != nil || s.Refused != 1 {
		t.Errorf("long after it was mended: %+v", s)
	}
	bad = errors.New("tenants.yaml:4: again")
	r.look(false)
	if s := r.Status()[0]; s.LastRefusal != bad.Error() || s.MendedAt != nil {
		t.Errorf("when it is refused again: %+v", s)
	}
}

func TestOptionsThatAwaitARestartAreToldWhileTheyDo(t *testing.T) {
	log, text := logTo(t, "info")
	r := NewReloader(log)
	found := map[string]string{"level": "info", "port": "1"}
	r.AddOptions(Options{Live: []string{"level"}, Read: func() (map[string]string, func([]string) error, error) {
		return found, func([]string) error { return nil }, nil
	}}, found)
	found = map[string]string{"level": "info", "port": "2"}
	r.handle(reloadNow)
	if s := r.Status()[0]; !slices.Equal(s.AwaitingRestart, []string{"port"}) || s.Stale {
		t.Errorf("got %+v", s)
	}
	if got := r.Reloads().Notices(false); len(got) != 1 || got[0].Level != statuspage.Warn || !strings.HasSuffix(got[0].Text, "a restart: port") {
		t.Errorf("got %v", got)
	}
	if strings.Contains(text(), "reloaded all there is") || !strings.Contains(text(), `"not-reloaded":[],"awaiting-restart":["port"]`) {
		t.Errorf("the log is %s", text())
	}
	found = map[string]string{"level": "info", "port": "1"}
	r.handle(reloadNow)
	if s := r.Status()[0]; len(s.AwaitingRestart) > 0 || r.Reloads().Notices(false) != nil || !strings.Contains(text(), "reloaded all there is: nothing has changed") {
		t.Errorf("when it is as at the start again: %+v, %s", s, text())
	}
}
