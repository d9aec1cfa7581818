package proxy

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"weir/grpcapi/statuspage"
)

// visitor is the context of an RPC from an address, with a token if that is not "".
func visitor(ctx context.Context, token string) context.Context {
	ctx = peer.NewContext(ctx, &peer.Peer{Addr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 7), Port: 1}})
	if token != "" {
		ctx = metadata.NewIncomingContext(ctx, metadata.Pairs("token", token))
	}
	return ctx
}

func TestDetailTellsOfMembersAndMatchesItsCharts(t *testing.T) {
	p := before(t, map[string]func(grpc.ServerStream) error{
		pb.Maintenance_Status_FullMethodName: answers(&pb.StatusResponse{
			Header: &pb.ResponseHeader{MemberId: 0xab}, Leader: 0xab, Version: "3.7.3", DbSize: 4096, RaftTerm: 2,
		}),
	})
	if _, err := p.upstream.pick(t.Context()); err != nil {
		t.Fatal(err)
	}
	d := p.Detail(t.Context(), statuspage.Clients{Connections: 2, Watches: 3})
	if len(d.Members) != 1 {
		t.Fatalf("got %+v", d.Members)
	}
	if m := d.Members[0]; !m.Connected || !m.InUse || m.Leads == nil || !*m.Leads || m.ID != "ab" || m.Version != "3.7.3" || m.Error != "" {
		t.Errorf("got %+v", m)
	}
	lines := 0
	for _, c := range Charts() {
		lines += len(c.Lines)
	}
	if n := len(p.Sample()); n != lines {
		t.Errorf("%d numbers are measured for %d lines", n, lines)
	}
	view := d.View("here", statuspage.Table{ID: "slowest", Title: "Slowest"})
	ids := map[string]bool{}
	for _, table := range view.Tables {
		if ids[table.ID] {
			t.Errorf("two tables are %s", table.ID)
		}
		ids[table.ID] = true
		for _, row := range table.Rows {
			if len(row) != len(table.Columns) {
				t.Errorf("%s: a row has %d cells", table.ID, len(row))
			}
		}
	}
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{`"upstream":{`, `"reads":{`, `"members":[`, `"watches":{`, `"feeds":[]`, `"busiest_ranges":[]`} {
		if !strings.Contains(string(text), key) {
			t.Errorf("%s is missing in %s", key, text)
		}
	}
}

func TestTilesSayWhatIsCountedAndNoRevisionBeforeOneIsKnown(t *testing.T) {
	d := Detail{Watches: WatchStatus{Clients: statuspage.Clients{Watches: 20}, Own: 1, Upstream: 3}}
	d.Reads.Keys = 1
	d.Upstream.AnsweredBefore = -1
	said := func() string { return fmt.Sprint(d.tiles()) }
	for _, want := range []string{"{Revision – none is known yet }", "{Watches 20 of clients; of memory: 1, upstream: 3 }", "keys: 1 "} {
		if !strings.Contains(said(), want) {
			t.Errorf("%q is not in %s", want, said())
		}
	}
	d.Upstream.Revision = 7
	if want := "{Revision 7  }"; !strings.Contains(said(), want) {
		t.Errorf("%q is not in %s", want, said())
	}
}

func TestMemberOfAnOlderTermDoesNotLead(t *testing.T) {
	yes, too := true, true
	all := []MemberStatus{{Leads: &yes, Term: 3}, {Leads: &too, Term: 4}, {}}
	onlyOneLeads(all)
	if *all[0].Leads || !*all[1].Leads {
		t.Errorf("got %v, %v", *all[0].Leads, *all[1].Leads)
	}
}

// hashing answers HashKV as a member with authentication on does.
func hashing(s grpc.ServerStream) error {
	var r pb.HashKVRequest
	if err := s.RecvMsg(&r); err != nil {
		return err
	}
	md, _ := metadata.FromIncomingContext(s.Context())
	switch token := strings.Join(md["token"], " "); {
	case token == "":
		return rpctypes.ErrGRPCUserEmpty
	case token != "root's":
		return rpctypes.ErrGRPCPermissionDenied
	case r.Revision != anyRevision:
		return status.Errorf(codes.Internal, "the member hashes all keys at %d", r.Revision)
	}
	return rpctypes.ErrGRPCFutureRev
}

func TestStatusIsForRoot(t *testing.T) {
	p := before(t, map[string]func(grpc.ServerStream) error{pb.Maintenance_HashKV_FullMethodName: hashing})
	for token, want := range map[string]codes.Code{"": codes.InvalidArgument, "alice's": codes.PermissionDenied, "root's": codes.OK} {
		if err := p.PermitStatus(visitor(t.Context(), token)); status.Code(err) != want {
			t.Errorf("%q: got %v", token, err)
		}
	}
}

func TestStatusIsNotForTenantsWithANamespace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tenants.yaml")
	text := "tenants:\n- name: team\n  users: [alice]\n  namespace: /team/\ndefault:\n  namespace: /others/\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	asked := false
	p := beforeAs(t, func(c *Config) { c.TenantsFile = file }, map[string]func(grpc.ServerStream) error{
		pb.Maintenance_HashKV_FullMethodName: func(grpc.ServerStream) error {
			asked = true
			return rpctypes.ErrGRPCFutureRev // authentication is off
		},
	})
	if err := p.PermitStatus(visitor(t.Context(), "")); status.Code(err) != codes.PermissionDenied || asked {
		t.Errorf("got %v", err)
	}
	if who := p.Who(visitor(t.Context(), "a token that nobody knows")); strings.Contains(who, "token") {
		t.Errorf("the client is %s", who)
	}
}
