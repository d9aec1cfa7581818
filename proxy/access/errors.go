package access

import (
	"context"
	"errors"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var (
	// errUnjudged ends a watch of which nobody can say any more whether it may go on.
	errUnjudged = status.Error(codes.Unavailable, "weir: users or roles have changed upstream, connect again")
	// errNoVerdict is for an upstream that answers what cannot be answered, or not in time.
	errNoVerdict = status.Error(codes.Unavailable, "weir: upstream does not tell who may read")
	// errUnsettled is for those who wait while users or roles change all the time, or upstream takes too long to tell.
	errUnsettled = status.Error(codes.Unavailable, "weir: upstream does not tell in time what users may do")
	// errLeases is for who uses leases of which upstream does not tell in time what keys they have.
	errLeases = status.Error(codes.Unavailable, "weir: upstream does not tell in time which keys the leases have")
	// errTooMany is for those who come while too many others are asked about.
	errTooMany = status.Error(codes.Unavailable, "weir: upstream is asked about too many users at a time")
	// errClosed is for those who come while the proxy ends.
	errClosed = status.Error(codes.Unavailable, "weir: the proxy is shutting down")
	// errMalformed is what etcd answers when a message is not the protobuf it should be.
	errMalformed = status.Error(codes.Internal,
		"grpc: failed to unmarshal the received message: proto: cannot parse invalid wire-format data")
)

// says tells whether err came from upstream as one of these errors of etcd's, as a status or by the whole of its text.
func says(err error, etcd ...error) bool {
	if err == nil {
		return false
	}
	text := textOf(err)
	for _, e := range etcd {
		if text == status.Convert(e).Message() || text == e.Error() {
			return true
		}
	}
	return false
}

// textOf is what upstream has said, whatever was written around it.
func textOf(err error) string {
	var s interface{ GRPCStatus() *status.Status }
	if errors.As(err, &s) {
		return s.GRPCStatus().Message()
	}
	return err.Error()
}

// isRefusal tells whether somebody is refused for who they are.
func isRefusal(err error) bool {
	return says(err, rpctypes.ErrGRPCUserEmpty, rpctypes.ErrGRPCPermissionDenied, rpctypes.ErrGRPCUserNotFound) || isTokenRefused(err)
}

// isTokenRefused tells whether a token, of whomever, is not good any more.
func isTokenRefused(err error) bool {
	return says(err, rpctypes.ErrGRPCInvalidAuthToken, rpctypes.ErrGRPCAuthOldRevision)
}

// failure is what a client is told of an errand of the proxy's own that has failed: to come again.
type failure struct {
	doing string
	cause error // upstream's
}

// Error is part of error.
func (f *failure) Error() string {
	return "weir: " + f.doing + ": " + textOf(f.cause)
}

// Unwrap lets errors.Is and errors.As see the cause.
func (f *failure) Unwrap() error { return f.cause }

// GRPCStatus is what a client gets.
func (f *failure) GRPCStatus() *status.Status { return status.New(codes.Unavailable, f.Error()) }

// toUnavailable is err for somebody of whom upstream did not say whether something is permitted.
func toUnavailable(doing string, err error) error {
	for _, ctx := range []error{context.Canceled, context.DeadlineExceeded} {
		if errors.Is(err, ctx) {
			return status.FromContextError(ctx).Err()
		}
	}
	if status.Code(err) == codes.Unavailable {
		return err
	}
	return &failure{doing, err}
}
