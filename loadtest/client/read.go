package client

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/net/http2"
	"google.golang.org/grpc/codes"
)

// Read handles what comes until the connection is closed, which is the error then, or something is wrong. greeted is
// called when the server's greeting came. Only one goroutine may call it, once. RPCs that have not ended then are not told.
func (c *Conn) Read(greeted func()) error {
	r := bufio.NewReaderSize(c.nc, readBuffer)
	fr := http2.NewFramer(nil, r)
	fr.SetReuseFrames()
	fields := newFields()
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		switch f := f.(type) {
		case *http2.DataFrame:
			err = c.data(f)
		case *http2.HeadersFrame:
			if err = fields.read(fr, f); err == nil {
				err = c.header(f, fields)
			}
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = c.allow(f)
				greeted()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				err = c.answer(func(fr *http2.Framer) error { return fr.WritePing(true, f.Data) })
			}
		case *http2.WindowUpdateFrame:
			err = c.allowMore(f)
		case *http2.RSTStreamFrame:
			if r := c.rpc(f.StreamID); r != nil {
				err = c.end(r, resetStatus(f.ErrCode), true)
			}
		case *http2.GoAwayFrame:
			err = fmt.Errorf("the server ends the connection with %v %q", f.ErrCode, f.DebugData())
		}
		if err == nil && r.Buffered() == 0 {
			err = c.Flush()
		}
		if err != nil {
			return err
		}
	}
}

// rpc is nil if the RPC has ended.
func (c *Conn) rpc(id uint32) *rpc {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rpcs[id]
}

// header of an RPC, or its trailer.
func (c *Conn) header(f *http2.HeadersFrame, fields *fields) error {
	r := c.rpc(f.StreamID)
	switch {
	case r == nil: // it was reset here
		return nil
	case f.StreamEnded():
		err := fields.status()
		if err == nil && len(r.part) > 0 {
			return errors.New("the server ended an RPC within a message")
		}
		return c.end(r, err, false)
	case r.answered:
		return errors.New("the server sent headers twice")
	case fields.http != "200":
		return c.end(r, fields.httpStatus(), false)
	}
	r.answered = true
	return nil
}

func (c *Conn) data(f *http2.DataFrame) error {
	if r := c.rpc(f.StreamID); r != nil {
		if err := c.dataOf(r, f); err != nil {
			return err
		}
	}
	if c.unread += f.Length; c.unread >= c.connWindow/2 {
		n := c.unread
		c.unread = 0
		return c.answer(func(fr *http2.Framer) error { return fr.WriteWindowUpdate(0, n) })
	}
	return nil
}

func (c *Conn) dataOf(r *rpc, f *http2.DataFrame) error {
	if !r.answered {
		return errors.New("the server sent data without headers")
	}
	if err := r.add(f.Data(), func(m []byte) error { return c.handler.Message(r.id, m) }); err != nil {
		return err
	}
	if f.StreamEnded() {
		return c.end(r, &StatusError{Code: codes.Internal, Message: "its messages end without a status"}, false)
	}
	if r.unread += f.Length; r.unread < max(1, c.streamWindow/2) {
		return nil
	}
	n := r.unread
	r.unread = 0
	return c.answer(func(fr *http2.Framer) error {
		if c.rpcs[r.id] != r { // it was reset here
			return nil
		}
		return fr.WriteWindowUpdate(r.id, n)
	})
}

// end removes an RPC that the server has ended, and tells the handler, unless it was reset here. After a reset by the server
// nothing may be sent on its stream.
func (c *Conn) end(r *rpc, why error, reset bool) error {
	id, err := c.remove(r, reset)
	if err != nil || id == 0 {
		return err
	}
	return c.handler.End(id, why)
}

// remove returns the number of the RPC, 0 if it was reset.
func (c *Conn) remove(r *rpc, reset bool) (uint32, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := r.id
	if c.rpcs[id] != r {
		return 0, nil
	}
	open := !reset && (!r.closed || len(r.waiting) > 0)
	c.forget(r)
	*r = rpc{part: r.part[:0]}
	c.spare = append(c.spare, r)
	if open {
		// The server need not keep the stream for requests that will not come. The next flush takes it along.
		if err := c.fr.WriteRSTStream(id, http2.ErrCodeNo); err != nil {
			return 0, fmt.Errorf("write: %w", err)
		}
	}
	return id, nil
}

// answer has a frame written under the lock.
func (c *Conn) answer(write func(*http2.Framer) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := write(c.fr); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return c.flush()
}

// add takes the data that came next, and hands on each message that is whole.
func (r *rpc) add(data []byte, onMessage func([]byte) error) error {
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
