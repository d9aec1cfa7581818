package auth

import (
	"errors"
	"slices"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

func TestReloadShowsTheUsersOfTheRecordsAndForgetsTokens(t *testing.T) {
	later := open(t, Config{})
	var records []Record
	keep := func(r []Record) { records = append(records, r...) }
	keep(apply(t, later, addUserWithPassword(t, later, "root", "pw"), &pb.AuthRoleAddRequest{Name: "root"},
		&pb.AuthUserGrantRoleRequest{User: "root", Role: "root"}, enable()))

	s := open(t, Config{})
	apply(t, s, addUserWithPassword(t, s, "root", "old"), addUser("gone"), &pb.AuthRoleAddRequest{Name: "root"},
		&pb.AuthUserGrantRoleRequest{User: "root", Role: "root"}, enable())
	token, err := s.AssignToken("root", "prefix", 7)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Identify(token); !ok {
		t.Fatal("the token is not known")
	}
	replacement, err := s.Reload(slices.Values(records))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Identify(token); !ok {
		t.Fatal("it is not known before they are taken over")
	}
	if !replacement.Begin() {
		t.Error("authentication is said to be off")
	}
	replacement.End()
	if got := s.Users(); !slices.Equal(got, []string{"root"}) || !s.Enabled() || s.Revision() != later.Revision() {
		t.Errorf("users %v, enabled %v, revision %d of %d", got, s.Enabled(), s.Revision(), later.Revision())
	}
	if _, ok := s.Identify(token); ok {
		t.Error("a token from before is known")
	}
	if _, err := s.CheckPassword(t.Context(), "root", "pw"); err != nil {
		t.Error(err)
	}
	if _, err := s.CheckPassword(t.Context(), "root", "old"); err == nil {
		t.Error("a password from before is taken")
	}
}

func TestReloadOfWrongRecordsChangesNothing(t *testing.T) {
	s := open(t, Config{})
	apply(t, s, addUser("a"))
	if _, err := s.Reload(slices.Values([]Record{{Kind: Meta, Key: []byte(keyRevision), Value: []byte{1}}})); err == nil {
		t.Fatal("records that are none were taken")
	}
	if got := s.Users(); !slices.Equal(got, []string{"a"}) {
		t.Errorf("users %v", got)
	}
}

// Rights and data are replaced at different times. Between, nobody has those of one state in the other.
func TestWhileAReplacementIsUnderWayAllAreToAskAgain(t *testing.T) {
	may := func(key string) *pb.AuthRoleGrantPermissionRequest {
		return &pb.AuthRoleGrantPermissionRequest{Name: "r", Perm: &authpb.Permission{PermType: authpb.READ, Key: []byte(key)}}
	}
	users := func(s *Store, more ...proto.Message) (records []Record) {
		return apply(t, s, append([]proto.Message{addUser("root"), &pb.AuthRoleAddRequest{Name: "root"},
			&pb.AuthUserGrantRoleRequest{User: "root", Role: "root"}, addUser("u"), &pb.AuthRoleAddRequest{Name: "r"},
			&pb.AuthUserGrantRoleRequest{User: "u", Role: "r"}, may("both")}, more...)...)
	}
	for _, c := range []struct {
		name         string
		before, next []proto.Message
		keys         []string // that u may go on reading, of the three that there are
	}{
		{"on before and after", []proto.Message{may("old"), enable()}, []proto.Message{may("new"), enable()}, []string{"both"}},
		{"on before", []proto.Message{may("old"), enable()}, nil, []string{"both", "old"}},
		{"on after", nil, []proto.Message{may("new"), enable()}, []string{"both", "new"}},
	} {
		s, later := open(t, Config{}), open(t, Config{})
		users(s, c.before...)
		u, root := s.IdentifyCN("u"), s.IdentifyCN("root")
		r, err := s.Reload(slices.Values(users(later, c.next...)))
		if err != nil {
			t.Fatal(err)
		}
		if !r.Begin() || !s.Enabled() {
			t.Errorf("%s: authentication is said to be off", c.name)
		}
		old := rpctypes.ErrGRPCAuthOldRevision
		for what, got := range map[string]error{
			"a read": s.PermitRange(u, []byte("both"), nil), "nobody's read": s.PermitRange(Identity{}, []byte("both"), nil),
			"a read of root": s.PermitRange(s.IdentifyCN("root"), []byte("both"), nil),
			"a write":        s.PermitPut(u, []byte("both")), "administration": s.PermitAdmin(root),
			"what was permitted": s.Unchanged(u.Revision), "what was permitted to nobody": s.Unchanged(0),
		} {
			if !errors.Is(got, old) {
				t.Errorf("%s: %s: %v", c.name, what, got)
			}
		}
		var goesOn []string
		for _, key := range []string{"both", "new", "old"} {
			if s.PermitUser("u", []byte(key), nil) == nil {
				goesOn = append(goesOn, key)
			}
		}
		if !slices.Equal(goesOn, c.keys) {
			t.Errorf("%s: u goes on with %v, want %v", c.name, goesOn, c.keys)
		}
		r.End()
		if got, want := s.Enabled(), later.Enabled(); got != want {
			t.Errorf("%s: authentication is on %v, want %v", c.name, got, want)
		}
		if err := s.PermitRange(s.IdentifyCN("u"), []byte("both"), nil); err != nil {
			t.Errorf("%s: a read when it is over: %v", c.name, err)
		}
	}
	s := open(t, Config{})
	r, err := s.Reload(nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Begin() || s.PermitRange(Identity{}, []byte("k"), nil) != nil || s.Unchanged(0) != nil {
		t.Error("somebody is refused where there are no users")
	}
}
