package e2e

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func leaseCases() []testCase {
	return []testCase{
		{"LeaseGrantTakesAChosenID", leaseGrantTakesAChosenID},
		{"LeaseGrantRaisesAShortTTL", leaseGrantRaisesAShortTTL},
		{"LeaseRevokeDeletesKeysInOneRevision", leaseRevokeDeletesKeysInOneRevision},
		{"LeaseTimeToLive", leaseTimeToLive},
		{"LeaseLeases", leaseLeases},
		{"LeaseIsOfTheLastPut", leaseIsOfTheLastPut},
		{"LeaseKeepAliveOnce", leaseKeepAliveOnce},
		{"LeaseKeepAliveStreamAnswersInOrder", leaseKeepAliveStreamAnswersInOrder},
	}
}

// leaseWaitingCases wait for leases to end.
func leaseWaitingCases() []testCase {
	return []testCase{
		{"LeaseExpiryDeletesKeysInOneRevision", leaseExpiryDeletesKeysInOneRevision},
		{"LeaseKeepAliveKeepsItAlive", leaseKeepAliveKeepsItAlive},
		{"LeaseExpiredIsGone", leaseExpiredIsGone},
	}
}

// grant makes a lease of a TTL in seconds.
func (f *fixture) grant(ttl int64) clientv3.LeaseID {
	f.Helper()
	r, err := f.client.Grant(f.ctx, ttl)
	f.must(err)
	want(f, "granted TTL", r.TTL, ttl)
	return r.ID
}

func leaseGrantTakesAChosenID(f *fixture) {
	c := pb.NewLeaseClient(f.conn)
	for _, id := range []int64{4711, -4711, 1 << 62} {
		r, err := c.LeaseGrant(f.ctx, &pb.LeaseGrantRequest{ID: id, TTL: 1000})
		f.must(err)
		want(f, "id", r.ID, id)
		want(f, "TTL", r.TTL, 1000)
		_, err = c.LeaseGrant(f.ctx, &pb.LeaseGrantRequest{ID: id, TTL: 1000})
		f.wantStatus(err, "FailedPrecondition: etcdserver: lease already exists")
		_, err = c.LeaseRevoke(f.ctx, &pb.LeaseRevokeRequest{ID: id})
		f.must(err)
	}
	seen := map[int64]bool{}
	for range 20 {
		r, err := c.LeaseGrant(f.ctx, &pb.LeaseGrantRequest{TTL: 1000})
		f.must(err)
		if r.ID <= 0 || seen[r.ID] {
			f.Errorf("generated id %d", r.ID)
		}
		seen[r.ID] = true
	}
}

func leaseGrantRaisesAShortTTL(f *fixture) {
	// The shortest TTL is the time an election may take: 1.5 election timeouts of 1 s, in whole seconds.
	for _, ttl := range []int64{1, 0, -5} {
		r, err := pb.NewLeaseClient(f.conn).LeaseGrant(f.ctx, &pb.LeaseGrantRequest{TTL: ttl})
		f.must(err)
		want(f, fmt.Sprintf("TTL for %d", ttl), r.TTL, 2)
		_, err = f.client.Revoke(f.ctx, clientv3.LeaseID(r.ID))
		f.must(err)
	}
}

func leaseRevokeDeletesKeysInOneRevision(f *fixture) {
	id := f.grant(1000)
	for _, name := range []string{"a", "b", "c"} {
		f.put(name, "1", clientv3.WithLease(id))
	}
	before := f.revision()
	r, err := f.client.Revoke(f.ctx, id)
	f.must(err)
	want(f, "revision", r.Header.Revision, before+1)
	f.wantPairs(f.get("", clientv3.WithPrefix()).Kvs, "")
	empty := f.grant(1000)
	r, err = f.client.Revoke(f.ctx, empty)
	f.must(err)
	want(f, "revision after revoking a lease without keys", r.Header.Revision, before+1)
	if _, err := f.client.Revoke(f.ctx, id); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		f.Errorf("second revoke: %v", err)
	}
}

func leaseTimeToLive(f *fixture) {
	id := f.grant(1000)
	f.put("b", "1", clientv3.WithLease(id))
	f.put("a", "1", clientv3.WithLease(id))
	r, err := f.client.TimeToLive(f.ctx, id, clientv3.WithAttachedKeys())
	f.must(err)
	want(f, "granted TTL", r.GrantedTTL, 1000)
	if r.TTL < 990 || r.TTL > 1000 {
		f.Errorf("TTL left is %d of 1000", r.TTL)
	}
	var keys []string
	for _, k := range r.Keys {
		keys = append(keys, string(k))
	}
	slices.Sort(keys)
	want(f, "keys", strings.Join(keys, " "), f.key("a")+" "+f.key("b"))
	r, err = f.client.TimeToLive(f.ctx, id)
	f.must(err)
	want(f, "keys unasked", len(r.Keys), 0)
	r, err = f.client.TimeToLive(f.ctx, 12345)
	f.must(err)
	want(f, "TTL of an unknown lease", r.TTL, -1)
	want(f, "granted TTL of an unknown lease", r.GrantedTTL, 0)
}

func leaseLeases(f *fixture) {
	a, b := f.grant(1000), f.grant(2000)
	list := func() map[clientv3.LeaseID]bool {
		r, err := f.client.Leases(f.ctx)
		f.must(err)
		ids := map[clientv3.LeaseID]bool{}
		for _, l := range r.Leases {
			ids[l.ID] = true
		}
		return ids
	}
	if ids := list(); !ids[a] || !ids[b] {
		f.Errorf("leases %v lack %d or %d", ids, a, b)
	}
	_, err := f.client.Revoke(f.ctx, a)
	f.must(err)
	if ids := list(); ids[a] || !ids[b] {
		f.Errorf("leases after revoking %d: %v", a, ids)
	}
}

func leaseIsOfTheLastPut(f *fixture) {
	a, b := f.grant(1000), f.grant(1000)
	f.put("moved", "1", clientv3.WithLease(a))
	f.put("moved", "2", clientv3.WithLease(b))
	f.put("freed", "1", clientv3.WithLease(a))
	f.put("freed", "2")
	f.put("gone", "1", clientv3.WithLease(a))
	f.del("gone")
	f.put("gone", "2")
	_, err := f.client.Revoke(f.ctx, a)
	f.must(err)
	f.wantPairs(f.get("", clientv3.WithPrefix()).Kvs, "freed=2 gone=2 moved=2")
	_, err = f.client.Revoke(f.ctx, b)
	f.must(err)
	f.wantPairs(f.get("", clientv3.WithPrefix()).Kvs, "freed=2 gone=2")
}

func leaseKeepAliveOnce(f *fixture) {
	id := f.grant(1000)
	r, err := f.client.KeepAliveOnce(f.ctx, id)
	f.must(err)
	want(f, "TTL", r.TTL, 1000)
	want(f, "id", r.ID, id)
	if _, err := f.client.KeepAliveOnce(f.ctx, 12345); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		f.Errorf("keepalive of an unknown lease: %v", err)
	}
}

func leaseKeepAliveStreamAnswersInOrder(f *fixture) {
	a, b := f.grant(1000), f.grant(2000)
	s, err := pb.NewLeaseClient(f.conn).LeaseKeepAlive(f.ctx)
	f.must(err)
	pings := []struct{ id, ttl int64 }{{int64(a), 1000}, {int64(b), 2000}, {12345, 0}, {int64(a), 1000}}
	for _, p := range pings {
		f.must(s.Send(&pb.LeaseKeepAliveRequest{ID: p.id}))
	}
	for _, p := range pings {
		r, err := s.Recv()
		f.must(err)
		want(f, "id", r.ID, p.id)
		want(f, "TTL", r.TTL, p.ttl)
		if r.Header.GetRevision() == 0 {
			f.Error("answer without a revision")
		}
	}
	f.must(s.CloseSend())
	if _, err := s.Recv(); err != io.EOF {
		f.Errorf("after half-close: %v", err)
	}
}

func leaseExpiryDeletesKeysInOneRevision(f *fixture) {
	granted := time.Now()
	id := f.grant(2)
	f.put("a", "1", clientv3.WithLease(id))
	f.put("b", "1", clientv3.WithLease(id))
	ch := f.watch("", clientv3.WithPrefix())
	r := f.next(ch)
	lived := time.Since(granted)
	want(f, "events in one response", len(r.Events), 2)
	want(f, "same revision", r.Events[0].Kv.ModRevision, r.Events[1].Kv.ModRevision)
	if lived < 2*time.Second {
		f.Errorf("a lease of 2 s ended after %v", lived)
	}
	f.wantPairs(f.get("", clientv3.WithPrefix()).Kvs, "")
}

func leaseKeepAliveKeepsItAlive(f *fixture) {
	id := f.grant(3)
	f.put("a", "1", clientv3.WithLease(id))
	watch := f.watch("a")
	ch, err := f.client.KeepAlive(f.ctx, id)
	f.must(err)
	granted := time.Now()
	for time.Since(granted) < 6*time.Second { // twice its life
		select {
		case r, ok := <-ch:
			if !ok {
				f.Fatal("keepalive ended")
			}
			want(f, "TTL", r.TTL, 3)
		case r := <-watch:
			f.Fatalf("key with a kept lease changed: %+v", r)
		case <-f.ctx.Done():
			f.Fatal("no answer to a keepalive")
		}
	}
	_, err = f.client.Revoke(f.ctx, id)
	f.must(err)
	f.wantEvents(watch, "DELETE a")
	for range ch { // until the client has learnt that the lease is gone
	}
}

func leaseExpiredIsGone(f *fixture) {
	id := f.grant(2)
	f.put("a", "1", clientv3.WithLease(id))
	f.wantEvents(f.watch("a"), "DELETE a")
	ttl, err := f.client.TimeToLive(f.ctx, id)
	f.must(err)
	want(f, "TTL", ttl.TTL, -1)
	_, err = f.client.Put(f.ctx, f.key("a"), "2", clientv3.WithLease(id))
	f.wantStatus(err, "NotFound: etcdserver: requested lease not found")
	if _, err := f.client.KeepAliveOnce(f.ctx, id); !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		f.Errorf("keepalive of an expired lease: %v", err)
	}
}
