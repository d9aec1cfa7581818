package snapshots

import (
	"fmt"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"weir/loadtest/target"
)

// leases that fill makes. The first has keys, the second none any more.
const (
	leaseWithKeys    clientv3.LeaseID = 0x1234
	leaseWithoutKeys clientv3.LeaseID = 0x77777777777
)

// fill writes something of everything, and turns authentication on.
func (b *bench) fill(tg *target.Target) {
	b.Helper()
	c := b.client(tg.Endpoint, false)
	put := func(key, value string, opts ...clientv3.OpOption) int64 {
		r, err := c.Put(b.ctx, key, value, opts...)
		b.must(err)
		return r.Header.Revision
	}
	for i := range 200 {
		put(fmt.Sprintf("k%03d", i%50), fmt.Sprint("value ", i))
	}
	_, err := c.Delete(b.ctx, "k00", clientv3.WithPrefix())
	b.must(err)
	_, err = c.Txn(b.ctx).Then(clientv3.OpPut("t1", "1"), clientv3.OpDelete("k010"), clientv3.OpPut("t2", strings.Repeat("x", 100_000))).Commit()
	b.must(err)
	for id, ttl := range map[clientv3.LeaseID]int64{leaseWithKeys: 3600, leaseWithoutKeys: 600} {
		_, err = pb.NewLeaseClient(c.ActiveConnection()).LeaseGrant(b.ctx, &pb.LeaseGrantRequest{ID: int64(id), TTL: ttl})
		b.must(err)
	}
	put("leased/a", "1", clientv3.WithLease(leaseWithoutKeys))
	put("leased/b", "1", clientv3.WithLease(leaseWithKeys))
	put("leased/a", "2", clientv3.WithLease(leaseWithKeys))
	compacted := put("k020", "compacted here")
	_, err = c.Delete(b.ctx, "k021")
	b.must(err)
	put("k021", "again")
	put("\x00", "the first key")
	put("\xff\xff", "the last key")
	_, err = c.Compact(b.ctx, compacted, clientv3.WithCompactPhysical())
	b.must(err)

	for _, user := range []string{"root", "alice", "bob"} {
		_, err = c.UserAdd(b.ctx, user, user)
		b.must(err)
	}
	for user, role := range map[string]string{"root": "root", "alice": "reader"} {
		_, err = c.RoleAdd(b.ctx, role)
		b.must(err)
		_, err = c.UserGrantRole(b.ctx, user, role)
		b.must(err)
	}
	_, err = c.RoleGrantPermission(b.ctx, "reader", "k", "l", clientv3.PermissionType(clientv3.PermRead))
	b.must(err)
	_, err = c.AuthEnable(b.ctx)
	b.must(err)
}

// alarm raises the alarm for want of space.
func (b *bench) alarm(tg *target.Target) {
	b.Helper()
	c := b.client(tg.Endpoint, true)
	_, err := pb.NewMaintenanceClient(c.ActiveConnection()).Alarm(b.ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 0xabc, Alarm: pb.AlarmType_NOSPACE})
	b.must(err)
}

// contents is all that root can see, but for who the members are, a line for each thing.
func (b *bench) contents(endpoint string) []string {
	b.Helper()
	c := b.client(endpoint, true)
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }

	all, err := c.Get(b.ctx, "\x00", clientv3.WithFromKey())
	b.must(err)
	add("revision %d", all.Header.Revision)
	for _, kv := range all.Kvs {
		add("key %q %q created %d changed %d version %d lease %x", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease)
	}
	hash, err := c.HashKV(b.ctx, endpoint, 0)
	b.must(err)
	add("hash %x of what was not compacted at %d", hash.Hash, hash.CompactRevision)

	watch := c.Watch(b.ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(hash.CompactRevision+1))
	for seen := hash.CompactRevision; seen < all.Header.Revision; {
		r := <-watch
		b.must(r.Err())
		for _, e := range r.Events {
			seen = e.Kv.ModRevision
			add("event %v %q %q created %d changed %d version %d lease %x", e.Type, e.Kv.Key, e.Kv.Value, e.Kv.CreateRevision, e.Kv.ModRevision, e.Kv.Version, e.Kv.Lease)
		}
	}
	_, err = c.Get(b.ctx, "k020", clientv3.WithRev(max(1, hash.CompactRevision-1)))
	add("before the compaction: %v", err)

	leases, err := c.Leases(b.ctx)
	b.must(err)
	slices.SortFunc(leases.Leases, func(x, y clientv3.LeaseStatus) int { return int(x.ID - y.ID) })
	for _, l := range leases.Leases {
		ttl, err := c.TimeToLive(b.ctx, l.ID, clientv3.WithAttachedKeys())
		b.must(err)
		if ttl.TTL <= 0 || ttl.TTL > ttl.GrantedTTL {
			b.Errorf("lease %x has %d s of %d s to live", l.ID, ttl.TTL, ttl.GrantedTTL)
		}
		slices.SortFunc(ttl.Keys, slices.Compare)
		add("lease %x of %d s with %q", l.ID, ttl.GrantedTTL, ttl.Keys)
	}

	auth, err := c.AuthStatus(b.ctx)
	b.must(err)
	add("authentication %v, at its revision %d", auth.Enabled, auth.AuthRevision)
	users, err := c.UserList(b.ctx)
	b.must(err)
	for _, u := range users.Users {
		r, err := c.UserGet(b.ctx, u)
		b.must(err)
		add("user %s with %v", u, r.Roles)
	}
	roles, err := c.RoleList(b.ctx)
	b.must(err)
	for _, role := range roles.Roles {
		if role == "root" { // of which etcd says different things from 3.6 on
			continue
		}
		r, err := c.RoleGet(b.ctx, role)
		b.must(err)
		for _, p := range r.Perm {
			add("role %s: %v %q to %q", role, p.PermType, p.Key, p.RangeEnd)
		}
	}
	alarms, err := c.AlarmList(b.ctx)
	b.must(err)
	for _, a := range alarms.Alarms {
		add("alarm %v of %x", a.Alarm, a.MemberID)
	}
	return lines
}

// same fails the test for each line that is not in both.
func (b *bench) same(what string, got, want []string) {
	b.Helper()
	if slices.Equal(got, want) {
		return
	}
	for _, l := range want {
		if !slices.Contains(got, l) {
			b.Errorf("%s lacks: %.200s", what, l)
		}
	}
	for _, l := range got {
		if !slices.Contains(want, l) {
			b.Errorf("%s has beside: %.200s", what, l)
		}
	}
	if !b.Failed() {
		b.Errorf("%s is in another order", what)
	}
}
