package client

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// Conn is one client's connection, with any number of RPCs on it. All methods but Read may be called concurrently, by the
// handler too. What sends may wait for the socket, which Close ends, but not for the server's windows. After an error of any
// of them it is of no use, and is to be closed.
//
// It speaks HTTP/2 by itself and takes gRPC messages out of the frames where they lie, because the load shares the
// machine with the servers: grpc-go's client, which wakes a goroutine for each stream that a message is for, takes more
// of the processor than some of the servers, and what would be measured then is how well it gets through its own queue.
type Conn struct {
	nc                       net.Conn
	handler                  Handler
	streamWindow, connWindow uint32 // that the server has

	mu      sync.Mutex // guards the fields below
	w       *bufio.Writer
	fr      *http2.Framer // only its Write functions; it writes to w
	headers headers
	nextID  uint32
	rpcs    map[uint32]*rpc // that have not ended
	spare   []*rpc
	out     outbound

	unread uint32 // the reader's: bytes that came and were not added to the connection's window again
}

// rpc is one RPC.
type rpc struct {
	id uint32

	// Guarded by the Conn's lock.
	window  int    // bytes that the server lets be sent
	waiting []byte // for windows
	closed  bool   // nothing more is to be sent; after what waits, if something does

	// The reader's.
	answered bool   // headers came
	part     []byte // of a message whose end has not come
	unread   uint32
}

// Handler is given what comes on a connection, by its reader: by whoever has called Read. While it does not return, nothing is read
// from the connection, and the server may send no more than the windows: so are slow clients made. What it returns as an error
// ends the reader.
type Handler interface {
	// Message is given each message, of which it may keep nothing.
	Message(rpc uint32, m []byte) error
	// End is told that the server has ended an RPC, with success if err is nil, and with a *StatusError else.
	End(rpc uint32, err error) error
}

// Config is how to connect.
type Config struct {
	// TLS is nil for plaintext. Its ServerName is the address's host unless it is set.
	TLS *tls.Config
	// Token is sent as metadata "token" of every RPC, as etcd wants it; none if empty. At most 8 KiB.
	Token string
	// StreamWindow and ConnWindow are how many bytes the server may send before they are read: of one RPC, and of all. 0 is
	// 1 MiB, and 16 MiB. HTTP/2 knows no ConnWindow below 65,535.
	StreamWindow, ConnWindow int
}

// The windows are about those that grpc-go's client comes to on a busy connection, but fixed.
const (
	defaultStreamWindow = 1 << 20
	defaultConnWindow   = 16 << 20
)

// firstWindow is what HTTP/2 lets a side send on a connection, and on a stream, before the other allows more.
const firstWindow = 65535

const (
	readBuffer  = 128 << 10
	writeBuffer = 8 << 10
)

const (
	maxToken  = 8 << 10   // so that headers fit a frame
	maxStream = 1<<31 - 1 // what HTTP/2 has numbers for
)

// checked is the configuration with its defaults.
func (c Config) checked() (Config, error) {
	c.StreamWindow = cmp.Or(c.StreamWindow, defaultStreamWindow)
	c.ConnWindow = cmp.Or(c.ConnWindow, defaultConnWindow)
	switch {
	case c.StreamWindow < 1 || c.StreamWindow > maxWindow:
		return c, fmt.Errorf("a window of %d bytes for each RPC: from 1 to %d are possible", c.StreamWindow, maxWindow)
	case c.ConnWindow < firstWindow || c.ConnWindow > maxWindow:
		return c, fmt.Errorf("a window of %d bytes: from %d to %d are possible", c.ConnWindow, firstWindow, maxWindow)
	case len(c.Token) > maxToken:
		return c, fmt.Errorf("a token of %d bytes: up to %d are possible", len(c.Token), maxToken)
	}
	return c, nil
}

// Dial opens a connection. Read must run for anything to come. ctx is for Dial only.
func Dial(ctx context.Context, addr string, config Config, h Handler) (*Conn, error) {
	config, err := config.checked()
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	nc, err := connect(ctx, addr, config.TLS)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	c := &Conn{
		nc: nc, handler: h, streamWindow: uint32(config.StreamWindow), connWindow: uint32(config.ConnWindow),
		w: bufio.NewWriterSize(nc, writeBuffer), headers: newHeaders(addr, config), nextID: 1, rpcs: map[uint32]*rpc{},
		out: outbound{window: firstWindow, streamWindow: firstWindow, frame: leastFrame},
	}
	c.fr = http2.NewFramer(c.w, nil)
	if err := c.greet(); err != nil {
		return nil, errors.Join(fmt.Errorf("greet: %w", err), nc.Close())
	}
	return c, nil
}

func connect(ctx context.Context, addr string, config *tls.Config) (net.Conn, error) {
	nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil || config == nil {
		return nc, err
	}
	config = config.Clone()
	config.NextProtos = []string{http2.NextProtoTLS}
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(addr)
	}
	tc := tls.Client(nc, config)
	err = tc.HandshakeContext(ctx)
	if err == nil && tc.ConnectionState().NegotiatedProtocol != http2.NextProtoTLS {
		err = errors.New("the server does not want HTTP/2")
	}
	if err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	return tc, nil
}

func (c *Conn) greet() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := io.WriteString(c.w, http2.ClientPreface); err != nil {
		return err
	}
	if err := c.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: c.streamWindow},
		http2.Setting{ID: http2.SettingEnablePush}); err != nil {
		return err
	}
	if more := c.connWindow - firstWindow; more > 0 {
		if err := c.fr.WriteWindowUpdate(0, more); err != nil {
			return err
		}
	}
	return c.w.Flush()
}

// Open starts an RPC on which any number of messages are sent, and returns its number. The first of them takes it
// along, or Flush.
func (c *Conn) Open(m Method) (rpc uint32, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, err := c.start(m)
	if err != nil {
		return 0, err
	}
	return r.id, nil
}

// start is Open under the lock.
func (c *Conn) start(m Method) (*rpc, error) {
	if c.nextID > maxStream {
		return nil, errors.New("start an RPC: no connection can have more of them")
	}
	headers, err := c.headers.of(m)
	if err != nil {
		return nil, fmt.Errorf("encode headers: %w", err)
	}
	var r *rpc
	if n := len(c.spare); n > 0 {
		r, c.spare = c.spare[n-1], c.spare[:n-1]
	} else {
		r = &rpc{}
	}
	r.id, r.window = c.nextID, c.out.streamWindow
	c.nextID += 2
	c.rpcs[r.id] = r
	if err := c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: r.id, BlockFragment: headers, EndHeaders: true}); err != nil {
		return nil, fmt.Errorf("start an RPC: %w", err)
	}
	return r, nil
}

// Send sends an encoded request, of which nothing is kept. On an RPC that has ended it does nothing: the handler is told, or has
// been.
func (c *Conn) Send(rpc uint32, request []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.post(rpc, request); err != nil {
		return err
	}
	return c.flush()
}

// Post is Send, but for when: as with Call.
func (c *Conn) Post(rpc uint32, request []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.post(rpc, request)
}

func (c *Conn) post(rpc uint32, request []byte) error {
	if r := c.rpcs[rpc]; r != nil {
		return c.write(r, request, false)
	}
	return nil
}

// Call starts an RPC with one encoded request, of which nothing is kept, and says with it that no more will come. It is sent when
// the reader has handled what has come so far, or with Flush, or together with others. The answer may come before Call returns.
func (c *Conn) Call(m Method, request []byte) (rpc uint32, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, err := c.start(m)
	if err != nil {
		return 0, err
	}
	return r.id, c.write(r, request, true)
}

// CloseSend says that no more will be sent on an RPC. On one that has ended it does nothing.
func (c *Conn) CloseSend(rpc uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.rpcs[rpc]
	if r == nil || r.closed {
		return nil
	}
	r.closed = true
	if len(r.waiting) > 0 {
		return nil
	}
	if err := c.fr.WriteData(rpc, true, nil); err != nil {
		return fmt.Errorf("end the requests of an RPC: %w", err)
	}
	return c.flush()
}

// Reset ends an RPC without waiting for the server. The handler is not told of its end, but may yet be given messages that had come
// already. On an RPC that has ended it does nothing.
func (c *Conn) Reset(rpc uint32) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.rpcs[rpc]
	if r == nil {
		return nil
	}
	c.forget(r)
	if err := c.fr.WriteRSTStream(rpc, http2.ErrCodeCancel); err != nil {
		return fmt.Errorf("reset an RPC: %w", err)
	}
	return c.flush()
}

// forget removes an RPC and what waits for it to be sent, under the lock.
func (c *Conn) forget(r *rpc) {
	delete(c.rpcs, r.id)
	c.out.drop(r)
}

// Flush sends what was not sent yet, as far as the server's windows allow.
func (c *Conn) Flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flush()
}

func (c *Conn) flush() error {
	if err := c.w.Flush(); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// Close ends the connection and everything on it, and does not wait for Read, which it ends.
func (c *Conn) Close() error {
	// TLS would say goodbye, and wait up to 5 s for the writer that may be stuck.
	_ = c.nc.SetDeadline(time.Now())
	return c.nc.Close()
}
