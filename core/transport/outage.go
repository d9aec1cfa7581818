package transport

import (
	"errors"
	"log/slog"
)

// outage is a time without a connection, on one link. Whoever reads the log is told once why there is none, and again if that
// changes, not at every attempt. Owned by link.run.
type outage struct {
	link *link
	on   bool
	said map[string]bool // what has been said of which URL
}

// note records that a URL gives no connection, or none any more.
func (o *outage) note(url string, err error) {
	p := o.link.peer
	if !o.on {
		o.on, o.said = true, map[string]bool{}
		p.lose()
	}
	kind := "unreachable"
	var refused *refusedError
	switch {
	case errors.As(err, &refused):
		kind = string(refused.refusal)
	case errors.Is(err, errNotWeir):
		kind = "not weir"
	}
	if o.said[url+" "+kind] {
		return
	}
	o.said[url+" "+kind] = true
	o.logger(url).Warn("no connection to a peer", "error", err)
	if refused != nil && refused.refusal == removedMember {
		p.t.cfg.Handler.Removed(p.id)
	}
}

// end records that a URL gives a connection.
func (o *outage) end(url string) {
	o.on = false
	o.logger(url).Info("connected to a peer")
}

func (o *outage) logger(url string) *slog.Logger {
	return o.link.peer.t.cfg.Logger.With("peer", idString(o.link.peer.id), "channel", o.link.name, "url", url)
}
