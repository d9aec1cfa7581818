package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
)

// Answer answers what another member asks. Any goroutine may call it, and several may at once; ctx ends with the call.
type Answer func(ctx context.Context, request []byte) (answer []byte, err error)

// ErrNotKnown is what a call over Conn fails with where the other side has not applied yet that this one is a member. It has not
// been heard; it may be made again.
var ErrNotKnown = errors.New("this member is not known there yet")

// Method makes a method of a gRPC service by which members ask each other what raft has no message for. It is called over Conn, as a
// unary one. Nothing is read of a caller who is no member by what this one has been told with SetPeers; of others a request of at most
// 2 MiB, for as long as timing.request, and of one member maxStreams at a time, over all its connections.
//
// To gRPC's server it is a stream, since of a unary method gRPC reads the request before the handler learns who calls. A tap handle
// learns it as early, but cannot name the refusal in the trailer, and is not asked about what comes through net/http.
func (t *Transport) Method(name string, answer Answer) grpc.StreamDesc {
	return unary(name, func(stream grpc.ServerStream) ([]byte, error) {
		c, err := t.admit(stream.Context())
		if err != nil {
			return nil, err
		}
		end, err := t.beginRequest(c.from)
		if err != nil {
			return nil, err
		}
		defer end()
		request, err := t.readRequest(stream)
		if err != nil {
			return nil, err
		}
		return answer(stream.Context(), request)
	})
}

// unary makes a method that reads of its stream what it wants to, and answers once.
func unary(name string, handle func(grpc.ServerStream) ([]byte, error)) grpc.StreamDesc {
	return grpc.StreamDesc{StreamName: name, ClientStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
		answer, err := handle(stream)
		if err != nil {
			return explain(stream.Context(), err)
		}
		return stream.SendMsg(wire.Raw(answer))
	}}
}

// beginRequest has a request of a member counted until end is called. There are never too many of who has one connection for them,
// unless it has just been made anew: a request may be made again.
func (t *Transport) beginRequest(from uint64) (end func(), err error) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if t.isGuest(from) {
		return nil, &refusedError{unknownMember, fmt.Sprintf("%s is not known to %s yet", peerName(from), peerName(t.cfg.ID))}
	}
	requests := &t.peers[from].requests
	end = func() { requests.Add(-1) }
	if requests.Add(1) > maxStreams {
		end()
		return nil, status.Errorf(codes.Unavailable, "there are %d requests of %s already", maxStreams, peerName(from))
	}
	return end, nil
}

// readRequest reads the only message of a stream.
func (t *Transport) readRequest(stream grpc.ServerStream) ([]byte, error) {
	var request wire.Raw
	read := make(chan error, 1)
	go func() { read <- stream.RecvMsg(&request) }() // ends at the latest when the stream's handler returns
	timer := time.NewTimer(t.cfg.timing.request)
	defer timer.Stop()
	select {
	case err := <-read:
		if errors.Is(err, io.EOF) {
			err = status.Error(codes.InvalidArgument, "there is no request")
		}
		return request, err
	case <-timer.C:
		return nil, status.Errorf(codes.DeadlineExceeded, "the request has not come within %v", t.cfg.timing.request)
	}
}
