package process

import (
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

func (l grpcLogger) debug(text string) {
	l.logger.Debug("gRPC", "message", strings.TrimSuffix(text, "\n"))
}

func (l grpcLogger) Warning(args ...any)                 { l.debug(fmt.Sprint(args...)) }
func (l grpcLogger) Warningln(args ...any)               { l.debug(fmt.Sprintln(args...)) }
func (l grpcLogger) Warningf(format string, args ...any) { l.debug(fmt.Sprintf(format, args...)) }
func (l grpcLogger) Error(args ...any)                   { l.debug(fmt.Sprint(args...)) }
func (l grpcLogger) Errorln(args ...any)                 { l.debug(fmt.Sprintln(args...)) }
func (l grpcLogger) Errorf(format string, args ...any)   { l.debug(fmt.Sprintf(format, args...)) }
