package process

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc/grpclog"
)

// grpcOutput is where what gRPC says of itself goes. gRPC reads its own logger without a lock, from goroutines that a closed
// connection may leave behind for a moment, so that one is set once, at the start of the process, and this is what changes.
var grpcOutput atomic.Pointer[slog.Logger]

func init() {
	grpcOutput.Store(slog.New(slog.DiscardHandler))
	// The rest of what gRPC tells is only for its developers.
	grpclog.SetLoggerV2(grpcLogger{grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard)})
}

// LogGRPC has what gRPC and its gateway say of themselves written to logger, at debug level: it is about clients' mistakes and
// the end of connections. It holds for the whole process, which writes nothing of gRPC's before it. It may be called at any
// time, also concurrently.
func LogGRPC(logger *slog.Logger) { grpcOutput.Store(logger) }

type grpcLogger struct{ grpclog.LoggerV2 }

// debug logs what text returns, which costs something only if it is logged.
func (grpcLogger) debug(text func() string) {
	if logger := grpcOutput.Load(); logger.Enabled(context.Background(), slog.LevelDebug) {
		logger.Debug("gRPC", "message", strings.TrimSuffix(text(), "\n"))
	}
}

func (l grpcLogger) Warning(args ...any) { l.debug(func() string { return fmt.Sprint(args...) }) }

func (l grpcLogger) Warningln(args ...any) { l.debug(func() string { return fmt.Sprintln(args...) }) }

func (l grpcLogger) Warningf(format string, args ...any) {
	l.debug(func() string { return fmt.Sprintf(format, args...) })
}

func (l grpcLogger) Error(args ...any) { l.Warning(args...) }

func (l grpcLogger) Errorln(args ...any) { l.Warningln(args...) }

func (l grpcLogger) Errorf(format string, args ...any) { l.Warningf(format, args...) }
