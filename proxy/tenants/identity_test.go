package tenants

import (
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"weir/internal/bubble"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

const twoTenants = `
tenants:
- name: a
  users: [ann, both]
  common-names: [a.local]
  namespace: /a/
- name: b
  users: [bob]
  common-names: [b.local, ann]
  namespace: /b/
`

func tcp(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }

// textAddr is what net/http gives instead of an address.
type textAddr string

func (textAddr) Network() string  { return "tcp" }
func (a textAddr) String() string { return string(a) }

type gatewayAddr struct{}

func (gatewayAddr) Network() string { return gatewayNetwork }
func (gatewayAddr) String() string  { return gatewayNetwork }

func TestClientIsWhoItProvesToBe(t *testing.T) {
	withFile := newTable(t, twoTenants, Config{Upstream: newStore(t)})
	withDefault := newTable(t, twoTenants+"default: {namespace: /rest/}\n", Config{Upstream: newStore(t)})
	without := newTable(t, "", Config{Limits: Limits{InFlight: 1}})
	for _, c := range []struct {
		caller
		tenant, others, alone string // who it is with the file, with a default in it, and without one; an error in brackets
	}{
		{caller{token: "good-ann"}, "tenant:a /a/", "tenant:a /a/", "user:ann "},
		{caller{token: "good-bob"}, "tenant:b /b/", "tenant:b /b/", "user:bob "},
		{caller{cn: "a.local"}, "tenant:a /a/", "tenant:a /a/", "cn:a.local "},
		{caller{cn: "ann"}, "tenant:b /b/", "tenant:b /b/", "cn:ann "},
		{caller{token: "good-ann", cn: "b.local"}, "tenant:a /a/", "tenant:a /a/", "user:ann "},
		{caller{token: "forged-ann"}, "[invalid auth token]", "[invalid auth token]", "address:10.0.0.1 "},
		{caller{token: "forged-ann", cn: "b.local"}, "[invalid auth token]", "[invalid auth token]", "address:10.0.0.1 "},
		{caller{token: "good-eve"}, "[permission denied]", "user:eve /rest/", "user:eve "},
		{caller{cn: "a.locals"}, "[permission denied]", "cn:a.locals /rest/", "cn:a.locals "},
		{caller{}, "[permission denied]", "address:10.0.0.1 /rest/", "address:10.0.0.1 "},
		{caller{address: tcp("10.9.8.7")}, "[permission denied]", "address:10.9.8.7 /rest/", "address:10.9.8.7 "},
		{caller{address: tcp("::ffff:10.9.8.7")}, "[permission denied]", "address:10.9.8.7 /rest/", "address:10.9.8.7 "},
		{caller{address: tcp("2001:db8:1:2:3:4:5:6")}, "[permission denied]", "address:2001:db8:1:2::/64 /rest/", "address:2001:db8:1:2::/64 "},
		{caller{address: textAddr("10.9.8.7:1")}, "[permission denied]", "address:10.9.8.7 /rest/", "address:10.9.8.7 "},
		{caller{address: textAddr("@")}, "[permission denied]", "local /rest/", "local "},
		{caller{address: textAddr("@"), forwarded: []string{"10.0.0.9"}}, "[permission denied]", "local /rest/", "local "},
		{caller{forwarded: []string{"10.0.0.9"}}, "[permission denied]", "address:10.0.0.1 /rest/", "address:10.0.0.1 "},
		{
			caller{address: gatewayAddr{}, forwarded: []string{"1.1.1.1", "2.2.2.2, 10.0.0.9"}},
			"[permission denied]", "address:10.0.0.9 /rest/", "address:10.0.0.9 ",
		},
		{caller{address: gatewayAddr{}, forwarded: []string{"nobody"}}, "[permission denied]", "local /rest/", "local "},
		{caller{address: gatewayAddr{}}, "[permission denied]", "local /rest/", "local "},
	} {
		for _, want := range []struct {
			table *Table
			who   string
		}{{withFile, c.tenant}, {withDefault, c.others}, {without, c.alone}} {
			ctx := c.ctx(t.Context())
			v, err := want.table.Enter(ctx, pb.KV_Range_FullMethodName, marshal(t, &pb.RangeRequest{Key: []byte("k")}))
			got := ""
			switch {
			case err == nil:
				who, _ := want.table.Identify(ctx)
				got = who.String() + " " + v.Namespace()
				v.Leave(nil, nil)
			case errors.Is(err, rpctypes.ErrGRPCInvalidAuthToken):
				got = "[invalid auth token]"
			case errors.Is(err, rpctypes.ErrGRPCPermissionDenied):
				got = "[permission denied]"
			}
			if got != want.who {
				t.Errorf("%+v: got %q, want %q (%v)", c.caller, got, want.who, err)
			}
		}
	}
}

func TestWhoIsRefusedMayStillShowWhoHeIs(t *testing.T) {
	table := newTable(t, twoTenants, Config{Upstream: newStore(t)})
	for _, c := range []*caller{{}, {token: "old"}, {cn: "nobody"}} {
		if err := call(t, table, c, pb.Auth_Authenticate_FullMethodName, &pb.AuthenticateRequest{Name: "ann"}); err != nil {
			t.Errorf("%+v: Authenticate: %v", c, err)
		}
		if err := call(t, table, c, "/grpc.health.v1.Health/Check", &pb.AuthenticateRequest{}); err != nil {
			t.Errorf("%+v: health: %v", c, err)
		}
		if err := call(t, table, c, pb.Maintenance_Status_FullMethodName, &pb.StatusRequest{}); err == nil {
			t.Errorf("%+v: Status was let through", c)
		}
	}
}

func TestForgedTokensMakeNoAccounts(t *testing.T) {
	for name, text := range map[string]string{"with a file": twoTenants, "with a default": twoTenants + "default: {}\n", "without": ""} {
		table := newTable(t, text, Config{Upstream: newStore(t), Limits: Limits{Requests: 1e6}})
		for i := range 10_000 {
			c := &caller{token: fmt.Sprint("forged-", i)}
			for _, method := range []string{pb.KV_Range_FullMethodName, pb.Auth_Authenticate_FullMethodName} {
				_ = call(t, table, c, method, &pb.RangeRequest{}) // refused or not
			}
			table.Identify(c.ctx(t.Context()))
		}
		if n := table.Status().Accounts; n != 1 {
			t.Errorf("%s: there are %d accounts, want 1 of the address", name, n)
		}
	}
}

// Anybody can write a JWT, and only upstream knows whether it is signed.
func TestUpstreamIsNotAskedAboutTokensWithoutBound(t *testing.T) {
	for name, text := range map[string]string{"with a file": twoTenants, "with a default": twoTenants + "default: {}\n", "without": ""} {
		bubble.Test(t, func(t *testing.T) {
			u := &users{believed: map[string]bool{"ann": true}}
			table := newTable(t, text, Config{Upstream: newStore(t), Users: u, Limits: Limits{Requests: 1e6}})
			defer table.Close()
			get := func(c *caller) error { return call(t, table, c, pb.KV_Range_FullMethodName, &pb.RangeRequest{}) }
			forger, other := &caller{}, &caller{token: "signed-ann", address: tcp("10.0.0.2")}
			for second := range 3 {
				for i := range 10 * maxDoubts {
					forger.token = fmt.Sprint("signed-", second, "-", i)
					table.Identify(forger.ctx(t.Context()))
					if err := get(forger); i > 2*maxDoubts {
						hint(t, forger, err)
					}
				}
				if most := (maxDoubts + 1) * (second + 1); u.asked > most {
					t.Errorf("%s: upstream was asked %d times in %d s, want at most %d", name, u.asked, second+1, most)
				}
				time.Sleep(time.Second)
			}
			for range 10 * maxDoubts { // who is right costs nothing
				if err := get(other); err != nil {
					t.Fatalf("%s: a user from elsewhere: %v", name, err)
				}
			}
			forger.token = "signed-ann"
			if err := get(forger); err != nil {
				t.Errorf("%s: a user from the same address, a second later: %v", name, err)
			}
			if err := call(t, table, forger, pb.Auth_Authenticate_FullMethodName, &pb.AuthenticateRequest{}); err != nil {
				t.Errorf("%s: Authenticate: %v", name, err)
			}
			if got := table.Status().Refused; got.Rate == 0 {
				t.Errorf("%s: refused %+v", name, got)
			}
		})
	}
}

func TestAccountsAreBoundedAndThoseWithCallsStay(t *testing.T) {
	s := newAccounts(3)
	own := &tenant{weight: 1, limits: Limits{InFlight: 1}}
	who := func(i int) Identity { return Identity{kind: ofUser, name: fmt.Sprint(i)} }
	busy := []*account{s.get(who(0), own), s.get(who(1), own)}
	for i := 2; i < 100; i++ {
		a := s.get(who(i), own)
		if a == nil || a.who != who(i) {
			t.Fatalf("account %d: %v", i, a)
		}
		s.put(a)
		s.look(who(i+1000), own)
		if n := s.count(); n > 3 {
			t.Fatalf("there are %d accounts", n)
		}
	}
	for i, a := range busy {
		if s.look(who(i), own) != a {
			t.Errorf("account %d is another one while it has a call", i)
		}
	}
	busy = append(busy, s.get(who(2), own))
	if a := s.get(who(3), own); a != nil {
		t.Error("there is room for one more than the most")
	}
	if a := s.look(who(3), own); a == nil || a.who != who(3) {
		t.Errorf("who has no room is %v", a)
	}
	for _, a := range busy {
		s.put(a)
	}
	if a := s.get(who(3), own); a == nil {
		t.Error("there is no room though nobody has a call")
	}
}
