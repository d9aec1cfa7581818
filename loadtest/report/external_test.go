package report

import (
	"strings"
	"testing"
	"time"
)

// withExternal is a pair of which the other ran already.
func withExternal(turns ...Turn) *Report {
	r := pair(Result{Turns: []Turn{turnOf(1, 100, time.Millisecond)}}, Result{Turns: turns})
	r.Systems[1].External = true
	return r
}

func TestThroughputOfASystemThatRanAlreadyHasNoRatio(t *testing.T) {
	r := withExternal(turnOf(1, 100, time.Millisecond))
	if got := r.other(ThroughputRatio); got.Known() || !strings.Contains(got.Missing, "it ran already") {
		t.Errorf("the ratio of throughputs is %+v", got)
	}
	if got := r.other(Throughput); !got.Known() {
		t.Errorf("throughput is %+v", got)
	}
	if got := r.other(CPURatio); !got.Known() {
		t.Errorf("the ratio of processor times that were measured is %+v", got)
	}
	var b strings.Builder
	if err := WriteMarkdown(&b, r); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "1.00 / – / 1.00 / 1.00") {
		t.Errorf("the summary is %s", b.String())
	}
}

func TestWhatIsSaidOfASystemThatRanAlreadyIsWhatIsKnown(t *testing.T) {
	bare := turnOf(1, 100, 0)
	bare.Processes = nil
	for name, c := range map[string]struct {
		report *Report
		want   string
	}{
		"processes that were named": {withExternal(turnOf(1, 100, time.Millisecond)), "Processor time and memory are those of its processes that were named."},
		"none":                      {withExternal(bare), "Its processor time and memory are not known."},
		"no turn":                   {withExternal(), ""},
	} {
		if got := c.report.remark(&c.report.Systems[1]); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
