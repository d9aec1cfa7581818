package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"go.uber.org/zap"
	"google.golang.org/grpc/metadata"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// The lock and election services, membership, and auth with its tokens: a proxy passes all of them on.
func TestLocksMembersAndUsers(t *testing.T) {
	for _, kind := range []target.Kind{target.Etcd37, target.Core, target.ProxyCore, target.ProxyEtcd37, target.ProxyEtcd36, target.ProxyEtcd35} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			tg := targettest.Start(t, bin, kind)
			for _, c := range []testCase{
				{"LockIsHeldUntilUnlock", lockIsHeldUntilUnlock},
				{"LockWithoutALeaseMakesOne", lockWithoutALeaseMakesOne},
				{"ElectionCampaignObserveResign", electionCampaignObserveResign},
				{"MetadataIsPassedOn", metadataIsPassedOn},
				{"MembershipErrors", membershipErrors},
				{"AuthDecidesByToken", authDecidesByToken}, // the last one
			} {
				t.Run(c.name, func(t *testing.T) { c.run(newFixture(t, tg)) })
			}
		})
	}
}

func lockIsHeldUntilUnlock(f *fixture) {
	c, lease := v3lockpb.NewLockClient(f.conn), f.grant(1000)
	name := f.bytes("lock")
	held, err := c.Lock(f.ctx, &v3lockpb.LockRequest{Name: name, Lease: int64(lease)})
	f.must(err)
	other := f.grant(1000)
	// The deadline is the client's; the server must learn of it, or the second lock would be held by nobody.
	short, cancel := context.WithTimeout(f.ctx, 200*time.Millisecond)
	defer cancel()
	if _, err := c.Lock(short, &v3lockpb.LockRequest{Name: name, Lease: int64(other)}); err == nil {
		f.Error("locked twice")
	}
	_, err = c.Unlock(f.ctx, &v3lockpb.UnlockRequest{Key: held.Key})
	f.must(err)
	third, err := c.Lock(f.ctx, &v3lockpb.LockRequest{Name: name, Lease: int64(f.grant(1000))})
	f.must(err)
	f.wantPairs(f.get("lock", clientv3.WithPrefix()).Kvs, string(third.Key[len(f.prefix):])+"=")
}

func lockWithoutALeaseMakesOne(f *fixture) {
	held, err := v3lockpb.NewLockClient(f.conn).Lock(f.ctx, &v3lockpb.LockRequest{Name: f.bytes("lock")})
	f.must(err)
	won, err := v3electionpb.NewElectionClient(f.conn).Campaign(f.ctx, &v3electionpb.CampaignRequest{Name: f.bytes("e")})
	f.must(err)
	for key, name := range map[string]string{string(held.Key): "lock", string(won.Leader.Key): "e"} {
		r, err := f.client.Get(f.ctx, key)
		f.must(err)
		if len(r.Kvs) != 1 || r.Kvs[0].Lease == 0 {
			f.Fatalf("key of %s: %v", name, r.Kvs)
		}
		lease := r.Kvs[0].Lease
		want(f, "key", key, fmt.Sprintf("%s/%x", f.key(name), lease))
		ttl, err := f.client.TimeToLive(f.ctx, clientv3.LeaseID(lease))
		f.must(err)
		want(f, "granted TTL", ttl.GrantedTTL, 60)
		_, err = f.client.Revoke(f.ctx, clientv3.LeaseID(lease))
		f.must(err)
	}
}

func electionCampaignObserveResign(f *fixture) {
	c, lease := v3electionpb.NewElectionClient(f.conn), f.grant(1000)
	name := f.bytes("e")
	_, err := c.Leader(f.ctx, &v3electionpb.LeaderRequest{Name: name})
	f.wantStatus(err, "Unknown: election: no leader")
	observed, err := c.Observe(f.ctx, &v3electionpb.LeaderRequest{Name: name})
	f.must(err)
	won, err := c.Campaign(f.ctx, &v3electionpb.CampaignRequest{Name: name, Lease: int64(lease), Value: []byte("me")})
	f.must(err)
	r, err := observed.Recv()
	f.must(err)
	want(f, "observed leader", string(r.Kv.Value), "me")
	_, err = c.Proclaim(f.ctx, &v3electionpb.ProclaimRequest{Leader: won.Leader, Value: []byte("still me")})
	f.must(err)
	r, err = observed.Recv()
	f.must(err)
	want(f, "observed leader", string(r.Kv.Value), "still me")
	_, err = c.Resign(f.ctx, &v3electionpb.ResignRequest{Leader: won.Leader})
	f.must(err)
	f.wantPairs(f.get("e", clientv3.WithPrefix()).Kvs, "")
}

func metadataIsPassedOn(f *fixture) {
	// What a client of a cluster without a leader must see is asked for in metadata.
	ctx := clientv3.WithRequireLeader(f.ctx)
	_, err := f.client.Put(ctx, f.key("a"), "1")
	f.must(err)
	r := f.next(f.client.Watch(ctx, f.key("a"), clientv3.WithRev(1)))
	want(f, "events", len(r.Events), 1)
	// A token that is none is refused only if the server gets it: with auth off it is not looked at, so ask for AuthStatus.
	odd := metadata.AppendToOutgoingContext(f.ctx, "token", "nonsense", "x-unknown", "passed on or not")
	status, err := pb.NewAuthClient(f.conn).AuthStatus(odd, &pb.AuthStatusRequest{})
	f.must(err)
	want(f, "auth enabled", status.Enabled, false)
}

func membershipErrors(f *fixture) {
	c := pb.NewClusterClient(f.conn)
	_, err := c.MemberRemove(f.ctx, &pb.MemberRemoveRequest{ID: 12345})
	f.wantStatus(err, "NotFound: etcdserver: member not found")
	_, err = c.MemberAdd(f.ctx, &pb.MemberAddRequest{PeerURLs: []string{"nonsense"}})
	f.wantStatus(err, "InvalidArgument: etcdserver: given member URLs are invalid")
	_, err = c.MemberPromote(f.ctx, &pb.MemberPromoteRequest{ID: 12345})
	f.wantStatus(err, "NotFound: etcdserver: member not found")
	_, err = pb.NewMaintenanceClient(f.conn).MoveLeader(f.ctx, &pb.MoveLeaderRequest{TargetID: 12345})
	f.wantStatus(err, "FailedPrecondition: etcdserver: bad leader transferee")
	_, err = pb.NewMaintenanceClient(f.conn).Downgrade(f.ctx, &pb.DowngradeRequest{Version: "nonsense"})
	f.wantStatus(err, "InvalidArgument: etcdserver: wrong downgrade target version format")
}

// login is a client with a user's token.
func (f *fixture) login(user, password string) (*clientv3.Client, error) {
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{f.target.Endpoint}, Username: user, Password: password,
		DialTimeout: 5 * time.Second, Context: f.ctx, Logger: zap.NewNop()})
	if err == nil {
		f.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

func authDecidesByToken(f *fixture) {
	f.put("secret", "1")
	_, err := f.client.RoleAdd(f.ctx, "reader")
	f.must(err)
	_, err = f.client.RoleGrantPermission(f.ctx, "reader", f.key("open"), "", clientv3.PermissionType(clientv3.PermRead))
	f.must(err)
	for user, role := range map[string]string{"root": "root", "guest": "reader"} {
		_, err = f.client.UserAdd(f.ctx, user, user+"'s password")
		f.must(err)
		_, err = f.client.UserGrantRole(f.ctx, user, role)
		f.must(err)
	}
	_, err = f.client.AuthEnable(f.ctx)
	f.must(err)

	_, err = f.client.Get(f.ctx, f.key("secret"))
	f.wantStatus(err, "InvalidArgument: etcdserver: user name is empty")
	_, err = f.login("guest", "wrong")
	f.wantStatus(err, "InvalidArgument: etcdserver: authentication failed, invalid user ID or password")
	guest, err := f.login("guest", "guest's password")
	f.must(err)
	_, err = guest.Get(f.ctx, f.key("open"))
	f.must(err)
	_, err = guest.Get(f.ctx, f.key("secret"))
	f.wantStatus(err, "PermissionDenied: etcdserver: permission denied")
	_, err = guest.Put(f.ctx, f.key("open"), "2")
	f.wantStatus(err, "PermissionDenied: etcdserver: permission denied")
	denied := f.next(guest.Watch(f.ctx, f.key("secret")))
	want(f, "canceled", denied.Canceled, true)
	want(f, "reason", fmt.Sprint(denied.Err()), "rpc error: code = PermissionDenied desc = etcdserver: permission denied")
	badToken := metadata.AppendToOutgoingContext(f.ctx, "token", "nonsense")
	_, err = pb.NewKVClient(f.conn).Range(badToken, &pb.RangeRequest{Key: f.bytes("open")})
	f.wantStatus(err, "Unauthenticated: etcdserver: invalid auth token")

	// One connection, two identities: each request has its own.
	root, err := f.login("root", "root's password")
	f.must(err)
	_, err = root.Put(f.ctx, f.key("open"), "3")
	f.must(err)
	f.must(root.Sync(f.ctx))
	_, err = root.AuthDisable(f.ctx)
	f.must(err)
	f.wantPairs(f.get("", clientv3.WithPrefix()).Kvs, "open=3 secret=1")
}
