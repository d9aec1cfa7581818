package main

import (
	"log/slog"

	"weir/cmd/internal/process"
)

// drain ends a member that was told to stop: another one leads before clients have to go anywhere, so that none of them meets an
// election there. Members are served until stop.
func (s *servers) drain(d process.Drain, logger *slog.Logger) {
	s.api.Unready("draining")
	g := d.Begin(logger)
	defer g.Close()
	if err := s.node.Resign(g.Over()); err != nil {
		logger.Warn("the others will have to elect a leader", "error", err)
	}
	g.WaitDelay()
	if s.page != nil {
		s.page.Close() // or its viewers would be waited for
	}
	s.api.Drain(g.Over(), g.Spread())
}

// drainFlags are how a member that was told to stop ends.
type drainFlags struct{ process.Drain }

func (d *drainFlags) define(f *process.Flags) { d.AddFlags(f) }

func (d *drainFlags) apply(_ *process.Flags, o *options) error {
	o.drain = d.Drain
	return d.Check()
}
