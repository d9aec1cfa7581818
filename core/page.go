package core

import (
	"cmp"
	"fmt"
	"math"
	"strings"
	"time"

	"weir/grpcapi/statuspage"
)

// Charts are those of the status page; Sampler measures them.
func Charts() []statuspage.Chart {
	return []statuspage.Chart{
		{ID: "entries", Title: "Entries of the log", Unit: statuspage.PerSecond, Lines: []statuspage.Line{
			{Name: "committed", Grows: true}, {Name: "applied", Grows: true}}},
		{ID: "durations", Title: "Mean latency", Unit: statuspage.Seconds, Lines: []statuspage.Line{{Name: "fsync"}, {Name: "apply"}}},
		{ID: "store", Title: "Store", Unit: statuspage.ByteCount, Lines: []statuspage.Line{{Name: "file"}, {Name: "in use"}}},
		{ID: "watches", Title: "Watches", Unit: statuspage.Number, Lines: []statuspage.Line{{Name: "all"}, {Name: "behind"}}},
		{ID: "events", Title: "Events", Unit: statuspage.PerSecond, Lines: []statuspage.Line{{Name: "to clients", Grows: true}}},
		{ID: "leases", Title: "Leases", Unit: statuspage.Number, Lines: []statuspage.Line{{Name: "granted"}}},
	}
}

// Sampler returns what measures what Charts have, in their order. One goroutine calls it.
func (n *Node) Sampler() func() []float64 {
	var fsync, apply DurationDetail
	return func() []float64 {
		d := n.Detail()
		s := []float64{
			float64(d.Committed), float64(d.Applied),
			d.Fsync.since(fsync), d.Apply.since(apply),
			float64(d.DBSize), float64(d.DBSizeInUse),
			float64(d.Watches.Watches), float64(d.Watches.Behind),
			float64(d.Watches.Delivered),
			float64(d.Leases),
		}
		fsync, apply = d.Fsync, d.Apply
		return s
	}
}

// since is the mean of what came after before; NaN if nothing did.
func (d DurationDetail) since(before DurationDetail) float64 {
	if d.Count == before.Count {
		return math.NaN()
	}
	return (d.total - before.total) / float64(d.Count-before.Count)
}

// View is what people are shown of d, and of its slowest watches.
func (d *Detail) View(clients statuspage.Clients, slowest statuspage.Table) statuspage.View {
	return statuspage.View{
		Title: "weir core", Name: d.Name, Tiles: d.tiles(clients),
		Tables: []statuspage.Table{d.membersTable(), d.alarmsTable(), d.durationsTable(), slowest},
	}
}

func (d *Detail) tiles(clients statuspage.Clients) []statuspage.Tile {
	role := statuspage.Tile{Label: "This member", Value: "no leader", Note: "nothing can be written", Level: statuspage.Bad}
	for _, m := range d.Members {
		if m.Leads {
			role = statuspage.Tile{Label: "This member", Value: "follower", Note: "of " + m.Name, Level: statuspage.Good}
		}
	}
	for _, m := range d.Members {
		switch {
		case m.ID != d.ID:
		case m.Leads:
			role.Value, role.Note = "leader", "of the cluster"
		case m.Learner:
			role.Value = "learner"
		}
	}
	store := statuspage.Tile{Label: "Store", Value: statuspage.Bytes(d.DBSize), Note: "no quota"}
	if d.Quota > 0 {
		part := float64(d.DBSize) / float64(d.Quota)
		store.Note = statuspage.Share(part, 1) + " of " + statuspage.Bytes(d.Quota)
		switch {
		case part >= 1:
			store.Level = statuspage.Bad
		case part > 0.8:
			store.Level = statuspage.Warn
		}
	}
	alarms := statuspage.Tile{Label: "Alarms", Value: "none", Level: statuspage.Good}
	if len(d.Alarms) > 0 {
		alarms.Value, alarms.Level = statuspage.Count(len(d.Alarms)), statuspage.Bad
	}
	watches := statuspage.Tile{Label: "Watches", Value: statuspage.Count(clients.Watches), Note: "of clients"}
	if clients.Behind > 0 {
		watches.Note, watches.Level = statuspage.Count(clients.Behind)+" behind", statuspage.Warn
	}
	connected := 0
	for _, m := range d.Members {
		if m.Connected {
			connected++
		}
	}
	members := statuspage.Tile{Label: "Members", Value: fmt.Sprintf("%d of %d", connected, len(d.Members)), Note: "connected, with this one", Level: statuspage.Good}
	switch {
	case 2*connected <= len(d.Members):
		members.Level = statuspage.Bad
	case connected < len(d.Members):
		members.Level = statuspage.Warn
	}
	return []statuspage.Tile{
		role, members, alarms, store,
		{Label: "Revision", Value: statuspage.Count(d.Revision)},
		{Label: "Raft term", Value: statuspage.Count(d.Term)},
		{Label: "Raft index", Value: statuspage.Count(d.Committed), Note: fmt.Sprintf("%s not applied", statuspage.Count(d.Committed-min(d.Committed, d.Applied)))},
		{Label: "Proposals", Value: statuspage.Count(d.Pending), Note: "pending"},
		clients.Tile(), watches,
		{Label: "Leases", Value: statuspage.Count(d.Leases)},
	}
}

func (d *Detail) membersTable() statuspage.Table {
	t := statuspage.Table{
		ID: "members", Title: "Members", Note: "As this one knows them, and whether it has a connection to them, since when, or why not.",
		Columns: []statuspage.Column{
			{Title: "Name"}, {Title: "Role"}, {Title: "State"}, {Title: "Since"}, {Title: "Id", Code: true, Whole: true}, {Title: "Clients", Code: true, Whole: true},
			{Title: "Peers", Code: true, Whole: true},
		},
	}
	for _, m := range d.Members {
		role := "follower"
		switch {
		case m.Leads:
			role = "leader"
		case m.Learner:
			role = "learner"
		}
		name := statuspage.Key([]byte(m.Name))
		if m.ID == d.ID {
			name += " (this one)"
		}
		row := statuspage.Row(name, role, "", since(m.Since), m.ID, strings.Join(m.ClientURLs, " "), strings.Join(m.PeerURLs, " "))
		row[2] = statuspage.Cell{Text: "connected", Level: statuspage.Good}
		if !m.Connected {
			row[2] = statuspage.Cell{Text: cmp.Or(m.Error, "not connected"), Level: statuspage.Bad}
		}
		t.Rows = append(t.Rows, row)
	}
	return t
}

func (d *Detail) alarmsTable() statuspage.Table {
	t := statuspage.Table{
		ID: "alarms", Title: "Alarms", Empty: "None.",
		Columns: []statuspage.Column{{Title: "Alarm"}, {Title: "Member", Code: true}},
	}
	for _, a := range d.Alarms {
		row := statuspage.Row(a.Alarm, a.Member)
		row[0].Level = statuspage.Bad
		t.Rows = append(t.Rows, row)
	}
	return t
}

func (d *Detail) durationsTable() statuspage.Table {
	t := statuspage.Table{
		ID: "latency", Title: "Latency", Note: "Since the start. The last column is the upper bound of a bucket.",
		Columns: []statuspage.Column{{Title: "Of"}, {Title: "Times", Number: true}, {Title: "Mean", Number: true}, {Title: "99 % below", Number: true}},
	}
	for _, l := range []struct {
		name string
		DurationDetail
	}{{"fsync of the log", d.Fsync}, {"apply of a request", d.Apply}} {
		t.Rows = append(t.Rows, statuspage.Row(l.name, statuspage.Count(l.Count), seconds(l.Mean), seconds(l.P99)))
	}
	return t
}

func since(at *time.Time) string {
	if at == nil {
		return "–"
	}
	return at.Format(time.DateTime) + " UTC"
}

func seconds(s float64) string { return statuspage.Took(time.Duration(s * float64(time.Second))) }
