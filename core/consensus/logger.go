package consensus

import (
	"fmt"
	"log/slog"
)

// raftLogger gives raft's messages to slog. raft calls Panic and Fatal when its own invariants are broken; the
// process must end then, and does.
type raftLogger struct{ to *slog.Logger }

func (l raftLogger) Debug(v ...any)              { l.to.Debug(fmt.Sprint(v...)) }
func (l raftLogger) Debugf(f string, v ...any)   { l.to.Debug(fmt.Sprintf(f, v...)) }
func (l raftLogger) Info(v ...any)               { l.to.Debug(fmt.Sprint(v...)) }
func (l raftLogger) Infof(f string, v ...any)    { l.to.Debug(fmt.Sprintf(f, v...)) }
func (l raftLogger) Warning(v ...any)            { l.to.Warn(fmt.Sprint(v...)) }
func (l raftLogger) Warningf(f string, v ...any) { l.to.Warn(fmt.Sprintf(f, v...)) }
func (l raftLogger) Error(v ...any)              { l.to.Error(fmt.Sprint(v...)) }
func (l raftLogger) Errorf(f string, v ...any)   { l.to.Error(fmt.Sprintf(f, v...)) }
func (l raftLogger) Fatal(v ...any)              { l.Panic(v...) }
func (l raftLogger) Fatalf(f string, v ...any)   { l.Panicf(f, v...) }
func (l raftLogger) Panic(v ...any)              { l.Panicf("%s", fmt.Sprint(v...)) }
func (l raftLogger) Panicf(f string, v ...any) {
	message := fmt.Sprintf(f, v...)
	l.to.Error(message)
	panic("raft: " + message)
}
