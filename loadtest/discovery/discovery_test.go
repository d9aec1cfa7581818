package discovery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// bin is set by TestMain.
var bin *proc.Bin

func TestMain(m *testing.M) { targettest.Main(m, &bin) }

// kinds are what a proxy may be before.
var kinds = []target.Kind{target.ProxyEtcd37, target.ProxyCore, target.ProxyProxyEtcd37, target.ProxyProxyCore}

// members asks a server for the members.
func members(s *targettest.Site, addr string) []*pb.Member {
	s.Helper()
	r, err := pb.NewClusterClient(targettest.Dial(s, addr)).MemberList(s.Ctx, &pb.MemberListRequest{Linearizable: true})
	s.Must(err)
	return r.Members
}

// urls are the client URLs of members, in order.
func urls(members []*pb.Member) string {
	var all []string
	for _, m := range members {
		all = append(all, m.ClientURLs...)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}

// eventuallyURLs waits until the servers name these client URLs.
func eventuallyURLs(s *targettest.Site, within time.Duration, want []string, addrs ...string) {
	s.Helper()
	slices.Sort(want)
	for _, addr := range addrs {
		s.Eventually(within, addr+" names "+strings.Join(want, " "), func() error {
			if got := urls(members(s, addr)); got != strings.Join(want, " ") {
				return fmt.Errorf("it names %s", got)
			}
			return nil
		})
	}
}

func put(s *targettest.Site, addr, key string) {
	s.Helper()
	_, err := pb.NewKVClient(targettest.Dial(s, addr)).Put(s.Ctx, &pb.PutRequest{Key: []byte(key)})
	s.Must(err)
}

// With etcd's proxy a client's AutoSync led it to the members, or, where it cannot reach them, nowhere: etcd issue 6902.
func TestAutoSyncOfAClientStaysAtTheProxy(t *testing.T) {
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			size := 1
			if kind.Member() == proc.Etcd37 {
				size = 3
			}
			s := targettest.NewSite(t, bin, kind, targettest.SiteOptions{Timeout: 2 * time.Minute, Members: size})
			proxy := s.Endpoint()
			c := targettest.Client(t, proxy)
			for range 3 {
				s.Must(c.Sync(s.Ctx))
				for _, e := range c.Endpoints() {
					targettest.Want(t, "endpoint", e, "http://"+proxy)
				}
				_, err := c.Put(s.Ctx, "key", "value")
				s.Must(err)
			}
			targettest.Want(t, "endpoints", len(c.Endpoints()), size)
			byName := targettest.Client(t, strings.Replace(proxy, "127.0.0.1", "localhost", 1))
			s.Must(byName.Sync(s.Ctx))
			targettest.Want(t, "endpoint", byName.Endpoints()[0], strings.Replace("http://"+proxy, "127.0.0.1", "localhost", 1))

			// For people it is still the cluster.
			truth, seen := members(s, s.Cluster.Members[0].Addr), members(s, proxy)
			if len(seen) != size {
				t.Fatalf("got %v, want %v", seen, truth)
			}
			for i, m := range seen {
				m.ClientURLs = truth[i].ClientURLs
				targettest.Want(t, "member", m.String(), truth[i].String())
			}
		})
	}
}

func TestAutoSyncOfTheProxyFollowsTheCluster(t *testing.T) {
	const interval = time.Second
	t.Run("members that are not among the endpoints", func(t *testing.T) {
		t.Parallel()
		s := targettest.NewSite(t, bin, target.ProxyEtcd37, targettest.SiteOptions{
			Timeout: 2 * time.Minute, Members: 3, NoProxies: true, ProxyArgs: []string{"--endpoints-auto-sync-interval=" + interval.String()},
		})
		first := s.Cluster.Members[0]
		s.StartProxies([]string{first.Addr})
		proxy := s.Proxies[0]
		for _, m := range s.Cluster.Members[1:] {
			s.Must(proxy.WaitReady(s.Ctx, logged(proxy, `"upstream member is connected","endpoint":"http://`+m.Addr+`"`)))
		}
		s.Must(first.Kill())
		s.Eventually(20*time.Second, "the proxy goes on with another member", func() error {
			ctx, cancel := context.WithTimeout(s.Ctx, 5*time.Second)
			defer cancel()
			_, err := pb.NewKVClient(targettest.Dial(s, proxy.Addr)).Put(ctx, &pb.PutRequest{Key: []byte("key")})
			return err
		})
		s.Must(first.Restart())
		s.Must(s.Cluster.WaitReady(s.Ctx))
	})
	t.Run("members that cannot be reached by what they call themselves", func(t *testing.T) {
		t.Parallel()
		s := targettest.NewSite(t, bin, target.ProxyEtcd37, targettest.SiteOptions{
			Timeout: 2 * time.Minute, MemberArgs: []string{"--advertise-client-urls=http://127.0.0.1:1"},
			ProxyArgs: []string{"--endpoints-auto-sync-interval=" + interval.String()},
		})
		proxy := s.Proxies[0]
		s.Must(proxy.WaitReady(s.Ctx, logged(proxy, `"upstream member cannot be reached","endpoint":"http://127.0.0.1:1"`)))
		put(s, proxy.Addr, "key")
	})
	t.Run("a proxy before proxies keeps both", func(t *testing.T) {
		t.Parallel()
		s := targettest.NewSite(t, bin, target.ProxyEtcd37, targettest.SiteOptions{Timeout: 2 * time.Minute})
		a, b := s.Proxies[0], s.StartProxy(s.Cluster.Endpoints())
		s.ProxyArgs = []string{"--endpoints-auto-sync-interval=" + interval.String()}
		before := s.StartProxy([]string{a.Addr, b.Addr})
		// Nothing tells that it has asked, but how often it was answered.
		asked := func() int {
			n := 0
			for _, p := range []*target.Server{a, b} {
				m, err := p.Metric(s.Ctx, `grpc_server_handled_total{grpc_code="OK",grpc_method="MemberList"`)
				if err != nil {
					m = 0
				}
				n += m
			}
			return n
		}
		s.Eventually(20*time.Second, "it has asked for the members twice", func() error {
			if n := asked(); n < 2 {
				return fmt.Errorf("it has asked %d times", n)
			}
			return nil
		})
		if strings.Contains(before.Log(), "is no endpoint any more") {
			t.Errorf("it has given up a proxy:\n%s", before.Log())
		}
	})
}

func logged(p *target.Server, text string) func(context.Context) error {
	return func(context.Context) error {
		if !strings.Contains(p.Log(), text) {
			return errors.New("it has not logged " + text)
		}
		return nil
	}
}
