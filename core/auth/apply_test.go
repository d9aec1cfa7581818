package auth

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

const (
	read      = authpb.Permission_READ
	write     = authpb.Permission_WRITE
	readWrite = authpb.Permission_READWRITE
)

func TestRefusedRequestsGiveEtcdsErrorAndChangeNothing(t *testing.T) {
	tooLong := strings.Repeat("n", maxNameBytes+1)
	setup := []proto.Message{addUser("ann"), addUser("bob"), addRole("r"), addRole(root), grantRole("ann", "r"), grant("r", read, "a", "b")}
	for name, c := range map[string]struct {
		off     bool
		request proto.Message
		want    error
	}{
		"add a user without a name":                 {request: addUser(""), want: rpctypes.ErrGRPCUserEmpty},
		"add a user that is there":                  {request: addUser("ann"), want: rpctypes.ErrGRPCUserAlreadyExist},
		"add a user of too long a name":             {request: addUser(tooLong), want: rpctypes.ErrGRPCInvalidAuthMgmt},
		"add a user with a hash that is not base64": {request: &pb.AuthUserAddRequest{Name: "eve", HashedPassword: "!"}, want: errNoPasswordUser},
		"delete a user that is not there":           {request: &pb.AuthUserDeleteRequest{Name: "eve"}, want: rpctypes.ErrGRPCUserNotFound},
		"delete root":                               {request: &pb.AuthUserDeleteRequest{Name: root}, want: rpctypes.ErrGRPCInvalidAuthMgmt},
		"change a password of nobody":               {request: &pb.AuthUserChangePasswordRequest{Name: "eve"}, want: rpctypes.ErrGRPCUserNotFound},
		"grant a role to nobody":                    {request: grantRole("eve", "r"), want: rpctypes.ErrGRPCUserNotFound},
		"grant a role that is not there":            {request: grantRole("bob", "none"), want: rpctypes.ErrGRPCRoleNotFound},
		"revoke a role of nobody":                   {request: &pb.AuthUserRevokeRoleRequest{Name: "eve", Role: "r"}, want: rpctypes.ErrGRPCUserNotFound},
		"revoke a role that was not granted":        {request: &pb.AuthUserRevokeRoleRequest{Name: "bob", Role: "r"}, want: rpctypes.ErrGRPCRoleNotGranted},
		"revoke the role root of root":              {request: &pb.AuthUserRevokeRoleRequest{Name: root, Role: root}, want: rpctypes.ErrGRPCInvalidAuthMgmt},
		"add a role without a name":                 {request: addRole(""), want: rpctypes.ErrGRPCRoleEmpty},
		"add a role that is there":                  {request: addRole("r"), want: rpctypes.ErrGRPCRoleAlreadyExist},
		"add a role of too long a name":             {request: addRole(tooLong), want: rpctypes.ErrGRPCInvalidAuthMgmt},
		"delete a role that is not there":           {request: &pb.AuthRoleDeleteRequest{Role: "none"}, want: rpctypes.ErrGRPCRoleNotFound},
		"delete the role root":                      {request: &pb.AuthRoleDeleteRequest{Role: root}, want: rpctypes.ErrGRPCInvalidAuthMgmt},
		"grant no permission":                       {request: &pb.AuthRoleGrantPermissionRequest{Name: "r"}, want: rpctypes.ErrGRPCPermissionNotGiven},
		"grant a permission without a key":          {request: grant("r", read, "", "b"), want: rpctypes.ErrGRPCInvalidAuthMgmt},
		"grant a permission of an empty range":      {request: grant("r", read, "b", "b"), want: rpctypes.ErrGRPCInvalidAuthMgmt},
		"grant a permission of a turned range":      {request: grant("r", read, "b", "a"), want: rpctypes.ErrGRPCInvalidAuthMgmt},
		"grant a permission to no role":             {request: grant("none", read, "a", ""), want: rpctypes.ErrGRPCRoleNotFound},
		"revoke a permission of no role":            {request: &pb.AuthRoleRevokePermissionRequest{Role: "none"}, want: rpctypes.ErrGRPCRoleNotFound},
		"revoke a permission of part of the range":  {request: &pb.AuthRoleRevokePermissionRequest{Role: "r", Key: []byte("a")}, want: rpctypes.ErrGRPCPermissionNotGranted},
		"enable without root":                       {off: true, request: enable(), want: rpctypes.ErrGRPCRootUserNotExist},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, Config{})
			apply(t, s, setup...)
			if !c.off {
				apply(t, s, withRoot()...)
			}
			before := describe(t, s)
			records, err := s.Apply(c.request)
			if err != c.want || len(records) > 0 {
				t.Errorf("got %v and %v, want the error %v", records, err, c.want)
			}
			if after := describe(t, s); after != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
		})
	}
}

func TestEnableNeedsTheRoleRootToo(t *testing.T) {
	s := open(t, Config{})
	apply(t, s, addUser(root))
	if _, err := s.Apply(enable()); err != rpctypes.ErrGRPCRootRoleNotExist {
		t.Errorf("got %v", err)
	}
	apply(t, s, grantRole(root, root)) // though no role root was ever added
	if apply(t, s, enable()); !s.Enabled() {
		t.Error("authentication is off")
	}
}

func TestRootMayGoWhileAuthenticationIsOff(t *testing.T) {
	for name, request := range map[string]proto.Message{
		"user":  &pb.AuthUserDeleteRequest{Name: root},
		"role":  &pb.AuthRoleDeleteRequest{Role: root},
		"grant": &pb.AuthUserRevokeRoleRequest{Name: root, Role: root},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, Config{})
			apply(t, s, addRole(root))
			apply(t, s, withRoot()...)
			apply(t, s, disable(), request)
			if _, err := s.Apply(enable()); status.Code(err) != codes.FailedPrecondition {
				t.Errorf("enabling gives %v", err)
			}
		})
	}
}

func TestEveryChangeButEnablingCountsARevision(t *testing.T) {
	s := open(t, Config{})
	if s.Revision() != 1 {
		t.Fatalf("the first revision is %d", s.Revision())
	}
	for i, c := range []struct {
		request proto.Message
		more    uint64
	}{
		{disable(), 0}, // is off
		{addUser(root), 1},
		{grantRole(root, root), 1},
		{grantRole(root, root), 0}, // has it
		{enable(), 0},
		{enable(), 0},
		{addRole("r"), 1},
		{grant("r", read, "a", ""), 1},
		{grant("r", read, "a", ""), 1}, // etcd counts this one too
		{grantRole(root, "r"), 1},
		{&pb.AuthUserRevokeRoleRequest{Name: root, Role: "r"}, 1},
		{&pb.AuthRoleRevokePermissionRequest{Role: "r", Key: []byte("a")}, 1},
		{&pb.AuthRoleDeleteRequest{Role: "r"}, 1},
		{&pb.AuthUserChangePasswordRequest{Name: root}, 1},
		{addUser("ann"), 1},
		{&pb.AuthUserDeleteRequest{Name: "ann"}, 1},
		{disable(), 1},
	} {
		before := s.Revision()
		apply(t, s, c.request)
		if got := s.Revision() - before; got != c.more {
			t.Errorf("request %d, %T: %d revisions instead of %d", i, c.request, got, c.more)
		}
	}
}

func TestARequestThatChangesNothingHasNoRecords(t *testing.T) {
	s := open(t, Config{})
	apply(t, s, withRoot()...)
	if records := apply(t, s, enable(), grantRole(root, root)); len(records) > 0 {
		t.Errorf("got %v", records)
	}
}

func TestRecordsAreInEtcdsLayout(t *testing.T) {
	s, d := open(t, Config{}), disk{}
	d.write(apply(t, s, withRoot()...))
	d.write(apply(t, s, addRole("gone"), &pb.AuthRoleDeleteRequest{Role: "gone"}, addRole("r"), grant("r", write, "a", "b")))
	d.write(apply(t, s, &pb.AuthUserAddRequest{Name: "ann", HashedPassword: "aGFzaA=="}, grantRole("ann", "r")))
	want := `auth/authEnabled="\x01"
auth/authRevision="\x00\x00\x00\x00\x00\x00\x00\t"
authRoles/r="\n\x01r\x12\b\b\x01\x12\x01a\x1a\x01b"
authUsers/ann="\n\x03ann\x12\x04hash\x1a\x01r\"\x00"
authUsers/root="\n\x04root\x1a\x04root\"\x02\b\x01"
`
	if got := d.String(); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func TestOpenRefusesRecordsThatAreNone(t *testing.T) {
	for _, r := range []Record{
		{Kind: User, Key: []byte("ann"), Value: []byte("\xff")},
		{Kind: Role, Key: []byte("r"), Value: []byte("\xff")},
		{Kind: Meta, Key: []byte(keyRevision), Value: []byte("1")},
	} {
		_, err := Open(Config{}, slices.Values([]Record{r}))
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q of the bucket %s", r.Key, r.Kind)) {
			t.Errorf("%v %q: %v", r.Kind, r.Key, err)
		}
	}
}

func TestDeletingARoleTakesItFromItsUsers(t *testing.T) {
	s, d := open(t, Config{}), disk{}
	d.write(apply(t, s, addRole("a"), addRole("b"), addUser("ann"), addUser("bob")))
	d.write(apply(t, s, grantRole("ann", "b"), grantRole("ann", "a"), grantRole("bob", "b"), &pb.AuthRoleDeleteRequest{Role: "b"}))
	for _, s := range []*Store{s, d.open(t, Config{})} {
		ann, _ := s.User("ann")
		bob, _ := s.User("bob")
		if !slices.Equal(ann, []string{"a"}) || len(bob) > 0 {
			t.Errorf("ann has %q, bob %q", ann, bob)
		}
		if s.HasRole("ann", "b") || !s.HasRole("ann", "a") {
			t.Error("HasRole says otherwise")
		}
	}
}

// etcd looks only at the first of several permissions on one key, and keeps the old type beside the new one.
func TestGrantingAgainReplacesThePermissionOnThatRange(t *testing.T) {
	s := open(t, Config{})
	apply(t, s, addRole("r"), grant("r", read, "b", ""), grant("r", readWrite, "a", "b"), grant("r", readWrite, "a", "c"), grant("r", read, "a", "c"))
	want := `role "r" READWRITE "a"-"b" READ "a"-"c" READ "b"-""` + "\n"
	if got := describe(t, s); !strings.HasSuffix(got, want) {
		t.Errorf("got %s want %s", got, want)
	}
}

func TestTheRoleRootIsShownToMayEverything(t *testing.T) {
	s := open(t, Config{})
	if _, err := s.Role(root); err != rpctypes.ErrGRPCRoleNotFound {
		t.Errorf("before it is there: %v", err)
	}
	apply(t, s, addRole(root), grant(root, read, "a", ""))
	if got, want := describe(t, s), `role "root" READWRITE ""-"\x00"`+"\n"; !strings.HasSuffix(got, want) {
		t.Errorf("got %s want %s", got, want)
	}
}

func TestOtherRequestsAreNotApplied(t *testing.T) {
	s := open(t, Config{})
	if _, err := s.Apply(&pb.PutRequest{}); err == nil {
		t.Error("a put was applied")
	}
}

// TestTwoStoresStayTheSame applies random requests to a Store, to a second one, and to one that is opened from the
// records again and again.
func TestTwoStoresStayTheSame(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	first, second, d := open(t, Config{}), open(t, Config{}), disk{}
	reopened := d.open(t, Config{})
	for step := range 2000 {
		m := randomRequest(rng)
		records, err := first.Apply(m)
		for _, s := range []*Store{second, reopened} {
			others, otherErr := s.Apply(m)
			if otherErr != err || fmt.Sprint(others) != fmt.Sprint(records) {
				t.Fatalf("step %d, %T{%v}: %v and %v, but %v and %v", step, m, m, records, err, others, otherErr)
			}
		}
		d.write(records)
		if rng.IntN(20) == 0 {
			reopened = d.open(t, Config{})
		}
		if want, got := describe(t, first), describe(t, reopened); got != want {
			t.Fatalf("step %d, %T{%v}: got\n%swant\n%s", step, m, m, got, want)
		}
		checkInvariants(t, first)
	}
}

func randomRequest(rng *rand.Rand) proto.Message {
	pick := func(of ...string) string { return of[rng.IntN(len(of))] }
	user, role := pick(root, "ann", "bob", ""), pick(root, "r", "s", "")
	key, end := pick("a", "b", "c", ""), pick("", "", "b", "c", "\x00")
	switch rng.IntN(14) {
	case 0, 1:
		return enable()
	case 2:
		return disable()
	case 3:
		return addUser(user)
	case 4:
		return &pb.AuthUserAddRequest{Name: user, HashedPassword: pick("aGFzaA==", "", "!")}
	case 5:
		return &pb.AuthUserDeleteRequest{Name: user}
	case 6:
		return &pb.AuthUserChangePasswordRequest{Name: user, HashedPassword: pick("aGFzaA==", "aGFzaGg=", "!")}
	case 7, 8:
		return grantRole(user, role)
	case 9:
		return &pb.AuthUserRevokeRoleRequest{Name: user, Role: role}
	case 10:
		return addRole(role)
	case 11:
		return &pb.AuthRoleDeleteRequest{Role: role}
	case 12:
		return grant(role, authpb.Permission_Type(rng.IntN(3)), key, end)
	default:
		return &pb.AuthRoleRevokePermissionRequest{Role: role, Key: []byte(key), RangeEnd: []byte(end)}
	}
}

func checkInvariants(t *testing.T, s *Store) {
	t.Helper()
	if s.Enabled() && !s.HasRole(root, root) {
		t.Fatal("authentication is on without root")
	}
	for _, user := range s.Users() {
		roles, _ := s.User(user)
		for _, role := range roles {
			if _, err := s.Role(role); err != nil && role != root {
				t.Fatalf("%s has the role %s, which is not there", user, role)
			}
		}
	}
}
