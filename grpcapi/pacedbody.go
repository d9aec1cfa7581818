package grpcapi

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"sync"

	"google.golang.org/grpc"
)

// pacedBody is the body of a gRPC request that came through net/http. It is read only as far as its handler receives.
//
// grpc reads such a body in a goroutine of its own, into a backlog without a bound: a handler that does not receive holds
// nothing back, as it does on grpc's own transport. So a client's stream is read one message for each that the handler
// asks for, and the header of the next, by which the end is noticed. What is not read fills the window of net/http's
// stream, and then the client waits. Of other RPCs two messages are read unasked: grpc refuses a second one.
//
// That is counted in messages and not in bytes, because of a compressed message or a decoded one RecvMsg does not tell
// how long it was, and because no message is too long for it to be read.
type pacedBody struct {
	body  io.ReadCloser
	limit int64 // of a message; grpc refuses a longer one when it sees its header, and ends the RPC

	// Of Read only.
	begun int   // messages whose header has been read
	rest  int64 // bytes of the last of them that have not been read
	err   error // the next Read returns it

	mu      sync.Mutex // guards the fields below
	changed sync.Cond  // of mu
	wanted  int        // messages that may be read
	closed  bool
}

// messageHeader is the size of what is before each message: a flag, and the message's length.
const messageHeader = 5

var errBodyClosed = errors.New("the request is over")

// pace returns r with a body of which so many messages are read unasked.
func pace(r *http.Request, limit, unasked int) *http.Request {
	b := &pacedBody{body: r.Body, limit: int64(limit), wanted: unasked}
	b.changed.L = &b.mu
	r = r.WithContext(context.WithValue(r.Context(), pacedBodyKey{}, b))
	r.Body = b
	return r
}

type pacedBodyKey struct{}

// singleRequests returns the methods of gs ("/etcdserverpb.KV/Put") whose requests are one message.
func singleRequests(gs *grpc.Server) map[string]bool {
	single := map[string]bool{}
	for service, info := range gs.GetServiceInfo() {
		for _, m := range info.Methods {
			if !m.IsClientStream {
				single["/"+service+"/"+m.Name] = true
			}
		}
	}
	return single
}

// Read waits until the message at hand has been asked for. It fills p as far as the message goes, because grpc keeps a
// buffer of p's size for each call, however little it was given.
func (b *pacedBody) Read(p []byte) (n int, err error) {
	if b.err != nil {
		return 0, b.err
	}
	if !b.await() {
		return 0, errBodyClosed
	}
	if b.rest > 0 {
		n, err = io.ReadFull(b.body, p[:min(int64(len(p)), b.rest)])
		b.rest -= int64(n)
	} else if n, err = io.ReadFull(b.body, p[:messageHeader]); err == nil {
		b.begun++
		b.rest = int64(binary.BigEndian.Uint32(p[1:]))
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF // grpc knows itself that it is in a message
	}
	if n > 0 {
		b.err, err = err, nil
	}
	return n, err
}

// await returns false when the body has been closed.
func (b *pacedBody) await() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for !b.closed && (b.begun > b.wanted || b.rest > b.limit) {
		b.changed.Wait()
	}
	return !b.closed
}

// Close ends a Read that waits.
func (b *pacedBody) Close() error {
	b.mu.Lock()
	b.closed = true
	b.changed.Broadcast()
	b.mu.Unlock()
	return b.body.Close()
}

// want lets the first n messages be read.
func (b *pacedBody) want(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wanted = max(b.wanted, n)
	b.changed.Broadcast()
}

// pacedStreams is a grpc.StreamServerInterceptor, by which a pacedBody learns how much is asked for.
func pacedStreams(srv any, gs grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if b, ok := gs.Context().Value(pacedBodyKey{}).(*pacedBody); ok {
		gs = &pacedStream{ServerStream: gs, body: b}
	}
	return handler(srv, gs)
}

type pacedStream struct {
	grpc.ServerStream
	body  *pacedBody
	asked int
}

func (s *pacedStream) RecvMsg(m any) error {
	s.asked++
	s.body.want(s.asked)
	return s.ServerStream.RecvMsg(m)
}
