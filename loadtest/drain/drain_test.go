package drain

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// bin is set by TestMain.
var bin *proc.Bin

func TestMain(m *testing.M) { targettest.Main(m, &bin) }

var rounds = flag.Int("rounds", 2, "how often each server is stopped and started again")

// siteTimeout is of a test, all of whose processes may have to share the machine with others'.
const siteTimeout = 4 * time.Minute

// before are what the proxies are before.
var before = []target.Kind{target.ProxyEtcd37, target.ProxyCore}

// pair is a site with a second proxy beside the first.
func pair(t *testing.T, kind target.Kind, args ...string) (s *targettest.Site, a, b *target.Server) {
	t.Helper()
	s = targettest.NewSite(t, bin, kind, targettest.SiteOptions{Timeout: siteTimeout, ProxyArgs: args})
	return s, s.Proxies[0], s.StartProxy(s.Cluster.Endpoints())
}

// restart stops a server as a service manager does, and starts it again. It must end by itself, with exit code 0.
func restart(s *targettest.Site, server *target.Server, meanwhile func()) {
	s.Helper()
	s.Must(server.Stop())
	meanwhile()
	s.Must(server.Restart())
	s.Must(server.WaitReady(s.Ctx, target.Serves(server.Addr)))
}

// Two proxies are stopped and started again in turn. Clients that know both go on.
func TestRollingRestartOfProxies(t *testing.T) {
	for _, kind := range before {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s, a, b := pair(t, kind)
			c := newCrowd(s, 24, a.Addr, b.Addr)
			for range *rounds {
				for _, server := range []*target.Server{a, b} {
					restart(s, server, func() { c.advance("while a proxy is away") })
					c.advance("after it is back")
				}
			}
			c.end()
		})
	}
}

// The one address that clients know has another process behind it soon. Watches go on by themselves.
func TestWatchesOutliveTheirOnlyServer(t *testing.T) {
	for _, kind := range []target.Kind{target.ProxyEtcd37, target.Core} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := targettest.NewSite(t, bin, kind, targettest.SiteOptions{Timeout: siteTimeout})
			front := s.Front()
			client := newClient(s, front.Addr)
			first := 0
			put := func(n int) {
				s.Helper()
				// Only a watch can be expected to live through this.
				s.Eventually(time.Minute, "put", func() error {
					ctx, cancel := context.WithTimeout(s.Ctx, 5*time.Second)
					defer cancel()
					r, err := client.Put(ctx, fmt.Sprint(watched, n), "value")
					if first == 0 && err == nil {
						first = int(r.Header.Revision)
					}
					return err
				})
			}
			put(1)
			w, watching := newWatcher(s, "the watcher"), newClient(s, front.Addr)
			var ending sync.WaitGroup
			defer ending.Wait()
			defer w.cancel()
			ending.Go(func() { w.watch(s, watching, int64(first)) })
			for n := 2; n < 2+*rounds; n++ {
				restart(s, front, func() {})
				put(n)
				s.Eventually(time.Minute, "the watch goes on", func() error {
					if w.last.Load() != int64(n) {
						return fmt.Errorf("it is at %d of %d", w.last.Load(), n)
					}
					return nil
				})
			}
		})
	}
}

// Three members are stopped and started again in turn, the leader among them. Watches go on.
func TestRollingRestartOfMembers(t *testing.T) {
	t.Parallel()
	s := targettest.NewSite(t, bin, target.Core, targettest.SiteOptions{Timeout: siteTimeout, Members: 3})
	client := newClient(s, s.Cluster.Endpoints()...)
	var watchers []*watcher
	r, err := client.Put(s.Ctx, watched+"1", "value")
	s.Must(err)
	var watching sync.WaitGroup
	defer watching.Wait()
	for i := range 12 {
		w, own := newWatcher(s, fmt.Sprintf("watcher %d", i)), newClient(s, s.Cluster.Endpoints()...)
		defer w.cancel()
		watchers = append(watchers, w)
		watching.Go(func() { w.watch(s, own, r.Header.Revision) })
	}
	n := 1
	put := func() {
		n++
		s.Eventually(time.Minute, "put", func() error { // which is not repeated by clients when the leader changes
			ctx, cancel := context.WithTimeout(s.Ctx, 10*time.Second)
			defer cancel()
			_, err := client.Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(fmt.Sprint(watched, n)), "=", 0)).
				Then(clientv3.OpPut(fmt.Sprint(watched, n), "value")).Commit()
			return err
		})
	}
	for _, m := range s.Cluster.Members {
		for range 10 {
			put()
		}
		restart(s, m.Server, put)
		put()
	}
	for _, w := range watchers {
		s.Eventually(time.Minute, w.name+" sees everything", func() error {
			if w.last.Load() != int64(n) {
				return fmt.Errorf("it is at %d of %d", w.last.Load(), n)
			}
			return nil
		})
	}
}

// What clients hold open without reading, for ever, or in the middle of a request does not keep a server from ending in time.
func TestClientsThatDoNotLeave(t *testing.T) {
	for _, kind := range []target.Kind{target.ProxyEtcd37, target.Core} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := targettest.NewSite(t, bin, kind, targettest.SiteOptions{
				Timeout: siteTimeout, ProxyArgs: []string{"--drain-timeout=3s"}, MemberArgs: memberArgs(kind, "--drain-timeout=3s"),
			})
			addr := s.Endpoint()
			client := newClient(s, addr)
			value := strings.Repeat("v", 1<<20)
			for i := range 32 {
				_, err := client.Put(s.Ctx, fmt.Sprint("large/", i), value)
				s.Must(err)
			}
			conn := targettest.Dial(s, addr)
			// A watch of everything, of which nothing is read.
			deaf, err := pb.NewWatchClient(conn).Watch(s.Ctx)
			s.Must(err)
			s.Must(deaf.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
				Key: []byte("large/"), RangeEnd: []byte("large0"), StartRevision: 1,
			}}}))
			// A list that is not read to its end.
			long, err := pb.NewKVClient(conn).RangeStream(s.Ctx, &pb.RangeRequest{Key: []byte("large/"), RangeEnd: []byte("large0")})
			s.Must(err)
			_, err = long.Recv()
			s.Must(err)
			// Pings that are never sent, and a connection that says nothing.
			_, err = pb.NewLeaseClient(targettest.Dial(s, addr)).LeaseKeepAlive(s.Ctx)
			s.Must(err)
			restart(s, s.Front(), func() {})
		})
	}
}

// memberArgs are for a member of weir's alone.
func memberArgs(kind target.Kind, args ...string) []string {
	if kind.Member() == proc.Core {
		return args
	}
	return nil
}

// A request in progress is answered, although the server has been told to stop and others have left.
func TestRequestsInProgressAreAnswered(t *testing.T) {
	for _, kind := range before {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s, a, b := pair(t, kind)
			client := newClient(s, a.Addr, b.Addr)
			for i := range 2000 {
				_, err := client.Put(s.Ctx, fmt.Sprint("many/", i), strings.Repeat("v", 1000))
				s.Must(err)
			}
			var ops []clientv3.Op
			for i := range 120 {
				ops = append(ops, clientv3.OpPut(fmt.Sprint("txn/", i), strings.Repeat("v", 1000)))
			}
			ctx, cancel := context.WithCancel(s.Ctx)
			var asking sync.WaitGroup
			defer asking.Wait()
			defer cancel()
			for range 8 {
				own := newClient(s, a.Addr, b.Addr)
				asking.Go(func() {
					for ctx.Err() == nil {
						if _, err := own.Get(s.Ctx, "many/", clientv3.WithPrefix()); err != nil {
							s.Errorf("list: %v", err)
						}
						if _, err := own.Txn(s.Ctx).Then(ops...).Commit(); err != nil {
							s.Errorf("txn: %v", err)
						}
					}
				})
			}
			for range *rounds {
				restart(s, a, func() {})
				restart(s, b, func() {})
			}
		})
	}
}

// From the first moment a proxy that was told to stop says so to everybody who may send clients to it, and serves on. A second
// signal ends it at once.
func TestUnreadyFirst(t *testing.T) {
	t.Parallel()
	metrics, err := proc.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	s := targettest.NewSite(t, bin, target.ProxyEtcd37, targettest.SiteOptions{Timeout: siteTimeout, NoProxies: true})
	p, err := target.StartProxy(s.Ctx, bin, s.Cluster.Endpoints(), "--drain-delay=10m", "--drain-timeout=20m",
		"--metrics-addr=http://"+metrics, "--resolver-prefix=/proxies", "--resolver-ttl=3600", "--advertise-client-url=127.0.0.1:1")
	s.Must(err)
	defer func() { s.Must(p.Kill()) }()
	store := newClient(s, s.Cluster.Endpoints()...)
	registered := func(want int64) {
		s.Eventually(time.Minute, fmt.Sprint(want, " registered"), func() error {
			r, err := store.Get(s.Ctx, "/proxies", clientv3.WithPrefix(), clientv3.WithCountOnly())
			if err == nil && r.Count != want {
				err = fmt.Errorf("there are %d", r.Count)
			}
			return err
		})
	}
	registered(1)
	watching := newClient(s, p.Addr)
	events := watching.Watch(s.Ctx, "key")
	s.Must(syscall.Kill(p.Pid(), syscall.SIGTERM))
	registered(0)
	answers := func(path string, code int) {
		s.Helper()
		r, err := http.Get((&url.URL{Scheme: "http", Host: metrics, Path: path}).String())
		s.Must(err)
		s.Must(r.Body.Close())
		targettest.Want(s, path, r.StatusCode, code)
	}
	answers("/readyz", http.StatusServiceUnavailable)
	answers("/livez", http.StatusOK)
	var status struct {
		Draining bool `json:"draining"`
	}
	s.Must(p.Status(s.Ctx, &status))
	targettest.Want(s, "draining", status.Draining, true)
	_, err = newClient(s, p.Addr).Put(s.Ctx, "key", "of a new client")
	s.Must(err)
	if r := <-events; r.Err() != nil || len(r.Events) != 1 {
		t.Errorf("the watch got %v, %v", r.Events, r.Err())
	}
	s.Must(syscall.Kill(p.Pid(), syscall.SIGTERM))
	<-p.Exited()
	s.Must(p.ExitError())
}
