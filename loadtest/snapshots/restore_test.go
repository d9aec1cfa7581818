package snapshots

import (
	"errors"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

func TestARestoredClusterHasAllThatTheSnapshotHas(t *testing.T) {
	for _, from := range []target.Kind{target.Etcd37, target.Etcd36, target.Etcd35, target.Core} {
		t.Run(string(from), func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			source := targettest.StartFrom(t, bin, from, b.dir+"/source", target.CheapPasswords)
			b.fill(source)
			b.alarm(source)
			want := b.contents(source.Endpoint)
			file := b.save(source.Endpoint)
			for name, s := range sides {
				t.Run(name, func(t *testing.T) {
					b := newBench(t)
					restored := b.restoreAlone(s, file)
					b.same("what was restored", b.contents(restored.Endpoint), want)
					b.goesOn(restored)
				})
			}
		})
	}
}

// goesOn sees to it that what was restored is not only there but works.
func (b *bench) goesOn(tg *target.Target) {
	b.Helper()
	c := b.client(tg.Endpoint, true)
	if _, err := c.Put(b.ctx, "k", "v"); !errors.Is(err, rpctypes.ErrNoSpace) {
		b.Errorf("put while there is an alarm: %v", err)
	}
	_, err := c.AlarmDisarm(b.ctx, (*clientv3.AlarmMember)(&pb.AlarmMember{}))
	b.must(err)
	was, err := c.Get(b.ctx, "leased/", clientv3.WithPrefix())
	b.must(err)
	if len(was.Kvs) != 2 {
		b.Fatalf("%d keys hang on the lease", len(was.Kvs))
	}
	_, err = c.KeepAliveOnce(b.ctx, leaseWithoutKeys)
	b.must(err)
	_, err = c.Revoke(b.ctx, leaseWithKeys)
	b.must(err)
	r, err := c.Put(b.ctx, "k", "v", clientv3.WithPrevKV())
	b.must(err)
	if r.Header.Revision != was.Header.Revision+2 || r.PrevKv != nil {
		b.Errorf("the revision went from %d to %d", was.Header.Revision, r.Header.Revision)
	}
	left, err := c.Get(b.ctx, "leased/", clientv3.WithPrefix())
	b.must(err)
	if len(left.Kvs) != 0 {
		b.Errorf("the lease is revoked, and there is %v", left.Kvs)
	}

	alice, err := clientv3.New(clientv3.Config{Endpoints: []string{tg.Endpoint}, Username: "alice", Password: "alice", DialTimeout: testTimeout, Logger: zap.NewNop()})
	b.must(err)
	defer alice.Close()
	if _, err := alice.Get(b.ctx, "k020"); err != nil {
		b.Errorf("alice may read, and is told: %v", err)
	}
	if _, err := alice.Put(b.ctx, "k020", "x"); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		b.Errorf("alice may not write, and is told: %v", err)
	}
}

func TestStatusIsWhatEtcdutlSays(t *testing.T) {
	for _, from := range []target.Kind{target.Etcd37, target.Etcd35, target.Core} {
		t.Run(string(from), func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			source := targettest.StartFrom(t, bin, from, b.dir+"/source", target.CheapPasswords)
			b.fill(source)
			file := b.save(source.Endpoint)
			for _, form := range []string{"simple", "json", "table", "fields"} {
				args := []string{"snapshot", "status", file, "--write-out=" + form}
				if got, want := b.run(proc.Core, args...), b.run(proc.Etcdutl, args...); got != want {
					t.Errorf("core says\n%s\netcdutl says\n%s", got, want)
				}
			}
		})
	}
}
