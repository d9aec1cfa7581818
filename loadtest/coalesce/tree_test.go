package coalesce

import (
	"testing"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// A proxy has two others as its upstream, each before the same member. The one that serves it is killed, again and again,
// and the clients do not notice.
func TestKilledProxyInATreeIsReplacedUnnoticed(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.ProxyEtcd37, target.ProxyCore} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, kind, targettest.SiteOptions{ProxyArgs: []string{smallRing}, NoProxies: true})
			inner := []*target.Server{
				s.StartProxy(s.Cluster.Endpoints()),
				s.StartProxy(s.Cluster.Endpoints()),
			}
			s.StartProxies([]string{inner[0].Addr, inner[1].Addr})
			w := s.watchThroughOutages()
			for i := range 4 {
				w.writeSome(50)
				w.awaitNewest()
				killed := inner[i%2]
				s.Must(killed.Kill())
				w.writeSome(50)
				w.awaitNewest()
				s.Must(killed.Restart())
				s.Must(killed.WaitReady(s.Ctx, target.Serves(killed.Addr)))
			}
			w.finish()
		})
	}
}

// The only way upstream is through one proxy, which restarts.
func TestRestartedProxyInATreeIsUnnoticed(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.ProxyProxyEtcd37, target.ProxyProxyCore} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, kind, targettest.SiteOptions{})
			inner := s.Proxies[0]
			w := s.watchThroughOutages()
			for range 3 {
				w.writeSome(50)
				s.Must(inner.Kill())
				w.writeSome(50)
				s.Must(inner.Restart())
				w.writeSome(50)
				w.awaitNewest()
			}
			w.finish()
		})
	}
}

// Two proxies before the same store tell the same, each as soon as it is asked: a client may go from one to the other
// at any revision.
func TestProxiesBesideEachOtherTellTheSame(t *testing.T) {
	t.Parallel()
	s := newSite(t, target.ProxyEtcd37, targettest.SiteOptions{})
	s.Proxies = append(s.Proxies, s.StartProxy(s.Cluster.Endpoints()))
	st := s.store()
	conns := []*stream{s.open(s.Ctx, s.dialTo(s.Proxies[0].Addr)), s.open(s.Ctx, s.dialTo(s.Proxies[1].Addr))}
	var all []*watch
	for _, on := range conns {
		all = append(all, on.create(prefix("/a/"))...)
	}
	// One client, which after each event goes to the other proxy.
	next := st.put("/a/1", "the first")
	for i := range 60 {
		sp := prefix("/a/")
		sp.start = next
		w := conns[i%2].create(sp)[0]
		got := w.awaitEvents(1)
		targettest.Want(s, "revision after going to the other proxy", got[0].kv.mod, next)
		conns[i%2].cancelWatch(w)
		w.awaitCancel()
		next = st.put("/a/1", "more")
	}
	s.checkAll(all)
}
