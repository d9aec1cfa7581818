package grpcapi

import (
	"encoding/binary"
	"math"
	"net"
	"sync"
	"sync/atomic"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/mem"
)

// goAwayConn is a connection of gRPC's that can be told GOAWAY while all others go on, which grpc-go offers only to all of a
// server's at once.
//
// HTTP/2 lets a GOAWAY stand between any two frames, but for those of one header block (RFC 9113, 6.8 and 6.10). So what grpc
// writes is followed from frame to frame, nine bytes of each, and ours is put where one ends. It names the highest stream there
// can be: the client begins no new streams, and every one that it has begun is served, as after the first of the two GOAWAYs
// with which grpc itself begins to drain. A client closes the connection when its last stream has ended.
//
// Rejected: a grpc.Server for each of several parts of the connections, stopped one after the other. All services are then
// registered in each, a part is too large a step for few connections, and the workers that wait for RPCs are divided too.
// MaxConnectionAge is one for the whole process. And a wrapper of grpc's transport has to name a type that is internal to it.
type goAwayConn struct {
	net.Conn
	of      *connection
	onClose func() // called once

	due    atomic.Bool // GOAWAY is to be sent, and has not been
	closed sync.Once

	mu       sync.Mutex // held while writing; guards the fields below
	rest     uint32     // bytes of the present frame that have not been written
	header   [frameHeaderLen]byte
	partial  int  // bytes of header that have been written of a frame that begins
	inBlock  bool // a header block goes on in the next frame
	writable bool // something has been written, so the connection has begun with SETTINGS
}

// frameHeaderLen is that of HTTP/2, where a message of gRPC's has frameHeader.
const frameHeaderLen = 9

// goAwayFrame is the GOAWAY that ends no stream: 8 bytes of the highest stream and no error.
var goAwayFrame = func() (frame [frameHeaderLen + 8]byte) {
	frame[2], frame[3] = 8, byte(http2.FrameGoAway)
	binary.BigEndian.PutUint32(frame[frameHeaderLen:], math.MaxInt32)
	return frame
}()

// newGoAwayConn takes over a connection of gRPC's. onClose is called when it is closed.
func newGoAwayConn(c net.Conn, onClose func()) (conn net.Conn, told *goAwayConn) {
	g := &goAwayConn{Conn: c, onClose: onClose}
	if ready, ok := c.(readyReader); ok {
		return &readyGoAwayConn{g, ready}, g
	}
	return g, g
}

// readyGoAwayConn is one that is read from as readyReader says.
type readyGoAwayConn struct {
	*goAwayConn
	ready readyReader
}

// ReadOnReady is part of grpc's readyreader.Reader.
func (c *readyGoAwayConn) ReadOnReady(size int, pool mem.BufferPool) (*[]byte, int, error) {
	return c.ready.ReadOnReady(size, pool)
}

// Write is part of net.Conn.
func (c *goAwayConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	c.follow(p)
	n, err := c.Conn.Write(p)
	c.mu.Unlock()
	if c.due.Load() {
		c.sendDue()
	}
	return n, err
}

// Close is part of net.Conn.
func (c *goAwayConn) Close() error {
	c.closed.Do(c.onClose)
	return c.Conn.Close()
}

// goAway tells the client to begin nothing new here, as soon as what is being written has been. It may block while the client
// reads nothing, until the connection is closed.
func (c *goAwayConn) goAway() {
	c.due.Store(true)
	c.sendDue()
}

// sendDue sends the GOAWAY that is due, if it may stand here; else the next Write comes to it. Who finds another writing leaves
// it to him: he looks again when he is done.
func (c *goAwayConn) sendDue() {
	for c.due.Load() && c.mu.TryLock() {
		between := c.writable && c.rest == 0 && c.partial == 0 && !c.inBlock
		if between {
			c.due.Store(false)
			_, _ = c.Conn.Write(goAwayFrame[:]) // who writes next learns of the error
		}
		c.mu.Unlock()
		if !between {
			return
		}
	}
}

// follow notes where in its frames the connection is after p. c.mu is held.
func (c *goAwayConn) follow(p []byte) {
	for len(p) > 0 {
		switch {
		case c.rest > 0:
			n := min(int(c.rest), len(p))
			c.rest, p = c.rest-uint32(n), p[n:]
		case c.partial == 0 && len(p) >= frameHeaderLen:
			c.begin(p[:frameHeaderLen])
			p = p[frameHeaderLen:]
		default:
			n := copy(c.header[c.partial:], p)
			c.partial, p = c.partial+n, p[n:]
			if c.partial == frameHeaderLen {
				c.begin(c.header[:])
				c.partial = 0
			}
		}
	}
}

// begin takes the header of a frame: 3 bytes of length, the type, the flags, 4 bytes of the stream.
func (c *goAwayConn) begin(header []byte) {
	c.writable = true
	c.rest = uint32(header[0])<<16 | uint32(header[1])<<8 | uint32(header[2])
	switch http2.FrameType(header[3]) {
	case http2.FrameHeaders, http2.FrameContinuation:
		c.inBlock = !http2.Flags(header[4]).Has(http2.FlagHeadersEndHeaders)
	}
}
