package coalesce

import (
	"testing"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// A proxy has two others as its upstream, each before the same member. The one that serves it is killed, again and again,
// and the clients do not notice.
func TestKilledProxyInATreeIsReplacedUnnoticed(t *testing.T) {
	t.Parallel()
	for _, member := range []proc.Program{proc.Etcd37, proc.Core} {
		t.Run(string(member), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, place{member, 0}, config{})
			inner := []*target.Server{
				targettest.StartProxy(t, bin, s.cluster.Endpoints(), smallRing),
				targettest.StartProxy(t, bin, s.cluster.Endpoints(), smallRing),
			}
			s.place.proxies = 1
			s.startProxies([]string{inner[0].Addr, inner[1].Addr}, []string{smallRing})
			w := s.watchThroughOutages()
			for i := range 4 {
				w.writeSome(50)
				w.awaitNewest()
				killed := inner[i%2]
				s.must(killed.Kill())
				w.writeSome(50)
				w.awaitNewest()
				s.must(killed.Restart())
				s.must(killed.WaitReady(s.ctx, target.Serves(killed.Addr)))
			}
			w.finish()
		})
	}
}

// The only way upstream is through one proxy, which restarts.
func TestRestartedProxyInATreeIsUnnoticed(t *testing.T) {
	t.Parallel()
	for _, member := range []proc.Program{proc.Etcd37, proc.Core} {
		t.Run(string(member), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, place{member, 2}, config{})
			inner := s.proxies[0]
			w := s.watchThroughOutages()
			for range 3 {
				w.writeSome(50)
				s.must(inner.Kill())
				w.writeSome(50)
				s.must(inner.Restart())
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
	s := newSite(t, place{proc.Etcd37, 1}, config{})
	s.proxies = append(s.proxies, targettest.StartProxy(t, bin, s.cluster.Endpoints()))
	st := s.store()
	conns := []*stream{s.open(s.ctx, s.dialTo(s.proxies[0].Addr)), s.open(s.ctx, s.dialTo(s.proxies[1].Addr))}
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
		want(s, "revision after going to the other proxy", got[0].kv.mod, next)
		conns[i%2].cancelWatch(w)
		w.awaitCancel()
		next = st.put("/a/1", "more")
	}
	s.checkAll(all)
}
