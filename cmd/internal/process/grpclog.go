package process

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"

	"google.golang.org/grpc/grpclog"
)

// LogGRPC has what gRPC and its gateway say of themselves written to logger, at debug level: it is about clients' mistakes and
// the end of connections. By default they write lines of their own to stderr. It holds for the whole process and must be called
// before anything uses gRPC.
func LogGRPC(logger *slog.Logger) {
	grpclog.SetLoggerV2(grpcLogger{
		LoggerV2: grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard), // what is only for gRPC's developers
		logger:   logger,
	})
}

type grpcLogger struct {
	grpclog.LoggerV2
	logger *slog.Logger
}

// debug logs what text returns, which costs something only if it is logged.
func (l grpcLogger) debug(text func() string) {
	if l.logger.Enabled(context.Background(), slog.LevelDebug) {
		l.logger.Debug("gRPC", "message", strings.TrimSuffix(text(), "\n"))
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
