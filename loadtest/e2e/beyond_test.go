package e2e

import (
	"io"
	"net/http"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// Where etcd 3.7 breaks, weir must not: what these cases do panics an etcd, loses its data, or is answered wrongly, so they
// are not in the suite, and the differential test leaves them out.
func TestWeirOutlivesWhatEtcdDoesNot(t *testing.T) {
	for _, kind := range []target.Kind{target.Core, target.ProxyCore} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			tg := targettest.Start(t, bin, kind)
			for _, c := range []testCase{
				{"TxnDeletesFromAKeyAndPutsIgnoringValue", txnDeletesFromAKeyAndPutsIgnoringValue},
				{"CompactKeepsAPutBesideADelete", compactKeepsAPutBesideADelete},
				{"UpdateOfAMemberToNonsenseIsRefused", updateOfAMemberToNonsenseIsRefused},
				{"RefusedUpdateOfAMemberStaysRefused", refusedUpdateOfAMemberStaysRefused},
				{"WhoHasLostItsKeyWinsNoElection", whoHasLostItsKeyWinsNoElection},
				{"WatchOverTheGatewayIsToldOfNonsense", watchOverTheGatewayIsToldOfNonsense},
				{"GrantOfARangeReplacesTheOneOnIt", grantOfARangeReplacesTheOneOnIt},
			} {
				t.Run(c.name, func(t *testing.T) { c.run(newFixture(t, tg)) })
			}
		})
	}
}

// etcd panics when it applies this, and again at each restart.
func txnDeletesFromAKeyAndPutsIgnoringValue(f *fixture) {
	f.put("a", "1")
	before := f.revision()
	r, err := f.client.Txn(f.ctx).Then(
		clientv3.OpDelete(f.key("a"), clientv3.WithFromKey()),
		clientv3.OpPut(f.key("a"), "", clientv3.WithIgnoreValue()),
	).Commit()
	// Either answer is sound, if the store is as it says.
	if err != nil {
		want(f, "revision after a refusal", f.revision(), before)
		f.wantPairs(f.get("a").Kvs, "a=1")
		return
	}
	want(f, "revision", r.Header.Revision, before+1)
	want(f, "create revision", f.get("a").Kvs[0].CreateRevision, before+1)
}

// etcd deletes the value of the live key when it compacts at this revision, and ends at the next read of it.
func compactKeepsAPutBesideADelete(f *fixture) {
	f.put("a", "1")
	r, err := f.client.Txn(f.ctx).Then(
		clientv3.OpDelete(f.key("a"), clientv3.WithFromKey()),
		clientv3.OpPut(f.key("a"), "2"),
	).Commit()
	f.must(err)
	_, err = f.client.Compact(f.ctx, r.Header.Revision, clientv3.WithCompactPhysical())
	f.must(err)
	f.wantPairs(f.get("a").Kvs, "a=2")
}

// etcd panics when it applies this to another member, and again at each restart.
func updateOfAMemberToNonsenseIsRefused(f *fixture) {
	members, err := f.client.MemberList(f.ctx)
	f.must(err)
	for _, urls := range [][]string{{"nonsense"}, {"http://localhost"}, {}} {
		_, err := pb.NewClusterClient(f.conn).MemberUpdate(f.ctx, &pb.MemberUpdateRequest{ID: members.Members[0].ID, PeerURLs: urls})
		f.wantStatus(err, "InvalidArgument: etcdserver: given member URLs are invalid")
	}
}

// etcd replays the update when it starts again, and then shows the URLs that it has refused.
func refusedUpdateOfAMemberStaysRefused(f *fixture) {
	before, err := f.client.MemberList(f.ctx)
	f.must(err)
	learner, err := f.client.MemberAddAsLearner(f.ctx, []string{"http://10.255.255.1:1"})
	f.must(err)
	_, err = f.client.MemberUpdate(f.ctx, before.Members[0].ID, []string{"http://10.255.255.1:1"})
	want(f, "error", err.Error(), "etcdserver: Peer URLs already exists")
	_, err = f.client.MemberRemove(f.ctx, learner.Member.ID)
	f.must(err)
	f.must(f.target.KillStore())
	f.must(f.target.RestartStore(f.ctx))
	after, err := f.client.MemberList(f.ctx)
	f.must(err)
	want(f, "members", len(after.Members), 1)
	want(f, "peer URL", after.Members[0].PeerURLs[0], before.Members[0].PeerURLs[0])
}

// etcd does not look again when the turn of one that waited has come.
func whoHasLostItsKeyWinsNoElection(f *fixture) {
	c := v3electionpb.NewElectionClient(f.conn)
	first, err := c.Campaign(f.ctx, &v3electionpb.CampaignRequest{Name: f.bytes("e"), Lease: int64(f.grant(1000))})
	f.must(err)
	answered := make(chan error, 1)
	lease := f.grant(1000)
	go func() {
		_, err := c.Campaign(f.ctx, &v3electionpb.CampaignRequest{Name: f.bytes("e"), Lease: int64(lease)})
		answered <- err
	}()
	f.next(f.client.Watch(f.ctx, f.key("e/"), clientv3.WithPrefix(), clientv3.WithRev(first.Header.Revision+1)))
	_, err = f.client.Revoke(f.ctx, lease)
	f.must(err)
	_, err = c.Resign(f.ctx, &v3electionpb.ResignRequest{Leader: first.Leader})
	f.must(err)
	f.wantStatus(<-answered, "Unknown: election: not leader")
}

// etcd never answers.
func watchOverTheGatewayIsToldOfNonsense(f *fixture) {
	req, err := http.NewRequestWithContext(f.ctx, http.MethodPost, "http://"+f.target.Endpoint+"/v3/watch", strings.NewReader("nonsense"))
	f.must(err)
	r, err := http.DefaultClient.Do(req)
	f.must(err)
	defer r.Body.Close()
	want(f, "status", r.StatusCode, http.StatusBadRequest)
	_, err = io.Copy(io.Discard, r.Body)
	f.must(err)
}

// etcd finds only the first permission of a key, and keeps both.
func grantOfARangeReplacesTheOneOnIt(f *fixture) {
	_, err := f.client.RoleAdd(f.ctx, f.key("role"))
	f.must(err)
	for _, p := range []struct {
		end  string
		kind clientv3.PermissionType
	}{
		{"", clientv3.PermissionType(clientv3.PermRead)},
		{"b", clientv3.PermissionType(clientv3.PermReadWrite)},
		{"b", clientv3.PermissionType(clientv3.PermRead)},
	} {
		_, err = f.client.RoleGrantPermission(f.ctx, f.key("role"), "a", p.end, p.kind)
		f.must(err)
	}
	role, err := f.client.RoleGet(f.ctx, f.key("role"))
	f.must(err)
	want(f, "permissions", len(role.Perm), 2)
	want(f, "type", role.Perm[1].PermType, clientv3.PermRead)
}
