package core

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"weir/core/auth"
	"weir/grpcapi/wire"
)

// users is a member with authentication on: root, alice, who may read and write below /a/ and read /b/, and bob, who may
// do nothing.
type users struct {
	*testing.T
	n *Node
}

func openUsers(t *testing.T, change ...func(*Config)) users {
	t.Helper()
	n := openNode(t, t.TempDir(), append(change, func(c *Config) { c.Auth.BcryptCost = 4 })...)
	t.Cleanup(func() { closeNode(t, n) })
	u := users{t, n}
	ctx := t.Context()
	for _, name := range []string{"root", "alice", "bob"} {
		_, err := n.UserAdd(ctx, &pb.AuthUserAddRequest{Name: name, Password: name + "'s"})
		u.must(err)
		_, err = n.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: name})
		u.must(err)
		_, err = n.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: name, Role: name})
		u.must(err)
	}
	for _, p := range []*authpb.Permission{
		{PermType: authpb.READWRITE, Key: []byte("/a/"), RangeEnd: []byte("/a0")},
		{PermType: authpb.READ, Key: []byte("/b/"), RangeEnd: []byte("/b0")},
	} {
		_, err := n.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: "alice", Perm: p})
		u.must(err)
	}
	mustPut(t, n, &pb.PutRequest{Key: []byte("/b/1"), Value: []byte("b")})
	mustPut(t, n, &pb.PutRequest{Key: []byte("/c/1"), Value: []byte("c")})
	_, err := n.AuthEnable(ctx, &pb.AuthEnableRequest{})
	u.must(err)
	return u
}

func (u users) must(err error) {
	u.Helper()
	if err != nil {
		u.Fatal(err)
	}
}

// as is the context of a request of a user who has logged in; "" is one without a token.
func (u users) as(name string) context.Context {
	u.Helper()
	if name == "" {
		return u.Context()
	}
	r, err := u.n.Authenticate(u.Context(), &pb.AuthenticateRequest{Name: name, Password: name + "'s"})
	u.must(err)
	return withToken(u.Context(), r.Token)
}

func withToken(ctx context.Context, token string) context.Context {
	return metadata.NewIncomingContext(ctx, metadata.Pairs(rpctypes.TokenFieldNameGRPC, token))
}

func (u users) get(ctx context.Context, key, end string) error {
	_, err := u.n.Range(ctx, &wire.RangeRequest{Key: []byte(key), RangeEnd: []byte(end), Serializable: true})
	return err
}

func (u users) put(ctx context.Context, m *pb.PutRequest) error {
	raw, err := proto.Marshal(m)
	u.must(err)
	var r wire.PutRequest
	u.must(r.Unmarshal(raw))
	_, err = u.n.Put(ctx, &r)
	return err
}

func (u users) delete(ctx context.Context, m *pb.DeleteRangeRequest) error {
	raw, err := proto.Marshal(m)
	u.must(err)
	var r wire.DeleteRangeRequest
	u.must(r.Unmarshal(raw))
	_, err = u.n.DeleteRange(ctx, &r)
	return err
}

func (u users) txn(ctx context.Context, m *pb.TxnRequest) error {
	raw, err := proto.Marshal(m)
	u.must(err)
	_, err = u.n.Txn(ctx, m, raw)
	return err
}

func putOp(key string, prev bool) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), PrevKv: prev}}}
}

func rangeOp(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key)}}}
}

func deleteOp(key string, prev bool) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key), PrevKv: prev}}}
}

func txnOp(r *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: r}}
}

func TestRequestsArePermittedForWhoSendsThem(t *testing.T) {
	u := openUsers(t)
	n := u.n
	grant, err := n.LeaseGrant(u.as("root"), &pb.LeaseGrantRequest{ID: 5, TTL: 1000})
	u.must(err)
	u.must(u.put(u.as("root"), &pb.PutRequest{Key: []byte("/c/leased"), Lease: grant.ID}))
	u.must(u.put(u.as("root"), &pb.PutRequest{Key: []byte("/b/leased"), Lease: grant.ID}))
	_, err = n.LeaseGrant(u.as("root"), &pb.LeaseGrantRequest{ID: 6, TTL: 1000})
	u.must(err)
	nested := func(op *pb.RequestOp) *pb.TxnRequest {
		return &pb.TxnRequest{Success: []*pb.RequestOp{txnOp(&pb.TxnRequest{Failure: []*pb.RequestOp{op}})}}
	}
	type request struct {
		name       string
		send       func(context.Context) error
		alice, bob error
	}
	denied := rpctypes.ErrGRPCPermissionDenied
	for _, r := range []request{
		{"get a key that may be read", func(ctx context.Context) error { return u.get(ctx, "/b/1", "") }, nil, denied},
		{"get a range that may be read in two parts", func(ctx context.Context) error { return u.get(ctx, "/a/", "/a0") }, nil, denied},
		{"get a range of which a part may not be read", func(ctx context.Context) error { return u.get(ctx, "/a/", "/c") }, denied, denied},
		{"get everything", func(ctx context.Context) error { return u.get(ctx, "\x00", "\x00") }, denied, denied},
		{"put", func(ctx context.Context) error { return u.put(ctx, &pb.PutRequest{Key: []byte("/a/1")}) }, nil, denied},
		{"put what may only be read", func(ctx context.Context) error { return u.put(ctx, &pb.PutRequest{Key: []byte("/b/1")}) }, denied, denied},
		{"put on a lease of others", func(ctx context.Context) error {
			return u.put(ctx, &pb.PutRequest{Key: []byte("/a/1"), Lease: 5})
		}, denied, denied},
		{"delete", func(ctx context.Context) error { return u.delete(ctx, &pb.DeleteRangeRequest{Key: []byte("/a/x")}) }, nil, denied},
		{"delete what may only be read", func(ctx context.Context) error {
			return u.delete(ctx, &pb.DeleteRangeRequest{Key: []byte("/b/x")})
		}, denied, denied},
		{"transaction", func(ctx context.Context) error {
			return u.txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{putOp("/a/2", true), rangeOp("/b/1")}})
		}, nil, denied},
		{"transaction that compares what may not be read", func(ctx context.Context) error {
			return u.txn(ctx, &pb.TxnRequest{Compare: []*pb.Compare{{Key: []byte("/c/1")}}, Failure: []*pb.RequestOp{putOp("/a/2", false)}})
		}, denied, denied},
		{"transaction with a put in the branch not taken", func(ctx context.Context) error {
			return u.txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{putOp("/a/2", false)}, Failure: []*pb.RequestOp{putOp("/b/2", false)}})
		}, denied, denied},
		{"nested get", func(ctx context.Context) error { return u.txn(ctx, nested(rangeOp("/c/1"))) }, denied, denied},
		{"nested put", func(ctx context.Context) error { return u.txn(ctx, nested(putOp("/b/1", false))) }, denied, denied},
		{"nested delete", func(ctx context.Context) error { return u.txn(ctx, nested(deleteOp("/b/1", true))) }, denied, denied},
		{"nested, and permitted", func(ctx context.Context) error { return u.txn(ctx, nested(putOp("/a/1", true))) }, nil, denied},
		{"watch", func(ctx context.Context) error { return errOf(n.PermitWatch(ctx, []byte("/b/"), []byte("/b0"))) }, nil, denied},
		{"watch what may not be read", func(ctx context.Context) error { return errOf(n.PermitWatch(ctx, []byte("/b/"), []byte("/d"))) }, denied, denied},
		{"compact", func(ctx context.Context) error {
			_, err := n.Compact(ctx, &pb.CompactionRequest{Revision: 2})
			return err
		}, denied, denied},
		{"grant a lease", func(ctx context.Context) error {
			_, err := n.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 100})
			return err
		}, nil, nil},
		{"revoke a lease of others", func(ctx context.Context) error {
			_, err := n.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 5})
			return err
		}, denied, denied},
		{"renew a lease of others", func(ctx context.Context) error {
			_, err := n.LeaseRenew(ctx, 5)
			return err
		}, denied, denied},
		{"renew a lease without keys", func(ctx context.Context) error {
			_, err := n.LeaseRenew(ctx, 6)
			return err
		}, nil, nil},
		{"time to live of a lease of others", func(ctx context.Context) error {
			_, err := n.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: 5})
			return err
		}, nil, nil},
		{"keys of a lease of others", func(ctx context.Context) error {
			_, err := n.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: 5, Keys: true})
			return err
		}, denied, denied},
		{"list leases", func(ctx context.Context) error {
			_, err := n.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
			return err
		}, denied, denied},
		{"add a user", func(ctx context.Context) error {
			_, err := n.UserAdd(ctx, &pb.AuthUserAddRequest{Name: fmt.Sprint(ctx), Password: "x"})
			return err
		}, denied, denied},
		{"look at alice", func(ctx context.Context) error {
			_, err := n.UserGet(ctx, &pb.AuthUserGetRequest{Name: "alice"})
			return err
		}, nil, denied},
		{"look at the role of alice", func(ctx context.Context) error {
			_, err := n.RoleGet(ctx, &pb.AuthRoleGetRequest{Role: "alice"})
			return err
		}, nil, denied},
		{"list users", func(ctx context.Context) error {
			_, err := n.UserList(ctx, &pb.AuthUserListRequest{})
			return err
		}, denied, denied},
		{"list roles", func(ctx context.Context) error {
			_, err := n.RoleList(ctx, &pb.AuthRoleListRequest{})
			return err
		}, denied, denied},
	} {
		for _, c := range []struct {
			user string
			want error
		}{{"root", nil}, {"alice", r.alice}, {"bob", r.bob}, {"", rpctypes.ErrGRPCUserEmpty}} {
			if r.name == "revoke a lease of others" && c.user == "root" {
				continue // it would be gone for the others
			}
			if err := r.send(u.as(c.user)); !sameError(err, c.want) {
				t.Errorf("%s, as %q: %v, not %v", r.name, c.user, err, c.want)
			}
		}
		if err := r.send(withToken(t.Context(), "no.1")); !sameError(err, rpctypes.ErrGRPCInvalidAuthToken) {
			t.Errorf("%s, with a token that is not valid: %v", r.name, err)
		}
	}
}

func sameError(a, b error) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Error() == b.Error()
}

// As etcd has it: there is nothing in it that nobody may not see.
func TestNobodyMaySendATransactionThatTouchesNoKey(t *testing.T) {
	u := openUsers(t)
	for _, m := range []*pb.TxnRequest{
		{},
		{Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{}}}}},
	} {
		raw, err := proto.Marshal(m)
		u.must(err)
		if _, err := u.n.Txn(u.as(""), m, raw); err != nil {
			t.Errorf("%v: %v", m, err)
		}
	}
}

func TestWriteOfAnEarlierAuthRevisionIsRefused(t *testing.T) {
	u := openUsers(t)
	ctx := u.as("alice")
	id, err := u.n.identify(ctx)
	u.must(err)
	_, err = u.n.UserRevokeRole(u.as("root"), &pb.AuthUserRevokeRoleRequest{Name: "alice", Role: "alice"})
	u.must(err)

	// As if it had been on its way through the log meanwhile.
	m := &pb.PutRequest{Key: []byte("/a/1")}
	raw, err := proto.Marshal(m)
	u.must(err)
	var r wire.PutRequest
	u.must(r.Unmarshal(raw))
	if _, err := u.n.propose(t.Context(), kindPut, id, raw, &r); !sameError(err, rpctypes.ErrGRPCAuthOldRevision) {
		t.Errorf("a write of before the change: %v", err)
	}
	if _, err := u.n.propose(t.Context(), kindPut, auth.Identity{}, raw, &r); !sameError(err, rpctypes.ErrGRPCUserEmpty) {
		t.Errorf("a write of before authentication was on: %v", err)
	}
	if err := u.n.auth.Unchanged(id.Revision); !sameError(err, rpctypes.ErrGRPCAuthOldRevision) {
		t.Errorf("what was read before the change: %v", err)
	}
	if err := u.put(u.as("alice"), m); !sameError(err, rpctypes.ErrGRPCPermissionDenied) {
		t.Errorf("a write after the change: %v", err)
	}
}

func TestATokenThatIsOlderThanAChangeOfUsersKeepsLeasesWhereNoKeyDecides(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("a secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	u := openUsers(t, func(c *Config) { c.Auth.Token = "jwt,sign-method=HS256,priv-key=" + key })
	root, alice := u.as("root"), u.as("alice")
	for _, id := range []int64{5, 6} {
		_, err := u.n.LeaseGrant(alice, &pb.LeaseGrantRequest{ID: id, TTL: 1000})
		u.must(err)
	}
	u.must(u.put(alice, &pb.PutRequest{Key: []byte("/a/leased"), Lease: 5}))
	_, err := u.n.RoleAdd(root, &pb.AuthRoleAddRequest{Name: "another"})
	u.must(err)

	old := rpctypes.ErrGRPCAuthOldRevision
	for _, c := range []struct {
		name  string
		who   context.Context
		lease int64
		want  error
	}{
		{"root, of a lease with keys", root, 5, nil},
		{"root, of a lease without keys", root, 6, nil},
		{"alice, of a lease with keys", alice, 5, old},
		{"alice, of a lease without keys", alice, 6, nil},
	} {
		if _, err := u.n.LeaseRenew(c.who, c.lease); !sameError(err, c.want) {
			t.Errorf("renewal by %s: %v, not %v", c.name, err, c.want)
		}
		if _, err := u.n.LeaseTimeToLive(c.who, &pb.LeaseTimeToLiveRequest{ID: c.lease, Keys: true}); !sameError(err, c.want) {
			t.Errorf("keys for %s: %v, not %v", c.name, err, c.want)
		}
	}
	if _, err := u.n.LeaseLeases(root, &pb.LeaseLeasesRequest{}); err != nil {
		t.Errorf("list of leases for root: %v", err)
	}
	if _, err := u.n.LeaseLeases(alice, &pb.LeaseLeasesRequest{}); !sameError(err, old) {
		t.Errorf("list of leases for alice: %v", err)
	}
}

func TestWhoMayWriteAllKeysOfALeaseIsKnownOnlyUntilItChanges(t *testing.T) {
	u := openUsers(t)
	root, alice, bob := u.as("root"), u.as("alice"), u.as("bob")
	_, err := u.n.LeaseGrant(root, &pb.LeaseGrantRequest{ID: 5, TTL: 1000})
	u.must(err)
	put := func(key string) *pb.PutRequest { return &pb.PutRequest{Key: []byte(key), Lease: 5} }
	denied := func(what string, err error) {
		t.Helper()
		if !sameError(err, rpctypes.ErrGRPCPermissionDenied) {
			t.Errorf("%s: %v", what, err)
		}
	}
	u.must(u.put(alice, put("/a/1")))
	u.must(u.put(alice, put("/a/2")))
	denied("the same lease for who may write nothing", u.put(bob, put("/a/3")))
	u.must(u.put(alice, put("/a/3")))

	u.must(u.put(root, put("/c/1")))
	denied("after a key of root's", u.put(alice, put("/a/4")))
	u.must(u.put(root, &pb.PutRequest{Key: []byte("/c/1")}))
	u.must(u.put(alice, put("/a/4")))

	_, err = u.n.RoleRevokePermission(root, &pb.AuthRoleRevokePermissionRequest{Role: "alice", Key: []byte("/a/"), RangeEnd: []byte("/a0")})
	u.must(err)
	_, err = u.n.RoleGrantPermission(root, &pb.AuthRoleGrantPermissionRequest{
		Name: "alice", Perm: &authpb.Permission{PermType: authpb.READWRITE, Key: []byte("/a/9")},
	})
	u.must(err)
	denied("after other keys may be written no more", u.put(alice, put("/a/9")))

	// While authentication is off anybody may hang anything on it.
	_, err = u.n.RoleGrantPermission(root, &pb.AuthRoleGrantPermissionRequest{
		Name: "alice", Perm: &authpb.Permission{PermType: authpb.READWRITE, Key: []byte("/a/"), RangeEnd: []byte("/a0")},
	})
	u.must(err)
	u.must(u.put(alice, put("/a/9")))
	_, err = u.n.AuthDisable(root, &pb.AuthDisableRequest{})
	u.must(err)
	u.must(u.put(t.Context(), put("/c/1")))
	_, err = u.n.AuthEnable(t.Context(), &pb.AuthEnableRequest{})
	u.must(err)
	denied("after authentication was off", u.put(u.as("alice"), put("/a/9")))
	_, err = u.n.LeaseRevoke(u.as("alice"), &pb.LeaseRevokeRequest{ID: 5})
	denied("revocation", err)
}

func TestKeysOfALeaseAreNotCheckedAgainWhileOneUserAddsThem(t *testing.T) {
	u := openUsers(t)
	alice := u.as("alice")
	_, err := u.n.LeaseGrant(alice, &pb.LeaseGrantRequest{ID: 5, TTL: 1000})
	u.must(err)
	u.must(u.put(alice, &pb.PutRequest{Key: []byte("/a/1"), Lease: 5}))
	id, err := u.n.identify(alice)
	u.must(err)
	// If they were, this key would be found.
	u.must(u.n.leases.Attach(5, []byte("/c/1")))
	u.must(u.put(alice, &pb.PutRequest{Key: []byte("/a/2"), Lease: 5}))
	if err := (guard{auth: u.n.auth, leases: u.n.leases}).permitLeasePuts(id, 5); !sameError(err, rpctypes.ErrGRPCPermissionDenied) {
		t.Errorf("checked anew: %v", err)
	}
}

func TestUsersAndRolesSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	cheap := func(c *Config) { c.Auth.BcryptCost = 4 }
	n := openNode(t, dir, cheap)
	ctx := t.Context()
	for _, err := range []error{
		errOf(n.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "root", Password: "secret"})),
		errOf(n.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: "root"})),
		errOf(n.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})),
		errOf(n.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: "gone"})),
		errOf(n.RoleDelete(ctx, &pb.AuthRoleDeleteRequest{Role: "gone"})),
		errOf(n.AuthEnable(ctx, &pb.AuthEnableRequest{})),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	before, err := n.AuthStatus(ctx, &pb.AuthStatusRequest{})
	if err != nil {
		t.Fatal(err)
	}
	login, err := n.Authenticate(ctx, &pb.AuthenticateRequest{Name: "root", Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	closeNode(t, n)

	n = openNode(t, dir, cheap)
	defer closeNode(t, n)
	after, err := n.AuthStatus(ctx, &pb.AuthStatusRequest{})
	if err != nil || !after.Enabled || after.AuthRevision != before.AuthRevision {
		t.Fatalf("status %v, %v; before the restart %v", after, err, before)
	}
	// As at etcd, tokens of the simple kind end with the process that gave them.
	if _, err := n.UserList(withToken(ctx, login.Token), &pb.AuthUserListRequest{}); !sameError(err, rpctypes.ErrGRPCInvalidAuthToken) {
		t.Fatalf("an earlier token: %v", err)
	}
	if _, err = n.Authenticate(ctx, &pb.AuthenticateRequest{Name: "root", Password: "wrong"}); !sameError(err, rpctypes.ErrGRPCAuthFailed) {
		t.Fatalf("a wrong password: %v", err)
	}
	if login, err = n.Authenticate(ctx, &pb.AuthenticateRequest{Name: "root", Password: "secret"}); err != nil {
		t.Fatal(err)
	}
	roles, err := n.RoleList(withToken(ctx, login.Token), &pb.AuthRoleListRequest{})
	if err != nil || len(roles.Roles) != 1 || roles.Roles[0] != "root" {
		t.Fatalf("roles %v, %v", roles, err)
	}
}

func errOf[R any](_ R, err error) error { return err }

func TestExpiredLeaseIsRevokedWhileAuthenticationIsOn(t *testing.T) {
	clock := newTestClock()
	u := openUsers(t, func(c *Config) { c.Clock = clock })
	root := u.as("root")
	_, err := u.n.LeaseGrant(root, &pb.LeaseGrantRequest{ID: 7, TTL: 10})
	u.must(err)
	u.must(u.put(root, &pb.PutRequest{Key: []byte("/c/leased"), Lease: 7}))
	clock.advance(10 * time.Second)
	if ttl, err := u.n.LeaseRenew(root, 7); !errors.Is(err, rpctypes.ErrGRPCLeaseNotFound) { // a ping of an expired lease waits until it is revoked
		t.Fatalf("renewed the expired lease: %d, %v", ttl, err)
	}
	b, err := u.n.Range(root, &wire.RangeRequest{Key: []byte("/c/leased")})
	u.must(err)
	if r := unmarshal(t, b, &pb.RangeResponse{}); r.Count != 0 {
		t.Fatal("the key of the lease is still there")
	}
}
