package suite

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/loadtest/client"
)

// What is "not supported" hides that something is wrong, so only a server of gRPC that was loaded can say it.
func TestWhatIsNotSaidByALoadedServerIsAFailure(t *testing.T) {
	unimplemented := status.Error(codes.Unimplemented, "unexpected HTTP status code received from server: 404")
	for name, wrong := range map[string]func(s *script){
		"at the start":                func(s *script) { s.a.startErr = unimplemented },
		"at the start, of the kernel": func(s *script) { s.a.startErr = errors.ErrUnsupported },
		"when it is filled": func(s *script) {
			s.Scenarios[0].Fill = func(_ context.Context, of *System) error {
				if of.Name == "A" {
					return &client.StatusError{Code: codes.Unimplemented, Said: true}
				}
				return nil
			}
		},
		"when its token is renewed": func(s *script) { s.a.servers.renewErr = unimplemented },
		"by a page of HTTP": func(s *script) {
			s.do = func(turn string, l *scriptedLoad) {
				if strings.HasPrefix(turn, "A") {
					l.connect = &client.StatusError{Code: codes.Unimplemented, Message: "status 404 of HTTP"}
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newScript(1, 2)
				wrong(s)
				if err := s.all(t.Context()); err != nil {
					t.Fatal(err)
				}
				broken, _ := Broken(s.report)
				if a := s.result(0, "A"); a.Unsupported != "" || len(a.Failed) != 2 || len(broken) != 1 {
					t.Errorf("A has %+v; broken is %q", a, broken)
				}
			})
		})
	}
}

func TestSystemThatSupportsNothingIsBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(3, 2)
		unimplemented := &client.StatusError{Code: codes.Unimplemented, Message: "unknown service", Said: true}
		turns := 0
		s.do = func(turn string, l *scriptedLoad) {
			switch turn {
			case "A1":
				l.connect = unimplemented
			case "B1":
				if turns++; turns < 3 { // the last scenario is supported by B
					l.connect = unimplemented
				}
			}
		}
		if err := s.all(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := "all scenarios: A: nothing is supported: " + unimplemented.Error()
		if lines, _ := Broken(s.report); len(lines) != 1 || lines[0] != want {
			t.Errorf("broken is %q, want %q", lines, want)
		}
	})
}

// Whatever was put and could not be taken away again is named, however the scenario ended.
func TestWhatCouldNotBeTakenAwayIsNamed(t *testing.T) {
	left := errors.New("there may be keys below loadtest/")
	for name, change := range map[string]func(s *script, cut func()){
		"after a failed fill": func(s *script, _ func()) {
			s.Scenarios[0].Fill = func(context.Context, *System) error { return errors.New("no space") }
		},
		"when nothing is supported": func(s *script, _ func()) {
			s.do = func(_ string, l *scriptedLoad) { l.connect = fmt.Errorf("no TLS: %w", errors.ErrUnsupported) }
		},
		"when the run is cut off": func(s *script, cut func()) {
			s.do = func(_ string, l *scriptedLoad) {
				l.run = func(ctx context.Context, _ <-chan struct{}) error { cut(); return context.Cause(ctx) }
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				cut := func() { cancel(errors.New("interrupted")) }
				defer cut()
				s := newScript(1, 1)
				s.b.servers.clearErr = left
				change(s, cut)
				if err := s.all(ctx); (err != nil) != (name == "when the run is cut off") {
					t.Fatal(err)
				}
				b := s.result(0, "B")
				if n := len(b.Failed); n == 0 || !strings.Contains(b.Failed[n-1].Reason, left.Error()) {
					t.Errorf("B has %+v", b)
				}
				if broken, _ := Broken(s.report); !strings.Contains(strings.Join(broken, "\n"), left.Error()) {
					t.Errorf("broken is %q", broken)
				}
			})
		})
	}
}

// etcd's own proxy loses events that a slow reader has not taken: that is worth a line, and no reason for the run to have failed.
func TestWhatFailsInAnOptionalSystemIsExcused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript(1, 1)
		s.do = func(turn string, l *scriptedLoad) {
			if turn == "B1" {
				l.connect = errors.New("nobody listens")
			}
		}
		if err := s.all(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.report.Systems[1].Optional = true
		if broken, excused := Broken(s.report); len(broken) != 0 || len(excused) != 1 || !strings.HasPrefix(excused[0], "scenario-1: B: nobody") {
			t.Errorf("broken is %q, excused %q", broken, excused)
		}
		s.report.Systems = s.report.Systems[1:]
		if broken, excused := Broken(s.report); len(broken) != 1 || len(excused) != 0 {
			t.Errorf("without any other system broken is %q, excused %q", broken, excused)
		}
	})
}
