package suite

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"

	"weir/loadtest/client"
)

// visitor is a connection of its own that waits for one thing at a time. Its methods are called one after the other.
type visitor struct {
	conn  *client.Conn
	heard chan heard    // the reader's, which must not wait: there is room for all that can come
	done  chan struct{} // closed when nothing comes any more; err is set before
	err   error
}

// heard is what came: a message, or the end of an RPC.
type heard struct {
	message []byte
	err     error // of the end of an RPC; nil is success
	end     bool
}

// dialVisitor connects the i-th client. close must be called, and takes note of nothing that goes wrong later: who waits for something
// is told.
func dialVisitor(ctx context.Context, s *System, i int) (*visitor, error) {
	v := &visitor{heard: make(chan heard, 2), done: make(chan struct{})}
	addr := s.Endpoint(i)
	conn, err := client.Dial(ctx, addr, s.Client, v)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	v.conn = conn
	go func() {
		defer close(v.done)
		v.err = fmt.Errorf("connection to %s: %w", addr, conn.Read(func() {}))
	}()
	return v, nil
}

// call asks, and waits for the answer.
func (v *visitor) call(ctx context.Context, m client.Method, request []byte) ([]byte, error) {
	if _, err := v.conn.Call(m, request); err != nil {
		return nil, err
	}
	if err := v.conn.Flush(); err != nil {
		return nil, err
	}
	answer, err := v.message(ctx)
	if err != nil {
		return nil, err
	}
	end, err := v.next(ctx)
	if err == nil && !end.end {
		err = errors.New("the server answered a call twice")
	}
	return answer, errors.Join(err, end.err)
}

// open starts an RPC with a request, and waits for the first answer.
func (v *visitor) open(ctx context.Context, m client.Method, request []byte) ([]byte, error) {
	rpc, err := v.conn.Open(m)
	if err != nil {
		return nil, err
	}
	if err := v.conn.Send(rpc, request); err != nil {
		return nil, err
	}
	return v.message(ctx)
}

// message is the message that is due.
func (v *visitor) message(ctx context.Context) ([]byte, error) {
	h, err := v.next(ctx)
	if err == nil && h.end {
		err = cmp.Or(h.err, errors.New("the server ended an RPC without an answer"))
	}
	return h.message, err
}

// next is what comes next.
func (v *visitor) next(ctx context.Context) (heard, error) {
	select {
	case h := <-v.heard:
		return h, nil
	case <-ctx.Done():
		return heard{}, context.Cause(ctx)
	case <-v.done:
	}
	select {
	case h := <-v.heard: // before the end of the connection
		return h, nil
	default:
		return heard{}, v.err
	}
}

// close ends the connection and what is on it.
func (v *visitor) close() error {
	err := v.conn.Close()
	<-v.done
	return err
}

// Message is given each message.
func (v *visitor) Message(_ uint32, m []byte) error { return v.hear(heard{message: bytes.Clone(m)}) }

// End is told that the server has ended an RPC.
func (v *visitor) End(_ uint32, err error) error { return v.hear(heard{end: true, err: err}) }

func (v *visitor) hear(h heard) error {
	select {
	case v.heard <- h:
		return nil
	default:
		return errors.New("the server sent more than it was asked for")
	}
}
