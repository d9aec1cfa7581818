package process

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/grpc/grpclog"
)

// formatted counts how often it is written.
type formatted int

func (f *formatted) String() string { *f++; return "told" }

// says has gRPC's own functions tell n in each way there is.
func says(n *formatted) {
	grpclog.Warning(n)
	grpclog.Warningln(n)
	grpclog.Warningf("it %s", n)
	grpclog.Error(n)
	grpclog.Errorln(n)
	grpclog.Errorf("it %s", n)
}

func TestWhatGRPCSaysIsFormattedOnlyToBeLogged(t *testing.T) {
	defer LogGRPC(slog.New(slog.DiscardHandler))
	for level, want := range map[slog.Level]int{slog.LevelInfo: 0, slog.LevelDebug: 6} {
		var out bytes.Buffer
		var n formatted
		LogGRPC(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: level})))
		says(&n)
		if lines := strings.Count(out.String(), "told"); lines != want || int(n) != want {
			t.Errorf("%v: formatted %d times and logged %d, want %d: %s", level, n, lines, want, out.String())
		}
	}
}

// A connection that was closed may still tell something while the next run of the program begins. The race detector sees it.
func TestTheLoggerOfGRPCChangesUnderItsUsers(t *testing.T) {
	defer LogGRPC(slog.New(slog.DiscardHandler))
	done := make(chan struct{})
	go func() {
		defer close(done)
		var n formatted
		for range 100 {
			says(&n)
		}
	}()
	for range 100 {
		LogGRPC(slog.New(slog.DiscardHandler))
	}
	<-done
}
