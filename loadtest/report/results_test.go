package report

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestBandwidthIsToldWhereValuesAreLarge(t *testing.T) {
	for bytes, want := range map[int64]bool{0: false, mib: false, 50 * mib: true} {
		turn := turnOf(1, 100, time.Millisecond)
		turn.Bytes = bytes
		r := pair(Result{Turns: []Turn{turn}}, Result{Turns: []Turn{turn}})
		g := r.grid(&r.Scenarios[0])
		at := slices.IndexFunc(g.columns, func(c column) bool { return c.head() == "values MiB/s" })
		if at >= 0 != want {
			t.Errorf("of %d bytes in a second the bandwidth is told: %v", bytes, at >= 0)
		} else if want && g.rows[0].cells[at].Median != 50 {
			t.Errorf("the bandwidth is %v", g.rows[0].cells[at])
		}
	}
}

// A dash in a table says nothing; why it stands there is said once, in Markdown too.
func TestWhyNumbersAreMissingIsSaid(t *testing.T) {
	turn := turnOf(1, 100, time.Millisecond)
	bare := turn
	bare.Processes = nil
	r := pair(Result{Turns: []Turn{turn}}, Result{Turns: []Turn{bare}})
	r.Scenarios = append(r.Scenarios, r.Scenarios[0])
	r.Scenarios[1].Name = "get"
	want := []string{"CPU, CPU ratio of other: the processor time of its servers is not known", "RSS, RSS ratio of other: the memory of its servers is not known"}
	if got := r.absences(); !slices.Equal(got, want) {
		t.Errorf("is said: %q, want %q", got, want)
	}
	page, _ := document(t, r)
	for name, text := range map[string]string{"page": page, "Markdown": markdownOf(t, r)} {
		if !strings.Contains(text, want[0]) || !strings.Contains(text, want[1]) {
			t.Errorf("the %s does not say why", name)
		}
	}
	r.Scenarios[1].Results = []Result{{System: "base", Turns: []Turn{turn}}, {System: "other", Turns: []Turn{turn}}}
	if got := r.absences(); len(got) != 2 || !strings.HasPrefix(got[0], "CPU, CPU ratio of other in put: ") {
		t.Errorf("of one scenario is said: %q", got)
	}
}
