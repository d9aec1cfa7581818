package drain

import (
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// balancer is a load balancer of connections, as a service of Kubernetes is: each new one goes to the next server.
type balancer struct {
	*targettest.Site
	addr string

	mu      sync.Mutex // guards the fields below
	servers []string
	next    int
}

func newBalancer(s *targettest.Site, servers ...string) *balancer {
	s.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	s.Must(err)
	b := &balancer{Site: s, addr: l.Addr().String(), servers: servers}
	var passing sync.WaitGroup
	s.Cleanup(func() {
		l.Close()
		passing.Wait()
	})
	passing.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			passing.Go(func() { b.pass(c) })
		}
	})
	return b
}

// pass passes a connection on until one of both sides has closed it.
func (b *balancer) pass(c net.Conn) {
	defer c.Close()
	b.mu.Lock()
	to := b.servers[b.next%len(b.servers)]
	b.next++
	b.mu.Unlock()
	d, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer d.Close()
	ended := make(chan struct{}, 2)
	for _, way := range [][2]net.Conn{{c, d}, {d, c}} {
		go func() {
			_, _ = way[0].(*net.TCPConn).WriteTo(way[1])
			ended <- struct{}{}
		}()
	}
	<-ended
	c.Close()
	d.Close()
	<-ended
}

func (b *balancer) add(server string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.servers = append(b.servers, server)
}

// connectionsOf says how many a proxy has.
func connectionsOf(s *targettest.Site, p *target.Server) (int, error) {
	var status struct {
		Watches struct {
			Connections int `json:"connections"`
		} `json:"watches"`
	}
	err := p.Status(s.Ctx, &status)
	return status.Watches.Connections, err
}

// A second proxy begins beside one that has all clients. Some are asked to move, and none of them notices.
func TestClientsMoveToANewProxy(t *testing.T) {
	t.Parallel()
	s := targettest.NewSite(t, bin, target.ProxyEtcd37, targettest.SiteOptions{Timeout: siteTimeout, NoProxies: true})
	start := func() *target.Server {
		s.Helper()
		addr, err := proc.FreeAddr()
		s.Must(err)
		path, err := bin.Build(s.Ctx, proc.Proxy)
		s.Must(err)
		p, err := proc.Start("weir-proxy", path, []string{
			"--listen-addr=" + addr, "--endpoints=" + s.Cluster.Endpoints()[0],
			"--resolver-prefix=/proxies", "--resolver-ttl=60", "--advertise-client-url=" + addr,
		}, nil)
		s.Must(err)
		s.Cleanup(func() {
			if err := p.Stop(); err != nil {
				t.Error(err)
			}
		})
		s.Must(p.WaitReady(s.Ctx, target.Serves(addr)))
		return &target.Server{Process: p, Addr: addr}
	}
	first := start()
	b := newBalancer(s, first.Addr)
	const clients = 60
	c := newCrowd(s, clients, b.addr)
	second := start()
	b.add(second.Addr)
	s.Eventually(2*time.Minute, "clients move", func() error {
		n, err := connectionsOf(s, second)
		if err == nil && n < clients/6 {
			err = fmt.Errorf("%d are there", n)
		}
		return err
	})
	c.advance("after some have moved")
	c.end()
	n, err := connectionsOf(s, first)
	s.Must(err)
	t.Logf("the first has %d left", n)
}
