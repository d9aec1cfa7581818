//go:build unix

package grpcapi

import (
	"errors"
	"io"
	"net"
	"syscall"

	"google.golang.org/grpc/mem"
)

// descriptorReader is a readyReader over the descriptor of a connection. It has one reader at a time.
type descriptorReader struct {
	raw  syscall.RawConn
	read func(fd uintptr) bool // made once: a closure for every read would be an allocation for every read

	size int
	pool mem.BufferPool
	buf  *[]byte
	n    int
	err  error
}

// newReadyReader returns nil when c has no descriptor.
func newReadyReader(c net.Conn) readyReader {
	switch c.(type) {
	case *net.TCPConn, *net.UnixConn: // others may have a descriptor and not read from it plainly (TLS)
	default:
		return nil
	}
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil
	}
	r := &descriptorReader{raw: raw}
	r.read = r.tryRead
	return r
}

// tryRead returns false to be called again when the descriptor is readable.
func (r *descriptorReader) tryRead(fd uintptr) bool {
	r.buf = r.pool.Get(r.size)
	for {
		r.n, r.err = syscall.Read(int(fd), *r.buf)
		if !errors.Is(r.err, syscall.EINTR) {
			break
		}
	}
	if r.err == nil && r.n > 0 {
		return true
	}
	r.pool.Put(r.buf)
	r.buf = nil
	return !errors.Is(r.err, syscall.EAGAIN)
}

func (r *descriptorReader) ReadOnReady(size int, pool mem.BufferPool) (*[]byte, int, error) {
	r.size, r.pool, r.buf = size, pool, nil
	err := r.raw.Read(r.read)
	buf, n := r.buf, r.n
	r.pool, r.buf = nil, nil
	switch {
	case err != nil: // closed, or the deadline passed
		if buf != nil {
			pool.Put(buf)
		}
		return nil, 0, err
	case r.err != nil:
		return nil, 0, r.err
	case n == 0:
		return nil, 0, io.EOF
	}
	return buf, n, nil
}
