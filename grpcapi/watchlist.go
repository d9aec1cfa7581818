package grpcapi

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"google.golang.org/grpc/peer"

	"weir/coalesce"
	"weir/grpcapi/statuspage"
)

// ListedWatch is an open watch, for people.
type ListedWatch struct {
	Range  string `json:"range"` // see statuspage.Range
	Stream uint64 `json:"stream"`
	ID     int64  `json:"watch_id"`
	Client string `json:"client"`
	From   string `json:"from"` // the client's address
	// Reached is the revision up to which it has been sent everything, and Behind how many the newest is beyond that.
	Reached int64 `json:"reached_revision"`
	Behind  int64 `json:"behind"`
}

// WatchPage is some of all watches.
type WatchPage struct {
	Watches []ListedWatch `json:"watches"`
	// Continue is for the next page; "" if this is the last.
	Continue string `json:"continue,omitempty"`
}

// Watches lists the watches that this server serves itself, those of a client in the order in which it has opened its streams. who
// names the client of an RPC.
func (s *Server) Watches(q statuspage.Query, who func(context.Context) string) (p WatchPage, err error) {
	p.Watches = []ListedWatch{}
	if s.watches == nil {
		return p, nil
	}
	var after coalesce.Listed
	if q.Continue != "" {
		stream, id, _ := strings.Cut(q.Continue, ".")
		if after.Stream, err = strconv.ParseUint(stream, 10, 64); err != nil {
			return p, fmt.Errorf("continue=%q is not from an answer of this server", q.Continue)
		}
		if after.ID, err = strconv.ParseInt(id, 10, 64); err != nil {
			return p, fmt.Errorf("continue=%q is not from an answer of this server", q.Continue)
		}
	} else {
		after.ID = -1
	}
	wanted := func(l *coalesce.Listed) bool {
		return ofClient(l.Sink) && (len(q.Key) == 0 || overlaps(string(q.Key), string(q.End), l.Key, l.End))
	}
	found := s.watches.hub.List(after, q.Limit+1, wanted)
	if len(found) > q.Limit {
		found = found[:q.Limit]
		last := found[len(found)-1]
		p.Continue = fmt.Sprintf("%d.%d", last.Stream, last.ID)
	}
	for _, l := range found {
		p.Watches = append(p.Watches, listedWatch(l, who))
	}
	return p, nil
}

// SlowestWatches are those of clients that lack most, at most limit.
func (s *Server) SlowestWatches(limit int, who func(context.Context) string) []ListedWatch {
	slowest := []ListedWatch{}
	if s.watches == nil {
		return slowest
	}
	for _, l := range s.watches.hub.Slowest(limit, ofClient) {
		slowest = append(slowest, listedWatch(l, who))
	}
	return slowest
}

// Clients counts clients and their watches, of those that this server serves itself.
func (s *Server) Clients() statuspage.Clients {
	c := statuspage.Clients{Connections: s.Connections()}
	if s.watches != nil {
		c.Streams, c.Watches, c.Behind = s.watches.hub.Count(ofClient)
	}
	return c
}

// ofClient tells the watches of clients from those that keep what is in memory up to date, or wait for a lock.
func ofClient(sink coalesce.Sink) bool {
	_, ok := sink.(*watchStream)
	return ok
}

func listedWatch(l coalesce.Listed, who func(context.Context) string) ListedWatch {
	ctx := l.Sink.(*watchStream).grpc.Context()
	w := ListedWatch{
		Range: statuspage.Range([]byte(l.Key), []byte(l.End)), Stream: l.Stream, ID: l.ID,
		Client: who(ctx), Reached: l.Reached, Behind: l.Missing,
	}
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		w.From = p.Addr.String()
	}
	return w
}

// overlaps tells whether two ranges, as in etcd's requests, have a key in common.
func overlaps(key, end, otherKey, otherEnd string) bool {
	return startsBefore(key, otherKey, otherEnd) && startsBefore(otherKey, key, end)
}

// startsBefore tells whether a range that begins at key does so before the end of [from, end).
func startsBefore(key, from, end string) bool {
	switch end {
	case "":
		return key <= from
	case "\x00":
		return true
	}
	return key < end
}

// SlowestTable shows slow watches.
func SlowestTable(slowest []ListedWatch) statuspage.Table {
	t := statuspage.Table{
		ID: "slowest", Title: "Slowest watches", Note: "Watches that have not been sent all that others have, and by how many revisions.",
		Empty: "None: every watch has been sent what there is.",
		Columns: []statuspage.Column{
			{Title: "Range", Code: true}, {Title: "Client"}, {Title: "From", Code: true},
			{Title: "Reached", Number: true}, {Title: "Behind", Number: true},
		},
	}
	for _, w := range slowest {
		row := statuspage.Row(w.Range, statuspage.Key([]byte(w.Client)), w.From, statuspage.Count(w.Reached), statuspage.Count(w.Behind))
		row[4].Level = statuspage.Warn
		t.Rows = append(t.Rows, row)
	}
	return t
}
