package proxy

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"weir/grpcapi/wire"
)

// endpointsOf parses what a test calls endpoints.
func endpointsOf(t *testing.T, names ...string) []endpoint {
	t.Helper()
	var all []endpoint
	for _, name := range names {
		e, err := Config{}.endpoint(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, e)
	}
	return all
}

func setEndpoints(t *testing.T, u *upstream, names ...string) {
	t.Helper()
	if err := u.setEndpoints(endpointsOf(t, names...)); err != nil {
		t.Fatal(err)
	}
}

// are tells whether the members are those of names, in any order.
func are(u *upstream, names ...string) func() bool {
	slices.Sort(names)
	return func() bool {
		var now []string
		for _, m := range u.members {
			now = append(now, m.endpoint)
		}
		slices.Sort(now)
		return slices.Equal(now, names)
	}
}

// named serves a member that answers with its endpoint, and echoes what comes after that.
func named(t *testing.T) string {
	t.Helper()
	l, endpoint := listenTCP(t, "127.0.0.1:0")
	serve(t, l, func(s grpc.ServerStream) error {
		var m wire.Raw
		if err := s.RecvMsg(&m); err != nil {
			return endOf(err)
		}
		if err := s.SendMsg(wire.Raw(endpoint)); err != nil {
			return err
		}
		if method, _ := grpc.MethodFromServerStream(s); method == unaryMethod {
			return nil
		}
		return echo(s)
	})
	return endpoint
}

func answered(t *testing.T, conn *grpc.ClientConn) string {
	t.Helper()
	resp, _, _, err := call(t.Context(), conn, false, "")
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func TestMembersThatStayKeepTheirConnections(t *testing.T) {
	a := named(t)
	b := named(t)
	c := named(t)
	p := newProxy(t, Config{Endpoints: []string{a, b}})
	u := p.upstream
	conn := front(t, p)
	await(t, u, allIn(u, connectivity.Ready))
	current := u.current.Load()
	stays, goes := a, b
	if answered(t, conn) == b {
		stays, goes = b, a
	}
	setEndpoints(t, u, c, strings.TrimPrefix(stays, "http://"), stays+"/")
	await(t, u, func() bool { return are(u, stays, c)() && allIn(u, connectivity.Ready)() })
	if u.current.Load() != current || answered(t, conn) != stays {
		t.Errorf("%s, which stays, is not the current member any more, or not on its old connection", stays)
	}
	setEndpoints(t, u, goes)
	await(t, u, are(u, goes))
	if got := answered(t, conn); got != goes {
		t.Errorf("got %s, want %s, which came back", got, goes)
	}
	select {
	case <-current.over:
	default:
		t.Error("the feeds are not told that their member has gone")
	}
}

func TestMemberIsDisconnectedWhenItsCallsHaveEnded(t *testing.T) {
	a := named(t)
	b := named(t)
	p := newProxy(t, Config{Endpoints: []string{a}})
	u := p.upstream
	conn := front(t, p)
	await(t, u, allIn(u, connectivity.Ready))
	left := u.members[0]
	stream := open(t, t.Context(), conn)
	send(t, stream, "")
	if got := receive(t, stream); got != a {
		t.Fatalf("the stream is at %s", got)
	}
	setEndpoints(t, u, b)
	await(t, u, are(u, b))
	if got := answered(t, conn); got != b {
		t.Errorf("a new call goes to %s", got)
	}
	send(t, stream, "still there")
	if got := receive(t, stream); got != "still there" {
		t.Errorf("got %q", got)
	}
	if state := left.conn.GetState(); state != connectivity.Ready {
		t.Errorf("the connection is %v under an open stream", state)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	<-left.calls.over
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for left.conn.GetState() != connectivity.Shutdown {
		if !left.conn.WaitForStateChange(ctx, left.conn.GetState()) {
			t.Fatal("the connection is not closed")
		}
	}
}

func TestMembersThatCannotBeReachedReplaceNone(t *testing.T) {
	a := named(t)
	l, later := listenTCP(t, "127.0.0.1:0")
	address := l.Addr().String()
	l.Close()
	p := newProxy(t, Config{Endpoints: []string{a}})
	u := p.upstream
	conn := front(t, p)
	await(t, u, allIn(u, connectivity.Ready))
	setEndpoints(t, u, later)
	await(t, u, func() bool { return are(u, a, later)() && u.members[1].failed })
	if got := answered(t, conn); got != a {
		t.Errorf("got %s", got)
	}
	l, _ = listenTCP(t, address)
	serve(t, l, echo)
	await(t, u, are(u, later))
	if resp, _, _, err := call(t.Context(), conn, false, "hello"); err != nil || resp != "hello" {
		t.Errorf("got %q, %v", resp, err)
	}
}

func TestMemberThatIsWantedAgainIsNotLetGo(t *testing.T) {
	a := named(t)
	p := newProxy(t, Config{Endpoints: []string{a}})
	u := p.upstream
	await(t, u, allIn(u, connectivity.Ready))
	m := u.members[0]
	setEndpoints(t, u, "http://127.0.0.1:1")
	setEndpoints(t, u, a)
	await(t, u, are(u, a))
	if u.members[0] != m || !m.calls.begin() {
		t.Error("it was let go")
	}
	m.calls.end()
}

// A call may have got its member before that is let go.
func TestCallThatComesTooLateGoesToAnotherMember(t *testing.T) {
	a := named(t)
	b := named(t)
	p := newProxy(t, Config{Endpoints: []string{a, b}})
	u := p.upstream
	await(t, u, allIn(u, connectivity.Ready))
	late := u.current.Load()
	setEndpoints(t, u, map[string]string{a: b, b: a}[late.member.endpoint])
	<-late.member.calls.over
	u.current.Store(late) // as if it had been read before
	conn := front(t, p)
	bothPaths(t, func(t *testing.T, stream bool) {
		if resp, _, _, err := call(t.Context(), conn, stream, ""); err != nil || resp == late.member.endpoint {
			t.Errorf("got %s, %v", resp, err)
		}
	})
}

func TestNoCallBeginsOnceCallsAreOver(t *testing.T) {
	for range 200 {
		c := newCalls()
		var callers sync.WaitGroup
		for range 4 {
			callers.Go(func() {
				for range 20 {
					if !c.begin() {
						return
					}
					select {
					case <-c.over:
						t.Error("over during a call")
					default:
					}
					c.end()
				}
			})
		}
		c.end()
		callers.Wait()
		<-c.over
		if c.begin() {
			t.Fatal("a call has begun")
		}
	}
}

func BenchmarkCallIsCounted(b *testing.B) {
	c := newCalls()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			c.begin()
			c.end()
		}
	})
}
