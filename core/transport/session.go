package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
)

// session is one stream to a peer that it has accepted, on a connection of its own to one of its URLs. When its context ends it
// is over, and the context's cause says why.
type session struct {
	peer   *peer
	since  time.Time
	ctx    context.Context
	cancel context.CancelCauseFunc
	conn   *grpc.ClientConn
	socket socket
	stream grpc.ClientStream
}

// errNotWeir is about a server that speaks, but not as a weir member does: often etcd, whose ids, flags and ports look alike.
var errNotWeir = errors.New("what answers there is not a weir member")

// open connects to a URL and waits until the peer has accepted the call, whose metadata may be more than the usual. The session
// must be closed.
func (p *peer) open(ctx context.Context, url string, desc *grpc.StreamDesc, window int32, patience time.Duration, md ...string) (*session, error) {
	s := &session{peer: p}
	var err error
	s.conn, err = p.t.newConn(window, func(ctx context.Context) (net.Conn, error) {
		conn, err := p.dial(ctx, url)
		if err != nil {
			return nil, err
		}
		return conn, s.socket.set(conn)
	})
	if err != nil {
		return nil, err
	}
	s.ctx, s.cancel = context.WithCancelCause(p.t.outgoing(ctx, p.id, md...))
	timer := time.AfterFunc(p.t.cfg.timing.connect+patience, func() {
		s.cancel(errors.New("it was connected to, but does not answer"))
	})
	defer timer.Stop()
	if err := s.start(desc); err != nil {
		s.close(err)
		return nil, err
	}
	return s, nil
}

func (s *session) start(desc *grpc.StreamDesc) error {
	var err error
	s.stream, err = s.conn.NewStream(s.ctx, desc, serviceName+desc.StreamName)
	if err != nil {
		return s.explain(err, nil)
	}
	header, err := s.stream.Header()
	if err == nil && header == nil { // it has ended
		err = s.stream.RecvMsg(new(wire.Raw))
	}
	if err != nil {
		return s.explain(err, s.stream.Trailer())
	}
	if one(header, keyProtocol) == "" {
		return errNotWeir
	}
	s.since = time.Now()
	return nil
}

// close ends the session and frees what it has.
func (s *session) close(cause error) {
	s.cancel(cause)
	s.socket.close()
	s.conn.Close()
}

// explain turns the error of a call into one that says why the session is over.
func (s *session) explain(err error, trailer metadata.MD) error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	if errors.Is(err, io.EOF) {
		return errors.New("it has closed the stream")
	}
	st := status.Convert(err)
	if name := one(trailer, keyRefusal); name != "" {
		return &refusedError{refusal(name), st.Message()}
	}
	if s.since.IsZero() && isForeign(st) {
		return fmt.Errorf("%w: %s", errNotWeir, st.Message())
	}
	return errors.New(st.Message())
}

// isForeign tells from a call that was not accepted whether it was to something else than a weir member. It may have no such
// service, or speak HTTP but not gRPC, or HTTP/1 (so says golang.org/x/net/http2), or make no sense.
func isForeign(st *status.Status) bool {
	switch st.Code() {
	case codes.Unimplemented, codes.Unknown, codes.Internal:
		return true
	case codes.Unavailable:
		return strings.Contains(st.Message(), "looked like an HTTP/1.1 header")
	}
	return false
}

// pings asks for an answer time and again, and ends the session when none comes. It returns when the session is over.
//
// It is a call of its own and not gRPC's keepalive, which gives no round-trip times and allows no interval below 10 s.
func (s *session) pings(every, silence time.Duration, answered func(rtt time.Duration)) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		if err := s.ping(silence, answered); err != nil {
			s.cancel(err)
			return
		}
		select {
		case <-ticker.C:
		case <-s.ctx.Done():
			return
		}
	}
}

// silentError is the end of a session on which nobody answers any more.
type silentError time.Duration

func (e silentError) Error() string { return fmt.Sprintf("no answer for %v", time.Duration(e)) }

func (s *session) ping(silence time.Duration, answered func(time.Duration)) error {
	ctx, cancel := context.WithTimeout(s.ctx, silence)
	defer cancel()
	var trailer metadata.MD
	start := time.Now()
	err := s.conn.Invoke(ctx, serviceName+"Ping", wire.Raw(nil), new(wire.Raw), grpc.Trailer(&trailer))
	switch {
	case err == nil:
		answered(time.Since(start))
		return nil
	case ctx.Err() != nil && s.ctx.Err() == nil:
		return silentError(silence)
	}
	return s.explain(err, trailer)
}
