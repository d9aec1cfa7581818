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

// watchConn is one client's connection, with any number of Watch RPCs on it.
//
// It speaks HTTP/2 by itself and takes gRPC messages out of the frames where they lie, because the load shares the
// machine with the servers: grpc-go's client, which wakes a goroutine for each stream that a message is for, takes more
// of the processor than some of the servers, and what would be measured then is how well it gets through its own queue.
type watchConn struct {
	nc        net.Conn
	onMessage func([]byte) error // is called by the reader, and may keep nothing of what it is given

	mu      sync.Mutex // guards the fields below
	w       *bufio.Writer
	fr      *http2.Framer // only its Write functions; it writes to w
	headers []byte        // of every RPC, encoded
	nextID  uint32
	window  int // bytes that may still be sent

	// The reader's.
	streams map[uint32]*watchRPC
	unread  uint32 // bytes that came and were not added to the connection's window again
}

// watchRPC is the reader's state of one RPC.
type watchRPC struct {
	part   []byte // of a message whose end has not come
	unread uint32
}

// The windows are about those that grpc-go's client comes to on a busy connection, but fixed.
const (
	streamWindow = 1 << 20
	connWindow   = 16 << 20
)

// serverWindow is what HTTP/2 lets a client send on a connection before the server allows more. This client never asks
// whether it does.
const serverWindow = 65535

const readBuffer = 128 << 10

// dialWatch opens a connection and returns when the server has greeted. Plaintext if config is nil. read must run for
// anything to come.
func dialWatch(ctx context.Context, addr string, config *tls.Config, onMessage func([]byte) error) (*watchConn, error) {
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
	c := &watchConn{nc: nc, onMessage: onMessage, w: bufio.NewWriter(nc), nextID: 1, window: serverWindow, streams: map[uint32]*watchRPC{}}
	c.fr = http2.NewFramer(c.w, nil)
	var buf bytes.Buffer
	// Every RPC's headers are the same bytes: the encoder is given no table that would change.
	enc := hpack.NewEncoder(&buf)
	enc.SetMaxDynamicTableSize(0)
	for _, h := range [][2]string{
		{":method", "POST"}, {":scheme", scheme}, {":path", "/etcdserverpb.Watch/Watch"}, {":authority", addr},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		if err := enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
			return nil, errors.Join(fmt.Errorf("encode headers: %w", err), nc.Close())
		}
	}
	c.headers = buf.Bytes()
	if err := c.greet(); err != nil {
		return nil, errors.Join(fmt.Errorf("greet: %w", err), nc.Close())
	}
	return c, nil
}

func (c *watchConn) greet() error {
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
func (c *watchConn) open() (rpc uint32, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rpc = c.nextID
	c.nextID += 2
	if err := c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: rpc, BlockFragment: c.headers, EndHeaders: true}); err != nil {
		return 0, fmt.Errorf("start an RPC: %w", err)
	}
	return rpc, nil // the first request flushes
}

// send sends an encoded WatchRequest.
func (c *watchConn) send(rpc uint32, request []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	framed := append(binary.BigEndian.AppendUint32(make([]byte, 1, grpcPrefix+len(request)), uint32(len(request))), request...)
	if c.window -= len(framed); c.window < 0 {
		return fmt.Errorf("requests of more than %d bytes on a connection: use more connections", serverWindow)
	}
	if err := c.fr.WriteData(rpc, false, framed); err != nil {
		return fmt.Errorf("send a request: %w", err)
	}
	if err := c.w.Flush(); err != nil {
		return fmt.Errorf("send a request: %w", err)
	}
	return nil
}

// grpcPrefix is one byte of flags and four of length, before every message.
const grpcPrefix = 5

// read handles what comes until the connection is closed, which is the error then, or something is wrong. started is
// called once, when the server's greeting came.
func (c *watchConn) read(started func()) error {
	fr := http2.NewFramer(nil, bufio.NewReaderSize(c.nc, readBuffer))
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
				started()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				err = c.answer(func(fr *http2.Framer) error { return fr.WritePing(true, f.Data) })
			}
		case *http2.RSTStreamFrame:
			err = fmt.Errorf("the server ended an RPC with %v", f.ErrCode)
		case *http2.GoAwayFrame:
			err = fmt.Errorf("the server ends the connection with %v", f.ErrCode)
		}
		if err != nil {
			return err
		}
	}
}

// header of an RPC. The watches are to go on, so one that ends it is an error.
func (c *watchConn) header(f *http2.MetaHeadersFrame) error {
	if f.StreamEnded() {
		return fmt.Errorf("the server ended an RPC: %v", f.Fields)
	}
	c.streams[f.StreamID] = &watchRPC{}
	return nil
}

func (c *watchConn) data(f *http2.DataFrame) error {
	rpc := c.streams[f.StreamID]
	if rpc == nil || f.StreamEnded() {
		return errors.New("the server sent data without headers, or ended an RPC with data")
	}
	if err := rpc.add(f.Data(), c.onMessage); err != nil {
		return err
	}
	n := f.Length
	c.unread += n
	rpc.unread += n
	if rpc.unread >= streamWindow/2 {
		n := rpc.unread
		rpc.unread = 0
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
func (c *watchConn) answer(write func(*http2.Framer) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := write(c.fr); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if err := c.w.Flush(); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// add takes the data that came next, and hands on each message that is whole.
func (r *watchRPC) add(data []byte, onMessage func([]byte) error) error {
	if len(r.part) > 0 {
		r.part = append(r.part, data...)
		data = r.part
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
	if len(r.part) == 0 || len(rest) < len(data) {
		r.part = append(r.part[:0], rest...)
	}
	return nil
}

// close ends the connection and everything on it.
func (c *watchConn) close() error {
	// TLS would say goodbye, and wait up to 5 s for the writer that may be stuck.
	_ = c.nc.SetDeadline(time.Now())
	return c.nc.Close()
}
