package suite

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"weir/loadtest/report"
	"weir/loadtest/target"
)

// short are options of a run that is over in seconds.
func short(t *testing.T, scenarios ...string) Options {
	t.Helper()
	found, err := FindScenarios(scenarios)
	if err != nil {
		t.Fatal(err)
	}
	return Options{Bin: bin, Scenarios: found, Rounds: 1, WarmUp: 50 * time.Millisecond, Turn: 200 * time.Millisecond, Dir: t.TempDir(),
		Command: "the test"}
}

// runWhole runs, and fails the test if a turn has failed.
func runWhole(t *testing.T, o Options) *report.Report {
	t.Helper()
	r, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	broken, excused := Broken(r)
	for _, line := range append(broken, excused...) {
		t.Error(line)
	}
	return r
}

// A short run measures something of everything. How much is nobody's promise.
func TestRealSystemsAreMeasured(t *testing.T) {
	t.Parallel()
	o := short(t, "list-linearizable-writes")
	o.Systems = []target.Kind{target.ProxyEtcd37, target.Etcd37, target.Core}
	r := runWhole(t, o)
	if got := r.Systems[0]; got.Name != "etcd-3.7" || !got.Base || !strings.HasPrefix(strings.Join(got.Programs, ""), "etcd 3.7.") {
		t.Errorf("the first system is %+v, want etcd as the base", got)
	}
	if got := strings.Join(r.Systems[1].Programs, ", "); !strings.HasPrefix(got, "etcd 3.7.") || !strings.Contains(got, ", weir proxy 0.") {
		t.Errorf("programs are %q", got)
	}
	processes := map[string]string{"etcd-3.7": "etcd-1 store", "core": "core-1 store", "proxy-over-etcd-3.7": "etcd-1 store,proxy-1 proxy"}
	for _, s := range r.Scenarios {
		for _, of := range s.Results {
			checkTurn(t, s, of, processes[of.System])
		}
	}
	entries, err := os.ReadDir(o.Dir)
	if err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func checkTurn(t *testing.T, s report.Scenario, of report.Result, processes string) {
	t.Helper()
	if len(of.Turns) != 1 {
		t.Fatalf("%s of %s has %d turns", s.Name, of.System, len(of.Turns))
	}
	turn := of.Turns[0]
	if turn.Operations == 0 || turn.Took < 200*time.Millisecond || turn.Bytes == 0 || turn.Latency.P50 == 0 || turn.Latency.P99 < turn.Latency.P50 {
		t.Errorf("%s of %s: %d operations of %d bytes in %v, latency %+v", s.Name, of.System, turn.Operations, turn.Bytes, turn.Took, turn.Latency)
	}
	var got []string
	for _, p := range turn.Processes {
		got = append(got, p.Name+" "+p.Role)
		if p.CPU == 0 || p.RSS == 0 {
			t.Errorf("%s of %s: process %+v", s.Name, of.System, p)
		}
	}
	if strings.Join(got, ",") != processes {
		t.Errorf("%s of %s: processes are %v, want %s", s.Name, of.System, got, processes)
	}
	lists, upstream := float64(turn.Operations), turn.Upstream["Range"]
	if memory := len(turn.Processes) > 1; upstream == 0 || memory && upstream > lists/2 || !memory && upstream < lists/2 {
		t.Errorf("%s of %s: %v lists, upstream %v", s.Name, of.System, lists, turn.Upstream)
	}
	if turn.Upstream["Put"] > 0 {
		t.Errorf("%s of %s: puts that went straight to the store are counted: %v", s.Name, of.System, turn.Upstream)
	}
}

// What is started for a run ends with it, also when it is cut off.
func TestNothingIsLeftOfARunThatIsCutOff(t *testing.T) {
	t.Parallel()
	o := short(t, "put-1-client")
	o.Systems, o.Turn = []target.Kind{target.Core}, time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	make := o.Scenarios[0].New
	o.Scenarios[0].New = func(s *System, r *Recorder) Load { return &watchedLoad{Load: make(s, r), running: cancel} }
	r, err := Run(ctx, o)
	if err == nil || r == nil || len(r.Scenarios) != 1 || !strings.Contains(r.Caveats[0], "not whole") {
		t.Errorf("report %+v, error %v", r, err)
	}
	entries, err := os.ReadDir(o.Dir)
	if err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

// watchedLoad tells when its clients ask.
type watchedLoad struct {
	Load
	running func()
}

func (l *watchedLoad) Run(ctx context.Context, stop <-chan struct{}) error {
	l.running()
	return l.Load.Run(ctx, stop)
}

func TestUnknownSystemIsNamedBeforeAnythingRuns(t *testing.T) {
	o := short(t, "put")
	o.Systems = []target.Kind{target.Etcd37, "etcd-9"}
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), `no system "etcd-9"`) {
		t.Error(err)
	}
	o.Systems = []target.Kind{target.Core, target.Core}
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "core is there twice") {
		t.Error(err)
	}
	o.Systems = nil
	o.External = []External{{Name: "target", PIDs: []int{5, 6, 5}}}
	if _, err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "process 5 is there twice") {
		t.Error(err)
	}
}

func TestMachineIsDescribed(t *testing.T) {
	m, err := machineOf(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if m.Cores == 0 || m.Memory < 1<<20 || !strings.Contains(m.OS, "Linux ") || !strings.HasPrefix(m.Go, "go1.") || m.Filesystem == "" || m.Fdatasync == 0 {
		t.Errorf("machine is %+v", m)
	}
}

func TestVersionInWhatProgramsPrint(t *testing.T) {
	for out, want := range map[string]string{
		"etcd Version: 3.7.3\nGit SHA: Not provided (use ./build instead of go build)\nGo Version: go1.26.8\n": "3.7.3",
		"etcd Version: 3.7.3\nGit SHA: 3adc54f0123456789\nweir core Version: 0.1.0\n":                          "0.1.0 (3adc54f01)",
	} {
		if got := versionIn(out); got != want {
			t.Errorf("version in %q is %q, want %q", out, got, want)
		}
	}
}
