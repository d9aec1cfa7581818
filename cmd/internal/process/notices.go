package process

import (
	"fmt"
	"strings"

	"weir/grpcapi/statuspage"
)

// Notices are what the status page says of a program first: that it is being stopped, what was refused of its files for as long as
// they hold it, and what counts only after a restart.
func (r Reloads) Notices(draining bool) (all []statuspage.Notice) {
	add := func(level statuspage.Level, format string, args ...any) {
		all = append(all, statuspage.Notice{Text: fmt.Sprintf(format, args...), Level: level})
	}
	if draining {
		add(statuspage.Warn, "Draining: it has been told to stop, and is leaving its clients to others.")
	}
	for _, s := range r.Reloads {
		if s.Stale {
			add(statuspage.Bad, "Not reloaded, what was there before stays in use: %s: %s", s.What, s.LastRefusal)
		}
	}
	for _, s := range r.Reloads {
		if len(s.AwaitingRestart) > 0 {
			add(statuspage.Warn, "Changed, but counts only after a restart: %s", strings.Join(s.AwaitingRestart, ", "))
		}
	}
	return all
}
