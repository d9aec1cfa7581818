package suite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	"weir/loadtest/client"
	"weir/loadtest/report"
)

// scriptedHost is a host whose systems do as they are told.
type scriptedHost struct {
	name     string
	startErr error
	servers  scriptedServers
	cleared  int

	endCaveat string
	endErr    error
}

func (h *scriptedHost) describe(context.Context) report.System {
	return report.System{Name: h.name, Base: h.name == "A"}
}

func (h *scriptedHost) end(context.Context) (string, error) { return h.endCaveat, h.endErr }

func (h *scriptedHost) start(context.Context, Scenario) (*System, error) {
	if h.startErr != nil {
		return nil, h.startErr
	}
	h.servers.host = h
	return &System{Name: h.name, servers: &h.servers}, nil
}

// scriptedServers are one process that takes a tenth of the time as processor time, and is asked a hundred times a second.
type scriptedServers struct {
	host     *scriptedHost
	clearErr error
	renewErr error
	begun    time.Time
}

func (s *scriptedServers) processes() []process {
	return []process{{name: "server-1", role: roleStore,
		cpu:    func() (time.Duration, error) { return s.since() / 10, nil },
		memory: func() (int64, error) { return 4096, nil },
	}}
}

func (s *scriptedServers) since() time.Duration {
	if s.begun.IsZero() {
		s.begun = time.Now()
	}
	return time.Since(s.begun)
}

func (s *scriptedServers) requests(context.Context) (map[string]float64, error) {
	time.Sleep(20 * time.Millisecond) // to tell them takes time, in which they become more
	return map[string]float64{"Range": 100 * s.since().Seconds(), "Watch": 7}, nil
}

func (s *scriptedServers) alive() error                         { return nil }
func (s *scriptedServers) renew(context.Context, *System) error { return s.renewErr }

func (s *scriptedServers) clear(context.Context, *System) error {
	s.host.cleared++
	return s.clearErr
}

// scriptedLoad is answered each 10 ms after 3 ms, until what it is told to do happens.
type scriptedLoad struct {
	recorder *Recorder
	connect  error
	run      func(ctx context.Context, stop <-chan struct{}) error // nil for what is said above
	closed   *int
}

func (l *scriptedLoad) Connect(context.Context) error { return l.connect }

func (l *scriptedLoad) Close() error {
	*l.closed++
	return nil
}

func (l *scriptedLoad) Run(ctx context.Context, stop <-chan struct{}) error {
	if l.run != nil {
		return l.run(ctx, stop)
	}
	return l.answer(ctx, stop)
}

// answer is what a load does that is told nothing else.
func (l *scriptedLoad) answer(ctx context.Context, stop <-chan struct{}) error {
	track := l.recorder.Track()
	for {
		select {
		case <-time.After(10 * time.Millisecond):
			track.Done(time.Now().Add(-3*time.Millisecond), 256)
		case <-stop:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// script is a run of systems A and B.
type script struct {
	run
	a, b   scriptedHost
	order  []string // of turns that have connected
	closed int
	do     func(turn string, l *scriptedLoad) // changes the load of a turn "A1"
}

// newScript is of so many scenarios, and rounds of a second after a tenth of one.
func newScript(scenarios, rounds int) *script {
	s := &script{a: scriptedHost{name: "A"}, b: scriptedHost{name: "B"}}
	s.hosts, s.report = []host{&s.a, &s.b}, &report.Report{}
	s.Rounds, s.WarmUp, s.Turn = rounds, 100*time.Millisecond, time.Second
	for i := range scenarios {
		turns := map[string]int{}
		s.Scenarios = append(s.Scenarios, Scenario{
			Info: report.Scenario{Name: fmt.Sprintf("scenario-%d", i+1)},
			New: func(system *System, r *Recorder) Load {
				turns[system.Name]++
				turn := fmt.Sprintf("%s%d", system.Name, turns[system.Name])
				s.order = append(s.order, turn)
				l := &scriptedLoad{recorder: r, closed: &s.closed}
				if s.do != nil {
					s.do(turn, l)
				}
				return l
			},
		})
	}
	return s
}

func (s *script) result(scenario int, system string) report.Result {
	all := s.report.Scenarios[scenario].Results
	return all[slices.IndexFunc(all, func(r report.Result) bool { return r.System == system })]
}

// Turns of one round follow each other, and in the next round another system is first.
func TestTurnsFollowEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(2, 2)
		var told []string
		s.Progress = func(e Event) {
			if e.Ended != nil {
				told = append(told, fmt.Sprintf("%s %d/%d", e.Ended.Name, e.Turns, e.Of))
			}
		}
		if err := s.all(t.Context()); err != nil {
			t.Fatal(err)
		}
		if want := []string{"A1", "B1", "B2", "A2", "A1", "B1", "B2", "A2"}; !slices.Equal(s.order, want) {
			t.Errorf("turns were %v, want %v", s.order, want)
		}
		if want := []string{"scenario-1 4/8", "scenario-2 8/8"}; !slices.Equal(told, want) {
			t.Errorf("was told of %v, want %v", told, want)
		}
		if s.a.cleared != 2 || s.b.cleared != 2 || s.closed != 8 {
			t.Errorf("systems were cleared %d and %d times, loads closed %d times", s.a.cleared, s.b.cleared, s.closed)
		}
		if r := s.report; !r.Systems[0].Base || r.Systems[1].Base || len(r.Caveats) == 0 {
			t.Errorf("the report's systems are %+v, its caveats %q", r.Systems, r.Caveats)
		}
	})
}

func TestTurnOfAScenarioMayTakeLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(2, 1)
		s.Scenarios[1].MinTurn = 3 * time.Second
		if err := s.all(t.Context()); err != nil {
			t.Fatal(err)
		}
		if a, b := s.result(0, "A").Turns[0].Took, s.result(1, "A").Turns[0].Took; a != time.Second || b != 3*time.Second {
			t.Errorf("turns took %v and %v", a, b)
		}
	})
}

// A system that is slower than it is written to must not be measured as if that were its rate.
func TestTurnOfASystemThatFallsBehindFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(1, 1)
		s.Scenarios[0].Tolerance = 0.05
		s.do = func(turn string, l *scriptedLoad) {
			l.run = func(ctx context.Context, stop <-chan struct{}) error {
				err := l.answer(ctx, stop) // 100 in the turn
				writes := int64(50)
				if turn == "B1" {
					writes = 60
				}
				l.recorder.Due(writes, 2)
				return err
			}
		}
		if err := s.all(t.Context()); err != nil {
			t.Fatal(err)
		}
		a, b := s.result(0, "A"), s.result(0, "B")
		if len(a.Turns) != 1 || a.Turns[0].Due != 100 || a.Turns[0].Independent != 50 {
			t.Errorf("A has %+v", a)
		}
		if len(b.Failed) != 1 || !strings.Contains(b.Failed[0].Reason, "due in the turn: 120;") {
			t.Errorf("B has %+v", b)
		}
	})
}

// What counts is what happened between the end of the warm-up and the end of the turn.
func TestOneMomentForAllThatIsMeasured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(1, 1)
		if err := s.all(t.Context()); err != nil {
			t.Fatal(err)
		}
		turn := s.result(0, "B").Turns[0]
		if turn.Round != 1 || turn.Took != time.Second || turn.Operations < 99 || turn.Operations > 101 || turn.Bytes != 256*turn.Operations {
			t.Errorf("turn %d took %v, with %d operations of %d bytes", turn.Round, turn.Took, turn.Operations, turn.Bytes)
		}
		if l := turn.Latency; l.P50 < 2.97 || l.P50 > 3.03 || l.Max < l.P999 || len(l.Curve) == 0 {
			t.Errorf("latency is %+v", l)
		}
		want := report.Process{Name: "server-1", Role: "store", CPU: 100 * time.Millisecond, RSS: 4096}
		if len(turn.Processes) != 1 || turn.Processes[0] != want {
			t.Errorf("processes are %+v, want %+v", turn.Processes, want)
		}
		// It took 20 ms to read them, twice, and what came in this time is not counted. Operations come each 10 ms.
		if n := turn.Upstream["Range"]; n < 98.5 || n > 101.5 || len(turn.Upstream) != 1 {
			t.Errorf("requests upstream are %v, want 100 of Range", turn.Upstream)
		}
	})
}

func TestFailedTurnIsNamedAndOthersGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(1, 4)
		s.do = func(turn string, l *scriptedLoad) {
			switch turn {
			case "B1":
				l.connect = errors.New("nobody listens")
			case "B2":
				l.run = func(context.Context, <-chan struct{}) error { return errors.New("an event is lost") }
			case "B4": // is answered nothing
				l.run = func(_ context.Context, stop <-chan struct{}) error { <-stop; return nil }
			}
		}
		s.b.servers.clearErr = errors.New("it left a core dump")
		if err := s.all(t.Context()); err != nil {
			t.Fatal(err)
		}
		b := s.result(0, "B")
		if len(s.result(0, "A").Turns) != 4 || len(b.Turns) != 1 || b.Turns[0].Round != 3 || b.Unsupported != "" || s.closed != 8 {
			t.Errorf("A has %+v, B %+v; %d loads were closed", s.result(0, "A"), b, s.closed)
		}
		for i, want := range []struct {
			round int
			text  string
		}{{1, "nobody listens"}, {2, "an event is lost"}, {4, "nothing was answered"}, {4, "it left a core dump"}} {
			if got := b.Failed[i]; got.Round != want.round || !strings.Contains(got.Reason, want.text) {
				t.Errorf("failure %d is %+v, want round %d, %s", i, got, want.round, want.text)
			}
		}
		if lines, _ := Broken(s.report); len(lines) != 4 || !strings.HasPrefix(lines[0], "scenario-1: B: nobody listens") {
			t.Errorf("broken is %q", lines)
		}
	})
}

func TestSystemThatDoesNotStartFailsEachTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(2, 2)
		s.a.startErr = errors.New("exit status 1; last lines: disk full")
		if err := s.all(t.Context()); err != nil {
			t.Fatal(err)
		}
		for scenario := range 2 {
			a, b := s.result(scenario, "A"), s.result(scenario, "B")
			if len(a.Failed) != 2 || a.Failed[1] != (report.Failure{Round: 2, Reason: s.a.startErr.Error()}) || len(b.Turns) != 2 {
				t.Errorf("A has %+v, B %+v", a, b)
			}
		}
		if lines, _ := Broken(s.report); len(lines) != 1 || !strings.HasPrefix(lines[0], "scenario-1, scenario-2: A: exit status 1") {
			t.Errorf("broken is %q", lines)
		}
	})
}

func TestUnimplementedIsUnsupported(t *testing.T) {
	for name, err := range map[string]error{
		"answered":         fmt.Errorf("read: %w", &client.StatusError{Code: codes.Unimplemented, Message: "unknown method", Said: true}),
		"known beforehand": fmt.Errorf("no TLS: %w", errors.ErrUnsupported),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScript(1, 3)
				s.do = func(turn string, l *scriptedLoad) {
					if strings.HasPrefix(turn, "A") {
						l.run = func(context.Context, <-chan struct{}) error { return err }
					}
				}
				if err := s.all(t.Context()); err != nil {
					t.Fatal(err)
				}
				a := s.result(0, "A")
				if !strings.Contains(a.Unsupported, err.Error()) || len(a.Turns) != 0 || len(a.Failed) != 0 || len(s.result(0, "B").Turns) != 3 {
					t.Errorf("A has %+v, B %+v", a, s.result(0, "B"))
				}
				if want := []string{"A1", "B1", "B2", "B3"}; !slices.Equal(s.order, want) {
					t.Errorf("turns were %v, want %v", s.order, want)
				}
			})
		})
	}
}

func TestStoreThatCannotBeFilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(1, 1)
		s.Scenarios[0].Fill = func(_ context.Context, s *System) error {
			if s.Name == "B" {
				return errors.New("no space")
			}
			return nil
		}
		if err := s.all(t.Context()); err != nil {
			t.Fatal(err)
		}
		if b := s.result(0, "B"); len(b.Failed) != 1 || !strings.HasPrefix(b.Failed[0].Reason, "fill the store: no space") || s.b.cleared != 1 {
			t.Errorf("B has %+v, and was cleared %d times", b, s.b.cleared)
		}
	})
}

func TestRunThatIsCutOffGivesWhatThereIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		s := newScript(3, 2)
		turns := 0
		s.do = func(_ string, l *scriptedLoad) {
			if turns++; turns == 4+2 {
				l.run = func(ctx context.Context, _ <-chan struct{}) error {
					cancel(errors.New("interrupted"))
					return context.Cause(ctx)
				}
			}
		}
		err := s.all(ctx)
		if err == nil || !strings.Contains(err.Error(), "after 5 of 12 turns: interrupted") {
			t.Errorf("error is %v", err)
		}
		r := s.report
		if len(r.Scenarios) != 2 || len(s.result(0, "B").Turns) != 2 || len(s.result(1, "A").Turns) != 1 || len(s.result(1, "B").Turns) != 0 {
			t.Errorf("scenarios are %+v", r.Scenarios)
		}
		if c := r.Caveats[0]; !strings.Contains(c, "not whole") || !strings.Contains(c, "scenario-2, scenario-3") {
			t.Errorf("the first caveat is %q", c)
		}
		if a := s.result(1, "A"); len(a.Failed) != 0 || s.a.cleared != 2 || s.closed != 6 {
			t.Errorf("A has %+v, was cleared %d times; %d loads were closed", a, s.a.cleared, s.closed)
		}
	})
}

// A load that does not connect, or does not end, ends with the time that it may take.
func TestLoadThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(1, 1)
		s.do = func(turn string, l *scriptedLoad) {
			if turn == "A1" {
				l.run = func(ctx context.Context, _ <-chan struct{}) error {
					track := l.recorder.Track()
					for ctx.Err() == nil {
						time.Sleep(time.Second)
						track.Done(time.Now(), 0)
					}
					return context.Cause(ctx)
				}
			}
		}
		if err := s.all(t.Context()); err != nil {
			t.Fatal(err)
		}
		if a := s.result(0, "A"); len(a.Failed) != 1 || !strings.Contains(a.Failed[0].Reason, "had not stopped") {
			t.Errorf("A has %+v", a)
		}
	})
}
