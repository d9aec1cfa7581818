package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// At etcd a watch that has been permitted once goes on for ever.
func TestOpenWatchesEndWithTheRightToThem(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, []byte("a secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []target.Kind{target.Core, target.ProxyCore} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			// Unlike a simple token, a JWT can be seen to expire without being kept alive by that.
			tg := targettest.Start(t, bin, kind, target.CheapPasswords, "--auth-token=jwt,sign-method=HS256,priv-key="+key+",ttl=3s")
			openWatchesEndWithTheRight(newFixture(t, tg))
		})
	}
}

func openWatchesEndWithTheRight(f *fixture) {
	for role, name := range map[string]string{"readers": "a", "team": "b"} {
		_, err := f.client.RoleAdd(f.ctx, role)
		f.must(err)
		_, err = f.client.RoleGrantPermission(f.ctx, role, f.key(name), clientv3.GetPrefixRangeEnd(f.key(name)), clientv3.PermissionType(clientv3.PermRead))
		f.must(err)
	}
	for user, roles := range map[string][]string{"root": {"root"}, "alice": {"readers", "team"}, "bob": {"readers"}, "carol": {"readers"}} {
		_, err := f.client.UserAdd(f.ctx, user, user)
		f.must(err)
		for _, role := range roles {
			_, err = f.client.UserGrantRole(f.ctx, user, role)
			f.must(err)
		}
	}

	nobody := f.watchStream()
	nobody.create(&pb.WatchCreateRequest{Key: f.bytes("a")})
	_, err := f.client.AuthEnable(f.ctx)
	f.must(err)
	root, err := f.login("root", "root")
	f.must(err)
	put := func(name, value string) {
		f.Helper()
		_, err := root.Put(f.ctx, f.key(name), value)
		f.must(err)
	}
	put("a", "secret")
	nobody.wantOver()

	alice, bob, carol := f.authenticated("alice"), f.authenticated("bob"), f.authenticated("carol")
	ofAlice, ofBob, ofCarol := f.watchStreamIn(alice), f.watchStreamIn(bob), f.watchStreamIn(carol)
	for _, s := range []*watchStream{ofAlice, ofBob, ofCarol} {
		want(f, "refused", s.create(&pb.WatchCreateRequest{Key: f.bytes("a")}).CancelReason, "")
	}
	want(f, "refused", ofAlice.create(&pb.WatchCreateRequest{Key: f.bytes("b"), WatchId: 7}).CancelReason, "")
	observed, err := v3electionpb.NewElectionClient(f.conn).Observe(bob, &v3electionpb.LeaderRequest{Name: f.bytes("a")})
	f.must(err)
	put("a/1", "bob") // as if it were a candidate's
	_, err = observed.Recv()
	f.must(err)

	put("a", "1")
	for _, s := range []*watchStream{ofAlice, ofBob, ofCarol} {
		s.wantPut("1")
	}
	_, err = root.UserDelete(f.ctx, "carol")
	f.must(err)
	put("a", "2")
	ofCarol.wantDenied(0)
	ofAlice.wantPut("2")
	ofBob.wantPut("2")

	_, err = root.UserRevokeRole(f.ctx, "alice", "readers")
	f.must(err)
	put("a", "3")
	put("b", "3")
	ofAlice.wantDenied(0)
	ofAlice.wantPut("3") // of b
	ofBob.wantPut("3")

	_, err = root.RoleRevokePermission(f.ctx, "team", f.key("b"), clientv3.GetPrefixRangeEnd(f.key("b")))
	f.must(err)
	put("b", "4")
	ofAlice.wantDenied(7)

	f.awaitExpiry(bob)
	put("a", "5")
	ofBob.wantPut("5")
	_, err = root.RoleDelete(f.ctx, "readers")
	f.must(err)
	put("a", "6")
	ofBob.wantDenied(0)
	_, err = observed.Recv()
	f.wantStatus(err, "Unknown: etcdserver: permission denied")
}

// authenticated is the context of requests with a token of the user, whose name is the password.
func (f *fixture) authenticated(user string) context.Context {
	f.Helper()
	r, err := pb.NewAuthClient(f.conn).Authenticate(f.ctx, &pb.AuthenticateRequest{Name: user, Password: user})
	f.must(err)
	return metadata.AppendToOutgoingContext(f.ctx, "token", r.Token)
}

// awaitExpiry waits until the token in ctx is no longer valid.
func (f *fixture) awaitExpiry(ctx context.Context) {
	f.Helper()
	tick := time.NewTicker(50 * time.Millisecond) // nobody tells
	defer tick.Stop()
	for {
		_, err := pb.NewKVClient(f.conn).Range(ctx, &pb.RangeRequest{Key: f.bytes("a")})
		if status.Code(err) == codes.Unauthenticated {
			return
		}
		select {
		case <-tick.C:
		case <-f.ctx.Done():
			f.Fatalf("the token does not expire: %v", err)
		}
	}
}

// wantPut is for the next event of the stream, which must be a put of the value.
func (s *watchStream) wantPut(value string) {
	s.Helper()
	r := s.recv()
	if len(r.Events) != 1 || string(r.Events[0].Kv.Value) != value {
		s.Fatalf("got %v, want a put of %s", r, value)
	}
}

// wantDenied is for the next answer, which must be that the watch is ended for want of permission.
func (s *watchStream) wantDenied(id int64) {
	s.Helper()
	const reason = "rpc error: code = PermissionDenied desc = etcdserver: permission denied"
	r := s.recv()
	got := fmt.Sprintf("%d %v %s %v", r.WatchId, r.Canceled, r.CancelReason, r.Events)
	want(s.fixture, "cancellation", got, fmt.Sprintf("%d %v %s []", id, true, reason))
}

// wantOver is for a watch of nobody's that goes on no longer: it is cancelled, or its stream is to be opened again.
func (s *watchStream) wantOver() {
	s.Helper()
	r, err := s.Recv()
	if err != nil {
		want(s.fixture, "code", status.Code(err), codes.Unavailable)
		return
	}
	want(s.fixture, "canceled", r.Canceled, true)
	want(s.fixture, "reason", r.CancelReason, "rpc error: code = InvalidArgument desc = etcdserver: user name is empty")
	want(s.fixture, "events", len(r.Events), 0)
}
