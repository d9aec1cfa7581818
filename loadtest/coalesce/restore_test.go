package coalesce

import (
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// replaced begins the reason with which watches are cancelled that have seen another history.
const replaced = "weir: the cluster upstream has been replaced"

// A cluster that is restored from an older backup has another history than the one that watches have seen. They are
// cancelled as after a compaction, since their clients have to read everything again; none waits for revisions that mean
// something else now, and new watches see the restored store. Proxies behind others notice it too.
func TestClusterRestoredFromABackupCancelsWatches(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.ProxyEtcd37, target.ProxyEtcd36, target.ProxyProxyEtcd37} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			restored(newSite(t, kind, targettest.SiteOptions{}))
		})
	}
	t.Run("fixed feed", func(t *testing.T) {
		at(t, behindProxies, restored, "--feed=")
	})
}

func restored(s *site) {
	st := s.store()
	conn := s.dial()
	client := targettest.Client(s, s.Endpoint()).Watch(s.Ctx, "/a/", clientv3.WithPrefix())
	for i := range 20 {
		st.put("/a/1", fmt.Sprint(i))
	}
	backup := s.Backup()
	var all []*watch
	for i := range 10 {
		fromPast, fromFuture := prefix("/a/"), prefix("/a/")
		fromPast.start, fromFuture.start = 5, st.revision()+1000
		all = append(all, s.open(s.Ctx, conn).create(prefix("/a/"), spec{key: fmt.Sprintf("/a/%d", i)}, fromPast, fromFuture)...)
	}
	for i := range 200 {
		st.put("/a/1", fmt.Sprint("lost ", i))
	}
	all[0].awaitEvents(200)

	s.restore(backup)
	for _, w := range all {
		if r := w.awaitCancel(); r.CompactRevision <= 0 || !strings.HasPrefix(r.CancelReason, replaced) {
			s.Fatalf("%v was cancelled otherwise: %v", w.spec, r)
		}
		w.stream.check()
	}
	targettest.Want(s, "end of an etcd client's watch", fmt.Sprint(endOf(client)), rpctypes.ErrCompacted.Error())
	fromPast := prefix("/a/")
	fromPast.start = 5
	fresh := s.open(s.Ctx, conn).create(prefix("/a/"), fromPast)
	st.put("/a/1", "after the restore")
	s.checkAll(fresh)
}

// Nobody watches at the last of two proxies while the cluster is restored, and it has no connection that breaks. A watch
// from now on, created before it has noticed, is cancelled as others are; none is left without the next event.
func TestClusterRestoredBehindATreeWithoutWatches(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{nil, {"--feed="}} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			t.Parallel()
			at(t, []target.Kind{target.ProxyProxyEtcd37}, restoredUnwatched, args...)
		})
	}
}

func restoredUnwatched(s *site) {
	st := s.store()
	conn := s.dial()
	for i := range 20 {
		st.put("/a/1", fmt.Sprint(i))
	}
	backup := s.Backup()
	w := s.open(s.Ctx, conn).create(prefix("/a/"))
	for i := range 200 {
		st.put("/a/1", fmt.Sprint("lost ", i))
	}
	w[0].awaitEvents(200)
	w[0].stream.catchUp(st.revision())
	closeStreams(w)
	_ = w[0].stream.end()
	s.restore(backup)

	for served := false; !served; {
		w := s.open(s.Ctx, conn).create(prefix("/a/"))[0]
		rev := st.put("/a/1", "after the restore")
		w.stream.await("the next event", func() bool { return len(w.events) > 0 || w.canceled != nil })
		if served = len(w.events) > 0; served {
			targettest.Want(s, "revision of the next event", w.events[0].kv.mod, rev)
		} else if !strings.HasPrefix(w.canceled.CancelReason, replaced) {
			s.Fatalf("a new watch was cancelled: %v", w.canceled)
		}
		w.stream.cancel()
	}
}

// restore replaces the data of the only member by a backup, and waits until clients are served again.
func (s *site) restore(backup string) {
	s.Helper()
	s.Restore(backup)
	s.Must(s.Front().WaitReady(s.Ctx, target.Serves(s.Endpoint())))
}
