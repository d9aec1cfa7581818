package transport

import (
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// What a peer port has open at once. A member needs four connections from each other one, and what it has given up lives on at the
// other end until that has noticed, for up to 15 s.
const (
	maxConns         = 1024
	maxConnsFromHost = 256
	// keptConns of maxConns are kept for the members' hosts.
	keptConns = 128
	// saidAgain is how often the log has that there are too many.
	saidAgain = time.Minute
)

// boundedListener closes connections over a bound as soon as they are accepted: whoever reaches a peer port may connect, and
// each connection has memory before anything is known of who made it. Those of one host are bounded too, so that it alone cannot shut
// the members out, and some are kept for the members, so that several hosts cannot. Where a member is, is where this one has reached
// it: peer URLs may have names, and nobody who connects is to wait until such a one is looked up.
type boundedListener struct {
	net.Listener
	total, fromHost, kept int // bounds
	isMembers             func(host netip.Prefix) bool
	logger                *slog.Logger

	mu   sync.Mutex // guards all below
	open int
	from map[netip.Prefix]int
	said time.Time
}

// BoundListener returns l, a listener of the peer port, with a bound on how many connections are open at once: 1,024, of which 128 are
// only for hosts where this member has reached another one, and 256 from one host, which in IPv6 is all that has the same first 64
// bits. Those over a unix socket have no host.
func (t *Transport) BoundListener(l net.Listener) net.Listener {
	return &boundedListener{
		Listener: l, total: maxConns, fromHost: maxConnsFromHost, kept: keptConns, isMembers: t.hasMemberAt,
		logger: t.cfg.Logger, from: map[netip.Prefix]int{},
	}
}

// hasMemberAt tells whether a member has been reached at a host.
func (t *Transport) hasMemberAt(host netip.Prefix) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, p := range t.peers {
		if !p.guest && p.urls.leadTo(host) {
			return true
		}
	}
	return false
}

// Accept returns the next connection that is not over a bound.
func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		host := hostOf(c.RemoteAddr())
		if l.enter(host) {
			return &boundedConn{Conn: c, leave: sync.OnceFunc(func() { l.leave(host) })}, nil
		}
		c.Close()
	}
}

// hostOf returns the zero Prefix if the address is none of the internet.
func hostOf(a net.Addr) netip.Prefix {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	addr := tcp.AddrPort().Addr().Unmap()
	host, err := addr.Prefix(min(64, addr.BitLen()))
	if err != nil { // it has no bits
		return netip.Prefix{}
	}
	return host
}

func (l *boundedListener) enter(host netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	total := l.total
	if l.open >= total-l.kept && !l.isMembers(host) {
		total -= l.kept
	}
	if l.open < total && (!host.IsValid() || l.from[host] < l.fromHost) {
		l.open++
		l.from[host]++
		return true
	}
	if time.Since(l.said) > saidAgain {
		l.said = time.Now()
		l.logger.Warn("too many connections at the peer port: more are closed", "open", l.open, "from", host.String(), "open-from-there", l.from[host])
	}
	return false
}

func (l *boundedListener) leave(host netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.from[host]--; l.from[host] == 0 {
		delete(l.from, host)
	}
}

// boundedConn counts until it is closed.
type boundedConn struct {
	net.Conn
	leave func()
}

// Plain is the connection, of which it may be known how to read it without a buffer.
func (c *boundedConn) Plain() net.Conn { return c.Conn }

// Close closes the connection.
func (c *boundedConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
