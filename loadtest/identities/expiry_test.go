package identities

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

const (
	tokenTTL = 2 // seconds: etcd's --auth-token-ttl
	// idle is how long nobody shows a token that is to expire: etcd looks once a second for those that have.
	idle = (tokenTTL + 2) * time.Second
	// bursts is how often clients come back after that.
	bursts = 3
)

// expiryPlaces are where tokens expire; the first proves the test.
var expiryPlaces = []place{
	{kind: target.Etcd37},
	{kind: target.Core},
	{kind: target.ProxyEtcd37},
	{kind: target.ProxyEtcd37, own: asReader},
	{kind: target.ProxyEtcd37, own: asRoot},
	{kind: target.ProxyEtcd37, own: asRoot, signed: true},
	{kind: target.ProxyCore, own: asRoot},
	{kind: target.ProxyProxyEtcd37, own: asRoot},
}

// Tokens expire while their clients read and watch, and the proxies' own too. Clients that log in again go on reading as if
// nothing were; open watches do not notice.
func TestExpiryOfTokensEndsNoWatchAndNoRead(t *testing.T) {
	for _, p := range expiryPlaces {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			s := newScene(t, p, p.shortTokens(t))
			l := s.watch(s.Endpoint())
			s.load()
			s.wantVoid(l.who.token, 0)
			w := &watch{in: permission{key: "/a/1"}}
			l.createOf(w)
			targettest.Want(s, "why no watch is created on the stream any more", w.refused, rpctypes.ErrGRPCInvalidAuthToken.Error())
			if !s.goOn(l) {
				s.Errorf("a watch has ended: %v, %v, %s", l.watches, l.err, l.hung)
			}
			s.wantRight(l)
			s.wantFromMemory()
		})
	}
}

// shortTokens is the argument of members with which tokens expire.
func (p place) shortTokens(t *testing.T) string {
	t.Helper()
	if p.signed {
		return fmt.Sprintf("%s,ttl=%ds", signedTokens(t), tokenTTL)
	}
	return fmt.Sprintf("--auth-token-ttl=%d", tokenTTL)
}

// load has clients of etcd's library read and write in bursts, between which their tokens expire, while root writes on.
func (s *scene) load() {
	s.Helper()
	ctx, stop := context.WithTimeout(s.Ctx, (bursts-1)*idle+time.Second)
	defer stop()
	var load sync.WaitGroup
	load.Go(func() {
		for i := 0; pause(ctx, 10*time.Millisecond); i++ {
			if _, err := s.root.put(fmt.Sprintf("/a/%d", i%10), fmt.Sprintf("value %d", i), 0); err != nil {
				s.Error(err)
				return
			}
		}
	})
	for i := range 4 {
		c := s.client()
		load.Go(func() {
			for range bursts {
				if err := s.burst(c, i%2 == 0); err != nil {
					s.Errorf("client %d: %v", i, err)
					return
				}
				pause(ctx, idle)
			}
		})
	}
	load.Wait()
}

// wantVoid fails the test if a token is still good, later than it may be, or is not refused as at etcd.
func (s *scene) wantVoid(token string, remembered time.Duration) {
	s.Helper()
	read := &pb.RangeRequest{Key: []byte("/a/1"), Serializable: true}
	for _, addr := range []string{s.Cluster.Members[0].Addr, s.Endpoint()} {
		kv, asked := pb.NewKVClient(targettest.Dial(s, addr)), s.now()
		for {
			sent := s.now()
			_, err := kv.Range(withToken(s.Ctx, token), read)
			if isAnyOf(err, rpctypes.ErrGRPCInvalidAuthToken) {
				break
			}
			if err != nil || sent > asked+remembered {
				s.Errorf("a read with a void token at %s: %v", addr, err)
				break
			}
		}
	}
}

// A member that restarts knows no token any more that is not signed. Clients that log in again go on, and so do the proxies;
// watches go on, or their streams end as those of a connection that broke.
func TestRestartThatMakesTokensVoidIsSurvived(t *testing.T) {
	for _, p := range []place{
		{kind: target.Etcd37}, {kind: target.Core}, {kind: target.ProxyEtcd37}, {kind: target.ProxyEtcd37, own: asReader},
		{kind: target.ProxyEtcd37, own: asRoot}, {kind: target.ProxyCore, own: asRoot},
	} {
		t.Run(p.String(), func(t *testing.T) {
			t.Parallel()
			s := newScene(t, p)
			l, c, member := s.watch(s.Endpoint()), s.client(), s.Cluster.Members[0]
			s.wantServes(c)
			s.Must(member.Stop()) // and not killed, or it would apply the log of the last 100 ms again, with what gave tokens
			s.Must(member.Restart())
			s.Must(member.WaitReady(s.Ctx, target.Serves(member.Addr)))
			s.wantServes(c)
			s.wantVoid(l.who.token, longPast)
			if on := s.goOn(l); !on && !isUnavailable(l.err) {
				s.Errorf("a watch has ended: %v, %v, %s", l.watches, l.err, l.hung)
			} else {
				s.Logf("the watches went on: %v", on)
			}
			s.wantRight(l)
		})
	}
}
