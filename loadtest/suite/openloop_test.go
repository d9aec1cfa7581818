package suite

import (
	"strings"
	"testing"

	"weir/loadtest/load"
	"weir/loadtest/report"
)

func TestOpenLoopThatDoesNotKeepUpFails(t *testing.T) {
	s := watchScenario(report.Scenario{}, false, load.Watches{Rate: 20})
	for _, c := range []struct {
		writes, each, came int64
		want               string // part of the error; "" for none
	}{
		{60, 1000, 60_000, ""},
		{60, 1000, 57_000, ""}, // 5 %
		{60, 1000, 56_999, "fell behind"},
		{60, 1000, 63_000, ""},
		{60, 1000, 63_001, "caught up"},
		{14, 1000, 13_000, ""}, // the last write's events had not come
		{14, 1000, 12_999, "fell behind"},
		{14, 1000, 15_001, "caught up"},
	} {
		turn := report.Turn{Operations: c.came, Due: c.writes * c.each, Independent: c.writes}
		if err := s.keptUp(turn); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%d events of %d that were due: error %v, want %q", c.came, turn.Due, err, c.want)
		}
	}
	if err := s.keptUp(report.Turn{Operations: 7}); err != nil {
		t.Errorf("a closed loop: %v", err)
	}
}

// A percentile of events says little if they are of few writes.
func TestTurnsOfWatchersHaveSomeWrites(t *testing.T) {
	for _, s := range watchScenarios() {
		if s.MinTurn < leastTurn(load.Watches{Rate: 20}) || s.Tolerance == 0 {
			t.Errorf("%s takes %v at least, and may differ by %v", s.Info.Name, s.MinTurn, s.Tolerance)
		}
	}
}
