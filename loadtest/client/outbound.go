package client

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/net/http2"
)

// outbound is what the server lets be sent on a connection, and what waits for it. It is guarded by the Conn's lock.
//
// An RPC waits as soon as its message does not fit, and then its later ones wait too. If the connection's window is not used up,
// all who wait do so for windows of their own, so that a message which fits does not overtake anybody.
type outbound struct {
	window       int    // bytes that may still be sent on the connection
	streamWindow int    // bytes that may be sent on a new RPC
	frame        int    // bytes that a frame may have
	waiting      []*rpc // those of whom something waits, who began to first
	size         int    // bytes that wait
	framed       []byte // a message with its prefix, for the time of one write
}

const (
	maxWindow  = 1<<31 - 1
	leastFrame = 16 << 10 // what every server takes
	maxWaiting = 64 << 20 // of one connection, in bytes
)

// grpcPrefix is one byte of flags and four of length, before every message.
const grpcPrefix = 5

// write writes an encoded request as far as windows allow, and has the rest wait. It is called under the lock.
func (c *Conn) write(r *rpc, request []byte, last bool) error {
	if r.closed {
		return errors.New("send a request: none was to follow")
	}
	r.closed = last
	o := &c.out
	n := grpcPrefix + len(request)
	if len(r.waiting) == 0 && n <= min(r.window, o.window, o.frame) {
		o.framed = appendFramed(o.framed[:0], request)
		return c.writeData(r, o.framed, last)
	}
	if o.size += n; o.size > maxWaiting {
		return fmt.Errorf("send a request: more than %d bytes wait for the server", maxWaiting)
	}
	if len(r.waiting) == 0 {
		o.waiting = append(o.waiting, r)
	}
	r.waiting = appendFramed(slices.Grow(r.waiting, n), request)
	return c.writeWaiting()
}

func appendFramed(to, message []byte) []byte {
	to = append(to, 0) // not compressed
	to = binary.BigEndian.AppendUint32(to, uint32(len(message)))
	return append(to, message...)
}

func (c *Conn) writeData(r *rpc, data []byte, last bool) error {
	r.window -= len(data)
	c.out.window -= len(data)
	if err := c.fr.WriteData(r.id, last, data); err != nil {
		return fmt.Errorf("send a request: %w", err)
	}
	return nil
}

// writeWaiting writes what waited and fits the windows now, under the lock.
func (c *Conn) writeWaiting() error {
	o := &c.out
	for _, r := range o.waiting {
		for len(r.waiting) > 0 {
			n := min(len(r.waiting), r.window, o.window, o.frame)
			if n <= 0 {
				break
			}
			data := r.waiting[:n]
			r.waiting = r.waiting[n:]
			o.size -= n
			if err := c.writeData(r, data, r.closed && len(r.waiting) == 0); err != nil {
				return err
			}
		}
		if o.window <= 0 {
			break
		}
	}
	o.waiting = slices.DeleteFunc(o.waiting, func(r *rpc) bool {
		sent := len(r.waiting) == 0
		if sent {
			r.waiting = nil // not what is behind it
		}
		return sent
	})
	return nil
}

// drop removes what waits of an RPC.
func (o *outbound) drop(r *rpc) {
	if len(r.waiting) == 0 {
		return
	}
	o.size -= len(r.waiting)
	r.waiting = nil
	o.waiting = slices.DeleteFunc(o.waiting, func(other *rpc) bool { return other == r })
}

// allow takes the server's settings.
func (c *Conn) allow(f *http2.SettingsFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
		more := int(v) - c.out.streamWindow
		c.out.streamWindow = int(v)
		for _, r := range c.rpcs {
			r.window += more
		}
	}
	if v, ok := f.Value(http2.SettingMaxFrameSize); ok {
		c.out.frame = int(v)
	}
	if v, ok := f.Value(http2.SettingHeaderTableSize); ok {
		c.headers.limit(v)
	}
	if err := c.writeWaiting(); err != nil {
		return err
	}
	if err := c.fr.WriteSettingsAck(); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return c.flush()
}

// allowMore takes a server's word that it has room for more.
func (c *Conn) allowMore(f *http2.WindowUpdateFrame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.StreamID == 0 {
		c.out.window += int(f.Increment)
	} else if r := c.rpcs[f.StreamID]; r != nil {
		r.window += int(f.Increment)
	}
	if len(c.out.waiting) == 0 {
		return nil
	}
	return c.writeWaiting() // the reader flushes
}
