package grpcapi

import (
	"errors"
	"io"
	"net"

	"github.com/soheilhy/cmux"
	"golang.org/x/net/http2"
	"google.golang.org/grpc/mem"
)

// prefacedConn is a connection whose HTTP/2 preface was read ahead and has to be read once more.
//
// It offers ReadOnReady, which grpc looks for, so that an idle connection holds no read buffer. Behind cmux's own
// wrapper, which grpc cannot look through, each holds 32 KiB for its whole life.
type prefacedConn struct {
	net.Conn
	unread string // the rest of the preface; only the reader touches it
	ready  readyReader
}

// readyReader waits until a connection is readable and only then takes a buffer of n bytes from the pool.
type readyReader interface {
	ReadOnReady(n int, pool mem.BufferPool) (*[]byte, int, error)
}

// newPrefacedConn takes over a connection from cmux, which has sniffed the preface and nothing more.
func newPrefacedConn(sniffed *cmux.MuxConn, held *heldConn) (net.Conn, error) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(sniffed, preface); err != nil || string(preface) != http2.ClientPreface {
		held.Close()
		return nil, errors.New("grpcapi: cmux matched HTTP/2 without its preface")
	}
	c := &prefacedConn{Conn: held, unread: http2.ClientPreface}
	c.ready = newReadyReader(plain(held.Conn))
	if c.ready == nil {
		return struct{ net.Conn }{c}, nil // hides ReadOnReady
	}
	return c, nil
}

// plain is what a listener has wrapped, if it says that the wrapper changes nothing of what is read.
func plain(c net.Conn) net.Conn {
	if wrapper, ok := c.(interface{ Plain() net.Conn }); ok {
		return wrapper.Plain()
	}
	return c
}

func (c *prefacedConn) Read(p []byte) (int, error) {
	if len(c.unread) > 0 {
		n := copy(p, c.unread)
		c.unread = c.unread[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// ReadOnReady is part of grpc's readyreader.Reader.
func (c *prefacedConn) ReadOnReady(size int, pool mem.BufferPool) (*[]byte, int, error) {
	if len(c.unread) > 0 {
		b := pool.Get(size)
		n, err := c.Read(*b)
		return b, n, err
	}
	return c.ready.ReadOnReady(size, pool)
}
