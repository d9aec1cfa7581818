package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
)

func TestEndpoints(t *testing.T) {
	cases := []struct {
		endpoint string
		want     target
		err      string
	}{
		{endpoint: "10.0.0.1:2379", want: target{network: "tcp", addr: "10.0.0.1:2379", authority: "10.0.0.1:2379", bare: true}},
		{endpoint: "http://db:2379", want: target{network: "tcp", addr: "db:2379", authority: "db:2379"}},
		{endpoint: "http://db:2379/", want: target{network: "tcp", addr: "db:2379", authority: "db:2379"}},
		{endpoint: "https://[::1]:2379", want: target{network: "tcp", addr: "[::1]:2379", authority: "[::1]:2379", tls: true}},
		{endpoint: "unix:///run/etcd", want: target{network: "unix", addr: "/run/etcd", authority: "localhost"}},
		{endpoint: "unix:run/etcd", want: target{network: "unix", addr: "run/etcd", authority: "localhost"}},
		{endpoint: "unixs://run/etcd:0", want: target{network: "unix", addr: "run/etcd:0", authority: "localhost", tls: true}},
		{endpoint: "htp://db:2379", err: `unknown scheme "htp"`},
		{endpoint: "db", err: "host or port is missing"},
		{endpoint: ":2379", err: "host or port is missing"},
		{endpoint: "http://db:port", err: "not a host and port"},
		{endpoint: "http://db:1/v3", err: "a path is not possible"},
		{endpoint: "http://me@db:1", err: "a user is not possible there"},
		{endpoint: "http://db:1?x", err: "not a host and port"},
		{endpoint: "unix://", err: "the path is missing"},
		{endpoint: "", err: "host or port is missing"},
	}
	for _, c := range cases {
		got, err := parseEndpoint(c.endpoint)
		if c.err == "" && (err != nil || got != c.want) || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%q: got %+v, %v", c.endpoint, got, err)
		}
	}
	for _, endpoints := range [][]string{nil, {"http://db:1", "db"}} {
		if _, err := New(Config{Endpoints: endpoints}); err == nil {
			t.Errorf("%v: no error", endpoints)
		}
	}
}

// listenTCP listens on a loopback port and returns it as an endpoint.
func listenTCP(t *testing.T, address string) (net.Listener, string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, "http://" + l.Addr().String()
}

// await waits until the members are as wanted.
func await(t *testing.T, u *upstream, wanted func() bool) {
	t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		u.mu.Lock()
		changed, ok := u.changed, wanted()
		u.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			t.Fatal("the members do not get there")
		}
	}
}

func allIn(u *upstream, state connectivity.State) func() bool {
	return func() bool {
		for _, m := range u.members {
			if m.state != state {
				return false
			}
		}
		return true
	}
}

func TestOneMemberIsUsedUntilItsConnectionIsLost(t *testing.T) {
	type server struct {
		*grpc.Server
		address string
	}
	servers := map[string]server{}
	naming := func(name string) func(grpc.ServerStream) error {
		return func(s grpc.ServerStream) error { return s.SendMsg(wire.Raw(name)) }
	}
	var endpoints []string
	for range 3 {
		l, endpoint := listenTCP(t, "127.0.0.1:0")
		servers[endpoint] = server{serve(t, l, naming(endpoint)), l.Addr().String()}
		endpoints = append(endpoints, endpoint)
	}
	p := newProxy(t, Config{Endpoints: endpoints})
	conn := front(t, p)
	await(t, p.upstream, allIn(p.upstream, connectivity.Ready))
	ask := func(stream bool) string {
		t.Helper()
		resp, _, _, err := call(t.Context(), conn, stream, "")
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	first := ask(false)
	for range 10 {
		if unary, stream := ask(false), ask(true); unary != first || stream != first {
			t.Fatalf("got %s and %s, want %s", unary, stream, first)
		}
	}
	servers[first].Stop()
	await(t, p.upstream, func() bool { return p.upstream.current.Load().member.endpoint != first })
	second := ask(false)
	if second == first || ask(true) != second {
		t.Fatalf("got %s after %s", second, first)
	}
	l, _ := listenTCP(t, servers[first].address)
	serve(t, l, naming(first))
	await(t, p.upstream, allIn(p.upstream, connectivity.Ready))
	if again := ask(false); again != second {
		t.Errorf("got %s when %s came back, want still %s", again, first, second)
	}
}

func TestProxiesBeginAtDifferentMembers(t *testing.T) {
	firsts := map[string]bool{}
	for range 100 {
		p := newProxy(t, Config{
			Endpoints: []string{"a:1", "b:1", "c:1"},
			Dial:      func(context.Context, string) (net.Conn, error) { return nil, errors.New("no network here") },
		})
		firsts[p.upstream.members[0].endpoint] = true
	}
	if len(firsts) != 3 {
		t.Errorf("a hundred proxies began at %v", firsts)
	}
}

func TestWriteThatMayHaveArrivedIsNotSentAgain(t *testing.T) {
	var arrived atomic.Int32
	var endpoints []string
	var servers []*grpc.Server
	received := make(chan struct{}, 2)
	for range 2 {
		l, endpoint := listenTCP(t, "127.0.0.1:0")
		servers = append(servers, serve(t, l, func(s grpc.ServerStream) error {
			arrived.Add(1)
			received <- struct{}{}
			<-s.Context().Done()
			return nil
		}))
		endpoints = append(endpoints, endpoint)
	}
	p := newProxy(t, Config{Endpoints: endpoints})
	conn := front(t, p)
	await(t, p.upstream, allIn(p.upstream, connectivity.Ready))
	failed := make(chan error, 1)
	go func() {
		_, _, _, err := call(context.Background(), conn, false, "put")
		failed <- err
	}()
	<-received
	if p.upstream.current.Load().member.endpoint == endpoints[0] {
		servers[0].Stop()
	} else {
		servers[1].Stop()
	}
	if err := <-failed; status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
	if n := arrived.Load(); n != 1 {
		t.Errorf("it arrived %d times", n)
	}
}

// What decides between the two is whether gRPC filled in the peer.
func TestPeerIsKnownExactlyIfSomethingWasSent(t *testing.T) {
	l, endpoint := listenTCP(t, "127.0.0.1:0")
	server := serve(t, l, func(grpc.ServerStream) error { return status.Error(codes.Unavailable, "mine") })
	p := newProxy(t, Config{Endpoints: []string{endpoint}})
	m := p.upstream.members[0]
	invoke := func() (to peer.Peer, err error) {
		var resp wire.Raw
		err = m.conn.Invoke(t.Context(), unaryMethod, wire.Raw(nil), &resp, grpc.Peer(&to))
		return to, err
	}
	await(t, p.upstream, allIn(p.upstream, connectivity.Ready))
	if to, err := invoke(); to.Addr == nil || status.Convert(err).Message() != "mine" {
		t.Errorf("sent: got %v, %v", to.Addr, err)
	}
	server.Stop()
	await(t, p.upstream, func() bool { return m.failed })
	if to, err := invoke(); to.Addr != nil || status.Code(err) != codes.Unavailable {
		t.Errorf("not sent: got %v, %v", to.Addr, err)
	}
}

func TestWhatWasNotSentGoesToTheNextMember(t *testing.T) {
	unavailable := status.Error(codes.Unavailable, "connection lost")
	refused := status.Error(codes.InvalidArgument, "refused")
	cases := []struct {
		name    string
		answers map[string]error // of members; what is not there was not sent and is Unavailable
		want    error
		tried   string
	}{
		{"the first answers", map[string]error{"a": nil}, nil, "a"},
		{"the first refuses", map[string]error{"a": refused}, refused, "a"},
		{"the first may have got it", map[string]error{"a": unavailable}, unavailable, "a"},
		{"the second answers", map[string]error{"b": nil}, nil, "ab"},
		{"the second may have got it", map[string]error{"b": unavailable, "c": nil}, unavailable, "ab"},
		{"the last answers", map[string]error{"c": nil}, nil, "abc"},
		{"none got it", nil, errNoMember, "abc"},
	}
	for _, c := range cases {
		u := &upstream{changed: make(chan struct{})}
		for _, name := range []string{"a", "b", "c"} {
			u.members = append(u.members, &member{endpoint: name, state: connectivity.Ready})
		}
		u.appoint(u.members[0])
		tried := ""
		err := u.try(t.Context(), func(t *tenure) (sent bool, err error) {
			tried += t.member.endpoint
			err, sent = c.answers[t.member.endpoint]
			if !sent {
				err = unavailable
			}
			return sent, err
		})
		if err != c.want || tried != c.tried {
			t.Errorf("%s: tried %s and got %v, want %s and %v", c.name, tried, err, c.tried, c.want)
		}
	}
}

func TestUpstreamThatIsDownIsUnavailableAtOnceUntilItComes(t *testing.T) {
	l, endpoint := listenTCP(t, "127.0.0.1:0")
	address := l.Addr().String()
	l.Close()
	p := newProxy(t, Config{Endpoints: []string{endpoint}})
	conn := front(t, p)
	bothPaths(t, func(t *testing.T, stream bool) {
		_, _, _, err := call(t.Context(), conn, stream, "")
		if status.Code(err) != codes.Unavailable || status.Convert(err).Message() != "there is no connection available" {
			t.Errorf("got %v", err)
		}
	})
	err := p.Ready(t.Context())
	if err == nil || !strings.HasPrefix(err.Error(), "upstream "+endpoint+": ") || !strings.Contains(err.Error(), "refused") {
		t.Errorf("not ready because of %v", err)
	}
	l, _ = listenTCP(t, address)
	serve(t, l, echo)
	await(t, p.upstream, allIn(p.upstream, connectivity.Ready))
	if err := p.Ready(t.Context()); err != nil {
		t.Errorf("not ready because of %v", err)
	}
	if resp, _, _, err := call(t.Context(), conn, false, "hello"); err != nil || resp != "hello" {
		t.Errorf("got %q, %v", resp, err)
	}
}

func TestEachMemberThatIsDownIsNamed(t *testing.T) {
	p := newProxy(t, Config{
		Endpoints: []string{"a:1", "b:1"},
		Dial:      func(_ context.Context, e string) (net.Conn, error) { return nil, fmt.Errorf("%s is on fire", e) },
	})
	await(t, p.upstream, allIn(p.upstream, connectivity.TransientFailure))
	err := p.Ready(t.Context())
	for _, want := range []string{"upstream a:1: Error while dialing: a:1 is on fire", "upstream b:1: Error while dialing: b:1 is on fire"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestFirstConnectionIsWaitedForWithinTheDeadline(t *testing.T) {
	p := newProxy(t, Config{
		Endpoints: []string{"a:1"},
		Dial: func(ctx context.Context, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := p.Unary(ctx, unaryMethod, nil, nil); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("got %v", err)
	}
	if err := p.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "connecting") {
		t.Errorf("not ready because of %v", err)
	}
}

func TestEndpointSaysWhetherThereIsTLS(t *testing.T) {
	system := func() *tls.Config { return &tls.Config{} }
	for _, c := range []struct {
		endpoint string
		tls      func() *tls.Config
		want     bool
	}{
		{"https://a:1", nil, true}, {"https://a:1", system, true},
		{"http://a:1", nil, false}, {"http://a:1", system, false},
		{"a:1", nil, false}, {"a:1", system, true},
	} {
		first := make(chan byte, 1)
		p := newProxy(t, Config{Endpoints: []string{c.endpoint}, TLS: c.tls, Dial: func(context.Context, string) (net.Conn, error) {
			client, server := net.Pipe()
			go func() {
				defer server.Close()
				b := make([]byte, 1)
				if _, err := server.Read(b); err == nil {
					select {
					case first <- b[0]:
					default:
					}
				}
			}()
			return client, nil
		}})
		if b := <-first; (b == 0x16) != c.want { // a TLS handshake record
			t.Errorf("%s with TLS %v: the first byte was %#x", c.endpoint, c.tls != nil, b)
		}
		p.Close()
	}
}
