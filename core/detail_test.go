package core

import (
	"errors"
	"math"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/core/transport"
	"weir/grpcapi/statuspage"
)

func TestDetailTellsOfTheMemberAndMatchesItsCharts(t *testing.T) {
	n := openNode(t, t.TempDir())
	sample := n.Sampler()
	sample()
	for range 10 {
		mustPut(t, n, &pb.PutRequest{Key: []byte("k")})
	}
	if _, err := n.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{ID: 7, TTL: 600}); err != nil {
		t.Fatal(err)
	}
	d := n.Detail()
	if len(d.Members) != 1 || !d.Members[0].Leads || d.Members[0].ID != d.ID || d.Revision != 11 || d.Leases != 1 || d.Quota != DefaultQuotaBytes || len(d.Alarms) != 0 {
		t.Errorf("got %+v", d)
	}
	for name, took := range map[string]DurationDetail{"fsync": d.Fsync, "apply": d.Apply} {
		if took.Count == 0 || took.Mean <= 0 || took.P99 <= 0 {
			t.Errorf("%s: got %+v", name, took)
		}
	}
	lines := 0
	for _, c := range Charts() {
		lines += len(c.Lines)
	}
	now := sample()
	if len(now) != lines || math.IsNaN(now[2]) || math.IsNaN(now[3]) {
		t.Errorf("%v is measured for %d lines", now, lines)
	}
	view := d.View(statuspage.Clients{}, statuspage.Table{ID: "slowest"})
	for _, table := range view.Tables {
		for _, row := range table.Rows {
			if len(row) != len(table.Columns) {
				t.Errorf("%s: a row has %d cells", table.ID, len(row))
			}
		}
	}
	closeNode(t, n)
	if d := n.Detail(); len(d.Members) != 1 { // somebody may look until the process ends
		t.Errorf("after Close: got %+v", d)
	}
}

func TestMembersThatAreDownAreShown(t *testing.T) {
	at := time.Date(2000, 1, 2, 3, 4, 5, 0, time.UTC)
	d := Detail{ID: "1", Members: []MemberDetail{{ID: "1", Name: "one", Leads: true, Connected: true}, {ID: "2", Name: "two"}, {ID: "3", Name: "three"}}}
	d.Members[1].setConnection(transport.State{Since: at, Err: errors.New("connection refused")})
	d.Members[2].setConnection(transport.State{Connected: true, Since: at})
	members := d.membersTable().Rows
	if got := members[1]; got[2] != (statuspage.Cell{Text: "connection refused", Level: statuspage.Bad}) || got[3].Text != "2000-01-02 03:04:05 UTC" {
		t.Errorf("of a member that is down: %v", got)
	}
	if got := members[2]; got[2].Level != statuspage.Good || members[0][2].Level != statuspage.Good || members[0][3].Text != "–" {
		t.Errorf("of those that are up: %v, %v", got, members[0])
	}
	tile := func() statuspage.Tile { return d.tiles(statuspage.Clients{})[1] }
	if got := tile(); got.Value != "2 of 3" || got.Level != statuspage.Warn {
		t.Errorf("got %+v", got)
	}
	d.Members[2].setConnection(transport.State{})
	if got := tile(); got.Value != "1 of 3" || got.Level != statuspage.Bad {
		t.Errorf("without a majority: %+v", got)
	}
}

func TestDurationsOfNothingAreNotKnown(t *testing.T) {
	if mean := (DurationDetail{Count: 3}).since(DurationDetail{Count: 3}); !math.IsNaN(mean) {
		t.Errorf("got %v", mean)
	}
	d := DurationDetail{Count: 5, total: 10}
	if mean := d.since(DurationDetail{Count: 3, total: 4}); mean != 3 {
		t.Errorf("got %v", mean)
	}
}
