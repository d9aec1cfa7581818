package proxy

import (
	"fmt"
	"math"
	"time"

	"weir/grpcapi/statuspage"
)

// Charts are those of the status page; Sample measures them.
func Charts() []statuspage.Chart {
	return []statuspage.Chart{
		{ID: "reads", Title: "Reads", Unit: statuspage.PerSecond, Lines: []statuspage.Line{
			{Name: "linearizable, from memory", Grows: true}, {Name: "serializable, from memory", Grows: true}, {Name: "forwarded", Grows: true}}},
		{ID: "latency", Title: "Latency of the member in use", Unit: statuspage.Seconds, Lines: []statuspage.Line{
			{Name: "median"}, {Name: "99th percentile"}}},
		{ID: "upstream", Title: "Calls upstream", Unit: statuspage.PerSecond, Lines: []statuspage.Line{
			{Name: "answered", Grows: true}, {Name: "not answered", Grows: true}}},
		{ID: "watches", Title: "Watches", Unit: statuspage.Number, Lines: []statuspage.Line{{Name: "of clients and of memory"}, {Name: "upstream"}, {Name: "behind"}}},
		{ID: "events", Title: "Events", Unit: statuspage.PerSecond, Lines: []statuspage.Line{
			{Name: "to clients", Grows: true}, {Name: "from upstream", Grows: true}}},
		{ID: "pings", Title: "Pings of leases", Unit: statuspage.PerSecond, Lines: []statuspage.Line{
			{Name: "of clients", Grows: true}, {Name: "upstream", Grows: true}, {Name: "failed", Grows: true}}},
		{ID: "memory", Title: "Memory", Unit: statuspage.ByteCount, Lines: []statuspage.Line{{Name: "ranges"}, {Name: "events"}}},
		{ID: "refused", Title: "Refused by limits", Unit: statuspage.PerSecond, Lines: []statuspage.Line{{Name: "requests", Grows: true}}},
	}
}

// Sample measures what Charts have, in their order.
func (p *Proxy) Sample() []float64 {
	s, w := p.Status(), p.feeds.Hub().Stats()
	median, p99 := math.NaN(), math.NaN()
	if t := p.upstream.current.Load(); t != nil {
		if m, worst := t.member.calls.timings.quantiles(time.Now()); m > 0 {
			median, p99 = m.Seconds(), worst.Seconds()
		}
	}
	var answered, failed uint64
	p.upstream.mu.Lock()
	for _, m := range p.upstream.members {
		a, f := m.calls.timings.counts()
		answered, failed = answered+a, failed+f
	}
	p.upstream.mu.Unlock()
	return []float64{
		float64(s.Reads.Linearizable), float64(s.Reads.Serializable), float64(s.Reads.Forwarded),
		median, p99,
		float64(answered), float64(failed),
		float64(w.Watchers), float64(w.Feeds), float64(w.Behind),
		float64(w.Delivered), float64(w.Delivered - w.Shared),
		float64(s.Pings.Pings), float64(s.Pings.Sent), float64(s.Pings.Failed),
		float64(s.Reads.Bytes), float64(w.RingBytes),
		float64(s.refused()),
	}
}

// refused is how many requests were over some limit.
func (s *Status) refused() uint64 {
	r := s.Clients.Refused
	return r.Rate + r.InFlight + r.Watches + r.Quota + r.Access + s.Calls.Refused + s.Reads.Refused
}

// View is what people are shown of d, and of its slowest watches.
func (d *Detail) View(name string, slowest statuspage.Table) statuspage.View {
	return statuspage.View{
		Title: "weir proxy", Name: name, Tiles: d.tiles(),
		Tables: []statuspage.Table{
			d.membersTable(), d.feedsTable(), slowest, d.readsTable(), d.limitsTable(),
			busiestTable("ranges", "Busiest ranges", "Reads of about the last minute, from samples. A single key counts for the directory that it is in.", "Range", d.BusiestRanges),
			busiestTable("clients", "Busiest clients", "Requests of about the last minute, from samples.", "Client", d.BusiestClients),
			d.leasesTable(),
		},
	}
}

func (d *Detail) tiles() []statuspage.Tile {
	connected := 0
	for _, m := range d.Members {
		if m.Connected {
			connected++
		}
	}
	upstream := statuspage.Tile{Label: "Upstream", Value: fmt.Sprintf("%d of %d", connected, len(d.Members)), Note: "members connected", Level: statuspage.Good}
	switch {
	case connected == 0:
		upstream.Level = statuspage.Bad
	case connected < len(d.Members):
		upstream.Level = statuspage.Warn
	}
	sharing := statuspage.Tile{Label: "Sharing", Value: "on", Note: "authentication is off", Level: statuspage.Good}
	switch {
	case !d.Upstream.Shared:
		sharing.Value, sharing.Note, sharing.Level = "off", "everything is forwarded", statuspage.Warn
	case d.Upstream.Guarded:
		sharing.Note = "as far as each may read"
	}
	if d.Access.Error != "" {
		sharing.Note, sharing.Level = "own identity is refused", statuspage.Bad
	}
	fresh := statuspage.Tile{Label: "Revision", Value: "–", Note: "none is known yet"}
	if d.Upstream.Revision > 0 {
		fresh.Value, fresh.Note = statuspage.Count(d.Upstream.Revision), ""
	}
	if d.Upstream.AnsweredBefore >= 0 {
		fresh.Note = "answered " + statuspage.Took(time.Duration(d.Upstream.AnsweredBefore*float64(time.Second))) + " ago"
	}
	hits := d.Reads.Linearizable + d.Reads.Serializable
	watches := statuspage.Tile{Label: "Watches", Value: statuspage.Count(d.Watches.Watches), Note: fmt.Sprintf("of clients; of memory: %s, upstream: %s", statuspage.Count(d.Watches.Own), statuspage.Count(d.Watches.Upstream))}
	if d.Watches.Behind > 0 {
		watches.Note, watches.Level = statuspage.Count(d.Watches.Behind)+" behind", statuspage.Warn
	}
	sharers := statuspage.Tile{Label: "Coalescing", Value: "–", Note: "watches for one upstream"}
	if d.Watches.Upstream > 0 {
		sharers.Value = fmt.Sprintf("%.1f", d.Watches.Ratio)
	}
	refused := statuspage.Tile{Label: "Refused by limits", Value: statuspage.Count(d.refused()), Note: "since the start"}
	return []statuspage.Tile{
		upstream, sharing, fresh,
		d.Watches.Clients.Tile(), watches, sharers,
		{Label: "Reads from memory", Value: statuspage.Share(float64(hits), float64(hits+d.Reads.Forwarded)), Note: "since the start"},
		{Label: "Memory", Value: statuspage.Bytes(d.Reads.Bytes + d.Watches.HistoryBytes), Note: "keys: " + statuspage.Count(d.Reads.Keys)},
		{Label: "Leases", Value: statuspage.Count(d.Pings.Leases), Note: "pinged here"},
		refused,
	}
}

func (d *Detail) membersTable() statuspage.Table {
	t := statuspage.Table{
		ID: "members", Title: "Upstream members", Note: "Latency is of short calls in about the last minute, without what the proxy itself takes. An endpoint that is a proxy has the role of the member behind it.",
		Columns: []statuspage.Column{
			{Title: "Endpoint", Code: true, Whole: true}, {Title: "State"}, {Title: "Role"}, {Title: "Version"}, {Title: "Median", Number: true},
			{Title: "99 %", Number: true}, {Title: "Answered", Number: true}, {Title: "Not answered", Number: true}, {Title: "Store", Number: true},
		},
	}
	for _, m := range d.Members {
		state := statuspage.Cell{Text: "connected", Level: statuspage.Good}
		switch {
		case !m.Connected:
			state = statuspage.Cell{Text: m.Error, Level: statuspage.Bad}
		case m.InUse:
			state.Text = "in use"
		}
		role, store := "–", "–"
		if m.Leads != nil {
			role, store = "follower", statuspage.Bytes(m.DBSize)
			switch {
			case *m.Leads:
				role = "leader"
			case m.Learner:
				role = "learner"
			}
		}
		failed := statuspage.Cell{Text: statuspage.Count(m.Failed)}
		if m.Failed > 0 {
			failed.Level = statuspage.Warn
		}
		row := statuspage.Row(m.Endpoint, "", role, m.Version, latency(m.Median), latency(m.P99), statuspage.Count(m.Answered), "", store)
		row[1], row[7] = state, failed
		t.Rows = append(t.Rows, row)
	}
	return t
}

func latency(seconds float64) string {
	if seconds == 0 {
		return "–"
	}
	return statuspage.Took(time.Duration(seconds * float64(time.Second)))
}

func (d *Detail) readsTable() statuspage.Table {
	t := statuspage.Table{
		ID: "hits", Title: "Reads", Note: "Since the start.",
		Columns: []statuspage.Column{{Title: "Kind"}, {Title: "From memory", Number: true}, {Title: "Forwarded", Number: true}, {Title: "Share from memory", Number: true}},
	}
	serializable := d.Reads.ForwardedSerializable
	forwarded := d.Reads.Forwarded - min(d.Reads.Forwarded, serializable) // counted a moment before
	for _, k := range []struct {
		kind            string
		hits, forwarded uint64
	}{{"linearizable", d.Reads.Linearizable, forwarded}, {"serializable", d.Reads.Serializable, serializable}} {
		t.Rows = append(t.Rows, statuspage.Row(k.kind, statuspage.Count(k.hits), statuspage.Count(k.forwarded),
			statuspage.Share(float64(k.hits), float64(k.hits+k.forwarded))))
	}
	t.Rows = append(t.Rows, statuspage.Row("serializable, while upstream was away", statuspage.Count(d.Reads.Stale), "–", "–"))
	return t
}

// pageFeeds is how many feeds the page has; Detail has more.
const pageFeeds = 20

func (d *Detail) feedsTable() statuspage.Table {
	t := statuspage.Table{
		ID: "feeds", Title: "Feeds", Note: "Watches upstream, those that most watches share first, of clients or for a range in memory. One on whose keys nothing happens may be behind: nobody waits for it.",
		Empty: "None: nobody watches, and no range is kept in memory.",
		Columns: []statuspage.Column{
			{Title: "Range", Code: true}, {Title: "Revision", Number: true}, {Title: "Behind", Number: true}, {Title: "Watches", Number: true},
			{Title: "Ranges", Number: true}, {Title: "Events", Number: true}, {Title: "Unwanted", Number: true}, {Title: "History", Number: true},
		},
	}
	for _, f := range d.Feeds[:min(len(d.Feeds), pageFeeds)] {
		name := f.Range
		if !f.Open {
			name += " (opening)"
		}
		t.Rows = append(t.Rows, statuspage.Row(name, statuspage.Count(f.Revision), statuspage.Count(f.Behind), statuspage.Count(f.Watches),
			statuspage.Count(f.Ranges), statuspage.Count(f.Events), statuspage.Count(f.Unwanted), statuspage.Bytes(f.Bytes)))
	}
	return t
}

func busiestTable(id, title, note, column string, busiest []Busiest) statuspage.Table {
	t := statuspage.Table{
		ID: id, Title: title, Note: note, Empty: "Nothing was asked often lately.",
		Columns: []statuspage.Column{{Title: column, Code: true}, {Title: "Requests", Number: true}},
	}
	for _, b := range busiest {
		t.Rows = append(t.Rows, statuspage.Row(statuspage.Key([]byte(b.Name)), statuspage.Rate(b.PerSecond)))
	}
	return t
}

func (d *Detail) leasesTable() statuspage.Table {
	p := d.Pings
	return statuspage.Table{
		ID: "leases", Title: "Leases", Note: "Pings since the start; leases and streams now.",
		Columns: []statuspage.Column{
			{Title: "Leases", Number: true}, {Title: "Pings of clients", Number: true}, {Title: "Shared another's", Number: true},
			{Title: "Sent upstream", Number: true}, {Title: "Failed", Number: true}, {Title: "Waiting", Number: true}, {Title: "Streams upstream", Number: true},
		},
		Rows: [][]statuspage.Cell{statuspage.Row(statuspage.Count(p.Leases), statuspage.Count(p.Pings), statuspage.Count(p.Shared),
			statuspage.Count(p.Sent), statuspage.Count(p.Failed), statuspage.Count(p.Waiting), statuspage.Count(p.Streams))},
	}
}

func (d *Detail) limitsTable() statuspage.Table {
	t := statuspage.Table{
		ID: "limits", Title: "Limits", Note: "Requests refused since the start.",
		Columns: []statuspage.Column{{Title: "Limit"}, {Title: "Refused", Number: true}},
	}
	r := d.Clients.Refused
	for _, l := range []struct {
		name    string
		refused uint64
	}{
		{"requests or bytes a second of a client", r.Rate}, {"requests of a client at a time", r.InFlight}, {"watches of a client", r.Watches},
		{"quota of a tenant", r.Quota}, {"what is not for who asked", r.Access}, {"calls that may wait for upstream", d.Calls.Refused},
		{"size of an answer", d.Reads.Refused},
	} {
		row := statuspage.Row(l.name, statuspage.Count(l.refused))
		if l.refused > 0 {
			row[1].Level = statuspage.Warn
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}
