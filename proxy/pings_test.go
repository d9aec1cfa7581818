package proxy

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"weir/coalesce"
	"weir/grpcapi/wire"
	"weir/internal/bubble"
)

// fakeIdentities has tokens "own-1", "own-2" and so on, of which one is good, and permits even leases.
type fakeIdentities struct {
	lendsNot bool         // upstream is to judge whom it cannot know
	n        atomic.Int64 // of the token at hand
}

func (f *fakeIdentities) token() string { return fmt.Sprintf("own-%d", f.n.Load()) }

func (f *fakeIdentities) Own(ctx context.Context) (context.Context, error) {
	return metadata.AppendToOutgoingContext(ctx, "token", f.token()), nil
}

func (f *fakeIdentities) Renew(_ context.Context, err error) bool {
	if !hasText(err, rpctypes.ErrGRPCInvalidAuthToken) {
		return false
	}
	f.n.Add(1)
	return true
}

func (f *fakeIdentities) Lends(context.Context) bool { return !f.lendsNot }

func (f *fakeIdentities) Judge(ctx context.Context, method string, req wire.Raw) (context.Context, error) {
	id, err := wire.UnmarshalPing(req)
	switch {
	case err != nil:
		return nil, err
	case method != pb.Lease_LeaseKeepAlive_FullMethodName:
		return nil, errors.New("judged as " + method)
	case id%2 != 0:
		return nil, rpctypes.ErrGRPCPermissionDenied
	}
	return ctx, nil
}

func hasText(err, etcd error) bool { return err != nil && strings.Contains(err.Error(), etcd.Error()) }

func byToken(ctx context.Context, token string) context.Context {
	return metadata.NewIncomingContext(ctx, metadata.Pairs("token", token))
}

func byName(ctx context.Context, name string) context.Context {
	cert := &x509.Certificate{Subject: pkix.Name{CommonName: name}}
	return peer.NewContext(ctx, &peer.Peer{AuthInfo: credentials.TLSInfo{
		State: tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}, VerifiedChains: [][]*x509.Certificate{{cert}}},
	}})
}

// Two clients share a stream exactly if upstream would take them for the same, and what upstream is shown is that.
func TestWhoPingsAsWhom(t *testing.T) {
	type client struct {
		name string
		ctx  func(context.Context) context.Context
	}
	clients := []client{
		{"nobody", func(ctx context.Context) context.Context { return ctx }},
		{"token a", func(ctx context.Context) context.Context { return byToken(ctx, "a") }},
		{"token b", func(ctx context.Context) context.Context { return byToken(ctx, "b") }},
		{"name c", func(ctx context.Context) context.Context { return byName(ctx, "c") }},
		{"token a, name c", func(ctx context.Context) context.Context { return byToken(byName(ctx, "c"), "a") }},
		{"an empty token", func(ctx context.Context) context.Context { return byToken(ctx, "") }},
		{"no name", func(ctx context.Context) context.Context { return byName(ctx, "") }},
	}
	for _, c := range []struct {
		name    string
		vouched bool
		tokens  []string // that upstream is shown, by client
	}{
		{"a plain proxy", false, []string{"", "a", "b", "own-0", "a", "", "own-0"}},
		{"a proxy whose certificate upstream knows", true, []string{"own-0", "a", "b", "own-0", "a", "", "own-0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cluster := &pingCluster{T: t, members: []*pingMember{{batches: true}}}
			cluster.serve(&fakeIdentities{}, c.vouched)
			keepers := map[*coalesce.Keepalives]string{}
			for i, who := range clients {
				ctx := who.ctx(t.Context())
				to, pong := cluster.ping(ctx, 2)
				if pong.Err != nil || to.token != c.tokens[i] {
					t.Errorf("%s is taken for %q, want %q (%v)", who.name, to.token, c.tokens[i], pong.Err)
				}
				route := cluster.pings.routeOf(ctx)
				if other, ok := keepers[route.Keepalives]; ok && other != to.token {
					t.Errorf("%s shares with %q", who.name, other)
				}
				keepers[route.Keepalives] = to.token
				judged := route.Rights != nil
				if judged != (to.token == "own-0") {
					t.Errorf("%s pings as %q, checked: %v", who.name, to.token, judged)
				}
				if judged {
					if err := route.Rights.Check(ctx, 3); !errors.Is(err, rpctypes.ErrGRPCPermissionDenied) {
						t.Errorf("%s pings a lease of others: %v", who.name, err)
					}
					if err := route.Rights.Check(ctx, 4); err != nil {
						t.Errorf("%s pings its own lease: %v", who.name, err)
					}
				}
				route.Done()
			}
		})
	}
}

func TestPingsHaveTheTurnsOfTheirClientOnAllItsStreams(t *testing.T) {
	p := beforeAs(t, func(*Config) {}, nil)
	clientOf := func(ctx context.Context) any {
		t.Helper()
		route, err := p.Pings(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer route.Done()
		return route.Client
	}
	one, other := from(t.Context(), "10.0.0.1"), from(t.Context(), "10.0.0.2")
	switch {
	case clientOf(one) == nil || clientOf(one) != clientOf(one):
		t.Error("two streams from one address are not of one client")
	case clientOf(one) == clientOf(other):
		t.Error("two addresses are one client")
	case clientOf(byName(one, "a")) != clientOf(byName(other, "a")) || clientOf(byName(one, "a")) == clientOf(byName(one, "b")):
		t.Error("those with a certificate are not told apart by their names")
	case clientOf(byToken(one, "a")) != nil: // there is nobody else with it
		t.Error("streams of a token have turns together")
	}
}

// aloof has pings that are never sent.
func aloof(t *testing.T) *pings {
	t.Helper()
	u, err := newUpstream(Config{Endpoints: []string{"unix://nowhere"}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.close)
	return newPings(u, &fakeIdentities{}, false)
}

// pass lets time pass in a bubble of synctest.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func TestKeeperOfATokenIsClosedWhenItsClientsAreGone(t *testing.T) {
	p := aloof(t)
	bubble.Test(t, func(t *testing.T) {
		a := p.routeOf(byToken(t.Context(), "a"))
		again := p.routeOf(byToken(t.Context(), "a"))
		p.routeOf(t.Context()).Done()
		a.Done()
		pass(2 * keeperIdle)
		if len(p.keepers) != 2 || p.tokens != 1 {
			t.Errorf("with a client: %d keepers, %d bytes", len(p.keepers), p.tokens)
		}
		again.Done()
		pass(keeperIdle / 2)
		back := p.routeOf(byToken(t.Context(), "a"))
		if back.Keepalives != a.Keepalives {
			t.Error("who comes again soon has another keeper")
		}
		pass(keeperIdle)
		if len(p.keepers) != 2 {
			t.Error("the keeper has been closed under a client")
		}
		back.Done()
		pass(keeperIdle + 1)
		if len(p.keepers) != 1 || p.tokens != 0 {
			t.Errorf("without clients: %d keepers, %d bytes", len(p.keepers), p.tokens)
		}
		p.routeOf(byToken(t.Context(), "b")).Done() // leaves a timer
		p.close()
		if late := p.routeOf(t.Context()); late.Keepalives != nil {
			t.Error("a keeper when all is closed")
		}
	})
}

// However many tokens there are, forged ones among them, they cost bounded memory. Beyond it streams are forwarded.
func TestKeepersAreBounded(t *testing.T) {
	p := aloof(t)
	defer p.close()
	for i := range maxPrincipals {
		if p.routeOf(byToken(t.Context(), fmt.Sprint(i))).Keepalives == nil {
			t.Fatalf("no keeper for token %d", i)
		}
	}
	if p.routeOf(byToken(t.Context(), "one more")).Keepalives != nil {
		t.Error("a keeper for one more")
	}
	if p.routeOf(byToken(t.Context(), "7")).Keepalives == nil {
		t.Error("no keeper for a token that has one")
	}

	p = aloof(t)
	defer p.close()
	long := strings.Repeat("x", maxTokenBytes/4)
	for i := range 4 {
		if got := p.routeOf(byToken(t.Context(), fmt.Sprint(long, i))).Keepalives != nil; got != (i < 3) {
			t.Errorf("keeper for token %d of %d bytes: %v", i, len(long)+1, got)
		}
	}
	if p.routeOf(t.Context()).Keepalives == nil {
		t.Error("no keeper for who shows nothing")
	}
}

func TestCountsOfKeepersAreAddedUp(t *testing.T) {
	var one coalesce.KeepaliveStats
	v := reflect.ValueOf(&one).Elem()
	for i := range v.NumField() {
		if f := v.Field(i); f.CanUint() {
			f.SetUint(1)
		} else {
			f.SetInt(1)
		}
	}
	two := reflect.ValueOf(plus(one, one))
	for i := range two.NumField() {
		if got := fmt.Sprint(two.Field(i)); got != "2" {
			t.Errorf("%s is %s, want 2", two.Type().Field(i).Name, got)
		}
	}
}

func TestProxyDoesNotLendItsRightsToPingsThatItMayNotJudge(t *testing.T) {
	rights := judgedPings{&fakeIdentities{lendsNot: true}, t.Context()}
	if err := rights.Check(t.Context(), 2); !errors.Is(err, rpctypes.ErrGRPCUserEmpty) {
		t.Errorf("got %v", err)
	}
}

// granted is the answer to a grant.
func granted(t *testing.T, id int64) wire.Raw {
	t.Helper()
	resp, err := proto.Marshal(&pb.LeaseGrantResponse{ID: id, TTL: 10})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

// A lease that was granted here is known to live by the keeper of whom it was granted to, and by no other.
func TestGrantedLeaseIsKnownToItsKeeper(t *testing.T) {
	p := aloof(t)
	defer p.close()
	for _, ctx := range []context.Context{t.Context(), byToken(t.Context(), "a"), byToken(t.Context(), "b"), byName(t.Context(), "c")} {
		p.granted(ctx, granted(t, 7), time.Now())
	}
	p.granted(t.Context(), granted(t, 8), time.Now())
	p.granted(t.Context(), wire.Raw("not an answer"), time.Now())
	for who, want := range map[principal]int{{}: 2, {tokenHolder, "a"}: 1, {tokenHolder, "b"}: 1, {kind: ownSelf}: 1} {
		k := p.keepers[who]
		if k == nil {
			t.Errorf("%+v has no keeper", who)
			continue
		}
		if n := k.Stats().Leases; n != want {
			t.Errorf("%+v: %d leases are known, want %d", who, n, want)
		}
		if k.streams != 0 {
			t.Errorf("%+v: %d streams", who, k.streams)
		}
	}
}

// However many principals ping, what all of them wait for is bounded in sum.
func TestPingsOfAllKeepersAreBounded(t *testing.T) {
	p := aloof(t)
	p.budget = coalesce.NewKeepaliveBudget(100, 100)
	answers := make(pingAnswers, 10_000)
	var routes []coalesce.PingRoute
	for i := range 10 {
		r := p.routeOf(byToken(t.Context(), fmt.Sprint(i)))
		defer r.Done()
		routes = append(routes, r)
		for id := range int64(100) {
			r.Keepalives.Ping(id, time.Now(), answers, 0)
			p.granted(byToken(t.Context(), fmt.Sprint(i)), granted(t, id), time.Now())
		}
	}
	waiting, leases := 0, 0
	for _, r := range routes {
		s := r.Keepalives.Stats()
		waiting, leases = waiting+s.Waiting, leases+s.Leases
	}
	if most := 100 + 10*16; waiting > most || waiting < 100 {
		t.Errorf("%d pings wait, want at most %d", waiting, most)
	}
	if most := 100 + 10*64; leases > most || leases < 100 {
		t.Errorf("%d leases are known, want at most %d", leases, most)
	}
	p.close()
}
