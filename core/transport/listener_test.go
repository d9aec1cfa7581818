package transport

import (
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"
)

// scripted is a listener that accepts what a test gives it.
type scripted struct {
	net.Listener
	conns chan net.Conn
}

func (l scripted) Accept() (net.Conn, error) {
	c, ok := <-l.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

// connFrom is a connection that comes from an address. The test has its other end.
type connFrom struct {
	net.Conn
	from net.Addr
}

func (c connFrom) RemoteAddr() net.Addr { return c.from }

// tryAccept has somebody connect to l, and returns the connection, or nil if it is closed.
func tryAccept(t *testing.T, l *boundedListener, from net.Addr) net.Conn {
	t.Helper()
	own, other := net.Pipe()
	t.Cleanup(func() { own.Close(); other.Close() })
	conns := make(chan net.Conn, 1)
	l.Listener = scripted{conns: conns}
	conns <- connFrom{own, from}
	close(conns)
	c, err := l.Accept()
	if err == nil {
		return c
	}
	_ = other.SetDeadline(time.Now().Add(time.Minute))
	if _, err := other.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("it was not accepted, and is not closed: %v", err)
	}
	return nil
}

func boundedBy(total, fromHost int, logs io.Writer) *boundedListener {
	tr := New(Config{ID: 1, Logger: slog.New(slog.NewTextHandler(logs, nil))})
	l := tr.BoundListener(nil).(*boundedListener)
	l.total, l.fromHost, l.kept = total, fromHost, 0
	return l
}

func tcpFrom(ip string, port int) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: port} }

func TestConnectionsAreBounded(t *testing.T) {
	logs := new(syncBuffer)
	l := boundedBy(4, 2, logs)
	for _, c := range []struct {
		name string
		from net.Addr
		let  bool
	}{
		{"the first", tcpFrom("10.0.0.1", 1), true},
		{"the second of a host", tcpFrom("10.0.0.1", 2), true},
		{"the third of a host", tcpFrom("10.0.0.1", 3), false},
		{"the same host in IPv6", tcpFrom("::ffff:10.0.0.1", 4), false},
		{"another host", tcpFrom("2001:db8::1", 1), true},
		{"the last of all", tcpFrom("2001:db8::ffff:2", 1), true},
		{"one more", tcpFrom("10.0.0.3", 1), false},
	} {
		if got := tryAccept(t, l, c.from) != nil; got != c.let {
			t.Errorf("%s: accepted is %v", c.name, got)
		}
	}
	if n := logs.count("too many connections"); n != 1 {
		t.Errorf("%d lines about it", n)
	}
}

func TestSomeConnectionsAreKeptForMembers(t *testing.T) {
	l := boundedBy(4, 3, io.Discard)
	l.kept = 2
	l.isMembers = func(host netip.Prefix) bool { return host == netip.MustParsePrefix("10.0.0.9/32") }
	for _, c := range []struct {
		name string
		from net.Addr
		let  bool
	}{
		{"a stranger", tcpFrom("10.0.0.1", 1), true},
		{"another stranger", tcpFrom("10.0.0.2", 1), true},
		{"a third stranger", tcpFrom("10.0.0.3", 1), false},
		{"a member", tcpFrom("10.0.0.9", 1), true},
		{"a member again", tcpFrom("10.0.0.9", 2), true},
		{"a member that finds no place", tcpFrom("10.0.0.9", 3), false},
	} {
		if got := tryAccept(t, l, c.from) != nil; got != c.let {
			t.Errorf("%s: accepted is %v", c.name, got)
		}
	}
}

func TestAMemberIsAtTheHostWhereItWasReached(t *testing.T) {
	a, b := start(t, 1), start(t, 2)
	host := netip.MustParsePrefix("127.0.0.1/32")
	connect(a, b)
	b.SetPeers(nil) // a is a guest, who may say whatever URLs it likes
	b.active(t, a)
	if b.hasMemberAt(host) {
		t.Error("a guest has places")
	}
	connect(a, b)
	if !b.hasMemberAt(host) {
		t.Error("a member has none")
	}
	if b.hasMemberAt(netip.MustParsePrefix("127.0.0.2/32")) || b.hasMemberAt(netip.Prefix{}) {
		t.Error("others have, too")
	}
	b.SetPeers(map[uint64][]string{1: {"http://127.0.0.1:1"}, 2: {b.url}})
	if b.hasMemberAt(host) {
		t.Error("it has them where it was before it moved")
	}
}

func TestHostsOfIPv6AreTheirFirst64Bits(t *testing.T) {
	l := boundedBy(4, 1, io.Discard)
	if tryAccept(t, l, tcpFrom("2001:db8::1", 1)) == nil {
		t.Error("the first is not accepted")
	}
	if tryAccept(t, l, tcpFrom("2001:db8::ffff:2", 1)) != nil {
		t.Error("its neighbour is accepted")
	}
	if tryAccept(t, l, tcpFrom("2001:db8:0:1::1", 1)) == nil {
		t.Error("another is not accepted")
	}
}

func TestClosedConnectionMakesPlaceForOne(t *testing.T) {
	l := boundedBy(1, 1, io.Discard)
	from := tcpFrom("10.0.0.1", 1)
	first := tryAccept(t, l, from)
	first.Close()
	first.Close()
	if tryAccept(t, l, from) == nil {
		t.Fatal("there is no place")
	}
	if tryAccept(t, l, from) != nil {
		t.Error("there are places for two")
	}
}

func TestConnectionsOverAUnixSocketHaveNoHost(t *testing.T) {
	l := boundedBy(2, 1, io.Discard)
	from := &net.UnixAddr{Net: "unix"}
	for i, want := range []bool{true, true, false} {
		if got := tryAccept(t, l, from) != nil; got != want {
			t.Errorf("connection %d: accepted is %v", i, got)
		}
	}
}
