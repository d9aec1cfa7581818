package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// conn is one client's connection, with any number of RPCs of one method on it.
//
// It speaks HTTP/2 by itself and takes gRPC messages out of the frames where they lie, because the load shares the
// machine with the servers: grpc-go's client, which wakes a goroutine for each stream that a message is for, takes more
// of the processor than some of the servers, and what would be measured then is how well it gets through its own queue.
type conn struct {
	nc      net.Conn
	handler handler

	mu     sync.Mutex // guards the fields below
	w      *bufio.Writer
	fr     *http2.Framer // only its Write functions; it writes to w
	first  []byte        // headers of the first RPC, encoded; nil when it is sent
	others []byte        // headers of every other, which refer to the first's, as any client's do
	nextID uint32
	window int // bytes that may still be sent

	// The reader's.
	streams map[uint32]*inbound
	spare   []*inbound
	unread  uint32 // bytes that came and were not added to the connection's window again
}

// handler is given what comes on a connection, by its reader.
type handler interface {
	// message is given each message, of which it may keep nothing.
	message(rpc uint32, m []byte) error
	// end is told that the server has ended an RPC, with success if err is nil.
	end(rpc uint32, err error) error
}

// inbound is the reader's state of one RPC.
type inbound struct {
	part   []byte // of a message whose end has not come
	unread uint32
}

// The windows are about those that grpc-go's client comes to on a busy connection, but fixed.
const (
	streamWindow = 1 << 20
	connWindow   = 16 << 20
)

// serverWindow is what HTTP/2 lets a client send on a connection, and on a stream, before the server allows more.
const serverWindow = 65535

const (
	readBuffer  = 128 << 10
	writeBuffer = 8 << 10
)

// dial opens a connection for RPCs of a method, "/package.Service/Method". Plaintext if config is nil. read must run for
// anything to come.
func dial(ctx context.Context, addr string, config *tls.Config, method string, h handler) (*conn, error) {
	nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	scheme := "http"
	if config != nil {
		scheme = "https"
		config = config.Clone()
		config.NextProtos = []string{http2.NextProtoTLS}
		config.ServerName, _, _ = net.SplitHostPort(addr)
		nc = tls.Client(nc, config)
	}
	c := &conn{nc: nc, handler: h, w: bufio.NewWriterSize(nc, writeBuffer), nextID: 1, window: serverWindow, streams: map[uint32]*inbound{}}
	c.fr = http2.NewFramer(c.w, nil)
	var buf bytes.Buffer
	enc := hpack.NewEncoder(&buf)
	for _, headers := range []*[]byte{&c.first, &c.others} {
		for _, h := range [][2]string{
			{":method", "POST"}, {":scheme", scheme}, {":path", method}, {":authority", addr},
			{"content-type", "application/grpc"}, {"te", "trailers"},
		} {
			if err := enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
				return nil, errors.Join(fmt.Errorf("encode headers: %w", err), nc.Close())
			}
		}
		*headers = bytes.Clone(buf.Bytes())
		buf.Reset()
	}
	if err := c.greet(); err != nil {
		return nil, errors.Join(fmt.Errorf("greet: %w", err), nc.Close())
	}
	return c, nil
}

func (c *conn) greet() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := io.WriteString(c.w, http2.ClientPreface); err != nil {
		return err
	}
	if err := c.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: streamWindow},
		http2.Setting{ID: http2.SettingEnablePush}); err != nil {
		return err
	}
	if err := c.fr.WriteWindowUpdate(0, connWindow-serverWindow); err != nil {
		return err
	}
	return c.w.Flush()
}

// open starts an RPC and returns its id.
func (c *conn) open() (rpc uint32, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.start() // the first request flushes
}

// start is open under the lock.
func (c *conn) start() (rpc uint32, err error) {
	rpc = c.nextID
	c.nextID += 2
	headers := c.others
	if c.first != nil {
		headers, c.first = c.first, nil
	}
	if err := c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: rpc, BlockFragment: headers, EndHeaders: true}); err != nil {
		return 0, fmt.Errorf("start an RPC: %w", err)
	}
	return rpc, nil
}

// send sends an encoded request.
func (c *conn) send(rpc uint32, request []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.write(rpc, request, false); err != nil {
		return err
	}
	return c.flushLocked()
}

// call starts an RPC with one encoded request, and says with it that no more will come. It is sent when the reader has
// handled what has come so far, or with flush.
func (c *conn) call(request []byte) (rpc uint32, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if rpc, err = c.start(); err != nil {
		return 0, err
	}
	return rpc, c.write(rpc, request, true)
}

// write writes an encoded request, under the lock.
func (c *conn) write(rpc uint32, request []byte, last bool) error {
	framed := append(binary.BigEndian.AppendUint32(make([]byte, 1, grpcPrefix+len(request)), uint32(len(request))), request...)
	if c.window -= len(framed); c.window < 0 {
		return fmt.Errorf("more than %d bytes of requests that the server has not read, on one connection: use more connections", serverWindow)
	}
	if err := c.fr.WriteData(rpc, last, framed); err != nil {
		return fmt.Errorf("send a request: %w", err)
	}
	return nil
}

func (c *conn) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flushLocked()
}

func (c *conn) flushLocked() error {
	if err := c.w.Flush(); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// grpcPrefix is one byte of flags and four of length, before every message.
const grpcPrefix = 5

// read handles what comes until the connection is closed, which is the error then, or something is wrong. greeted is
// called when the server's greeting came.
func (c *conn) read(greeted func()) error {
	r := bufio.NewReaderSize(c.nc, readBuffer)
	fr := http2.NewFramer(nil, r)
	fr.SetReuseFrames()
	fr.ReadMetaHeaders = hpack.NewDecoder(4<<10, nil)
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		switch f := f.(type) {
		case *http2.DataFrame:
			err = c.data(f)
		case *http2.MetaHeadersFrame:
			err = c.header(f)
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = c.answer((*http2.Framer).WriteSettingsAck)
				greeted()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				err = c.answer(func(fr *http2.Framer) error { return fr.WritePing(true, f.Data) })
			}
		case *http2.WindowUpdateFrame:
			if f.StreamID == 0 {
				c.mu.Lock()
				c.window += int(f.Increment)
				c.mu.Unlock()
			}
		case *http2.RSTStreamFrame:
			err = fmt.Errorf("the server ended an RPC with %v", f.ErrCode)
		case *http2.GoAwayFrame:
			err = fmt.Errorf("the server ends the connection with %v", f.ErrCode)
		}
		if err == nil && r.Buffered() == 0 {
			err = c.flush()
		}
		if err != nil {
			return err
		}
	}
}

// header of an RPC, or its trailer.
func (c *conn) header(f *http2.MetaHeadersFrame) error {
	if !f.StreamEnded() {
		in := &inbound{}
		if n := len(c.spare); n > 0 {
			in, c.spare = c.spare[n-1], c.spare[:n-1]
		}
		c.streams[f.StreamID] = in
		return nil
	}
	if in := c.streams[f.StreamID]; in != nil {
		if len(in.part) > 0 {
			return errors.New("the server ended an RPC within a message")
		}
		in.unread = 0
		c.spare = append(c.spare, in)
		delete(c.streams, f.StreamID)
	}
	for _, field := range f.Fields {
		if field.Name == "grpc-status" && field.Value == "0" {
			return c.handler.end(f.StreamID, nil)
		}
	}
	return c.handler.end(f.StreamID, fmt.Errorf("the server ended an RPC: %v", f.Fields))
}

func (c *conn) data(f *http2.DataFrame) error {
	in := c.streams[f.StreamID]
	if in == nil || f.StreamEnded() {
		return errors.New("the server sent data without headers, or ended an RPC with data")
	}
	if err := in.add(f.Data(), func(m []byte) error { return c.handler.message(f.StreamID, m) }); err != nil {
		return err
	}
	n := f.Length
	c.unread += n
	in.unread += n
	if in.unread >= streamWindow/2 {
		n := in.unread
		in.unread = 0
		if err := c.answer(func(fr *http2.Framer) error { return fr.WriteWindowUpdate(f.StreamID, n) }); err != nil {
			return err
		}
	}
	if c.unread >= connWindow/2 {
		n := c.unread
		c.unread = 0
		return c.answer(func(fr *http2.Framer) error { return fr.WriteWindowUpdate(0, n) })
	}
	return nil
}

// answer writes a frame.
func (c *conn) answer(write func(*http2.Framer) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := write(c.fr); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return c.flushLocked()
}

// add takes the data that came next, and hands on each message that is whole.
func (in *inbound) add(data []byte, onMessage func([]byte) error) error {
	if len(in.part) > 0 {
		in.part = append(in.part, data...)
		data = in.part
	}
	rest := data
	for len(rest) >= grpcPrefix {
		if rest[0] != 0 {
			return errors.New("the server sent a compressed message")
		}
		end := grpcPrefix + int(binary.BigEndian.Uint32(rest[1:]))
		if len(rest) < end {
			break
		}
		if err := onMessage(rest[grpcPrefix:end]); err != nil {
			return err
		}
		rest = rest[end:]
	}
	if len(in.part) == 0 || len(rest) < len(data) {
		in.part = append(in.part[:0], rest...)
	}
	return nil
}

// close ends the connection and everything on it.
func (c *conn) close() error {
	// TLS would say goodbye, and wait up to 5 s for the writer that may be stuck.
	_ = c.nc.SetDeadline(time.Now())
	return c.nc.Close()
}
