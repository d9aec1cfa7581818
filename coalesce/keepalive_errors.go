package coalesce

import (
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// mayPass tells whether what failed with err may succeed a moment later: upstream has lost its leader, is another one, or
// cannot be reached, or its users have changed underway. Everything else is said of who asks, or what for, and would be said
// again.
func mayPass(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument:
		return isText(err, rpctypes.ErrGRPCAuthOldRevision)
	case codes.NotFound, codes.PermissionDenied, codes.Unauthenticated, codes.ResourceExhausted, codes.Unimplemented:
		return false
	case codes.FailedPrecondition:
		return isText(err, rpctypes.ErrGRPCNotLeader)
	}
	return true
}

// isOfIdentity tells whether err is said of who asks, whatever for.
func isOfIdentity(err error) bool {
	switch status.Code(err) {
	case codes.Unauthenticated, codes.Unimplemented:
		return true
	}
	return isText(err, rpctypes.ErrGRPCUserEmpty)
}

// isOfUpstream tells whether err is said by a member, or of the way there, whoever asks and what for.
func isOfUpstream(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded, codes.InvalidArgument, codes.FailedPrecondition:
		return mayPass(err)
	}
	return false
}

func isUnavailable(err error) bool { return status.Code(err) == codes.Unavailable }

func isDenied(err error) bool { return status.Code(err) == codes.PermissionDenied }

func isText(err, etcd error) bool {
	return status.Convert(err).Message() == status.Convert(etcd).Message()
}
