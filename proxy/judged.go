package proxy

import (
	"context"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
	"weir/proxy/access"
)

// judgedStream is the stream of a client whom upstream cannot know, because he shows a certificate or nothing: upstream may take
// him for the proxy. What he asks is judged here, message by message. The first is received before upstream is called, because
// by it is decided in whose name.
type judgedStream struct {
	grpc.ServerStream
	guard  *access.Guard
	method string
	asked  context.Context // of who asks
	ctx    context.Context // for upstream
	at     time.Time       // when first was judged
	stay   *access.Stay    // what is asked for goes on
	first  wire.Raw        // to be received; then nil. Only the receiver touches it
	begun  bool            // there was a first
	ended  error           // what came instead of a first message
}

// errNoLonger ends a stream that was opened in the proxy's own name, when the proxy may not vouch for its client any more.
var errNoLonger = status.Error(codes.Unavailable, "weir: users or roles have changed upstream, connect again")

func (p *Proxy) judge(ctx context.Context, method string, client grpc.ServerStream) (*judgedStream, error) {
	s := &judgedStream{ServerStream: client, guard: p.guard, method: method, asked: ctx, ctx: ctx}
	switch err := client.RecvMsg(&s.first); {
	case errors.Is(err, io.EOF):
		s.ended = err
		return s, nil
	case err != nil:
		return nil, err
	}
	s.begun = true
	if err := s.judgeFirst(); err != nil {
		s.end()
		return nil, err
	}
	return s, nil
}

func (s *judgedStream) judgeFirst() (err error) {
	s.end()
	if s.ctx, err = s.guard.Judge(s.asked, s.method, s.first); err != nil {
		return err
	}
	s.at = time.Now()
	if s.stay, err = s.guard.Stay(s.asked, s.ctx, s.method); err != nil {
		return err
	}
	return s.stay.Ask(s.first)
}

// fresh judges the first message anew if that was some time ago. It must not be called any more once messages are received.
func (s *judgedStream) fresh() (ctx context.Context, err error) {
	if s.begun && time.Since(s.at) > judgedFor {
		err = s.judgeFirst()
	}
	return s.ctx, err
}

// end says that the stream is over. It may be called again, and while a message is being received.
func (s *judgedStream) end() { s.stay.End() }

// RecvMsg is part of grpc.ServerStream.
func (s *judgedStream) RecvMsg(m any) error {
	raw, ok := m.(*wire.Raw)
	switch {
	case s.ended != nil:
		return s.ended
	case !ok:
		return s.ServerStream.RecvMsg(m)
	case s.begun:
		s.begun = false
		*raw, s.first = s.first, nil
		return nil
	}
	if err := s.ServerStream.RecvMsg(raw); err != nil {
		return err
	}
	judged, err := s.guard.Judge(s.asked, s.method, *raw)
	switch {
	case err != nil:
		return err
	case s.guard.Lends(s.ctx) && !s.guard.Lends(judged):
		return errNoLonger
	}
	return s.stay.Ask(*raw)
}

// SendMsg is part of grpc.ServerStream.
func (s *judgedStream) SendMsg(m any) error {
	if err := s.stay.Check(); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}

// stayingStream is the stream of a client whom upstream judges, which may have to end when users or roles have changed.
type stayingStream struct {
	grpc.ServerStream
	stay *access.Stay
}

// SendMsg is part of grpc.ServerStream.
func (s *stayingStream) SendMsg(m any) error {
	if err := s.stay.Check(); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}
