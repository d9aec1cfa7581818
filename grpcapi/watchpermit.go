package grpcapi

import (
	"context"
	"slices"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// WatchPermits tells who may watch what: at first by what the request shows, and as long as the watch is open by who was found
// to have sent it. A watch so outlives its token, and not the right to its range. (At etcd it outlives both.)
//
// Backend.Hub().Recheck is to be called when a right to read has been taken away, or authentication has been turned on, before
// anything is published that is behind the change in the log. All open watches are looked at then. To look at each event
// instead was rejected: users and roles change rarely.
type WatchPermits interface {
	// PermitWatch refuses who may not read a range, with the error that a watch over it is refused for, and else returns
	// the user: "" is nobody, while authentication is off. Requests of one stream are always of the same user, or nobody's.
	PermitWatch(ctx context.Context, key, end []byte) (user string, err error)
	// PermitUser refuses a user who may not read a range now. For nobody the range does not matter. It does not wait.
	PermitUser(user string, key, end []byte) error
}

// permit tells who asks for a watch, or why it may not be.
func (s *watchStream) permit(r *wire.WatchCreate) (user, reason string) {
	if s.service.cfg.permits == nil {
		return "", ""
	}
	user, err := s.service.cfg.permits.PermitWatch(s.grpc.Context(), r.Key, r.End)
	switch {
	case isUnavailable(err):
		s.end(err)
		return "", rpctypes.ErrGRPCWatchCanceled.Error() // which nobody is told any more
	case err != nil:
		return "", refusal(err)
	}
	return user, ""
}

// isUnavailable tells whether nobody can say now what somebody may do: they are to come again.
func isUnavailable(err error) bool {
	if err == nil {
		return false
	}
	switch status.Code(toStatus(err)) {
	case codes.Unavailable, codes.Canceled, codes.DeadlineExceeded:
		return true
	}
	return false
}

// refusal is the reason to cancel a watch that is not permitted because of err.
func refusal(err error) string {
	err = toStatus(err)
	switch status.Code(err) {
	case codes.Unauthenticated, codes.InvalidArgument: // no valid token, or an old one; no user
		return err.Error()
	}
	return rpctypes.ErrGRPCPermissionDenied.Error()
}

// rangeOf is what Recheck has to know of a watch that somebody has. It does not keep the request.
func rangeOf(r *wire.WatchCreate) *coalesce.Range {
	both := slices.Concat(r.Key, r.End)
	n := len(r.Key)
	return &coalesce.Range{Key: both[:n:n], End: both[n:]}
}

// Recheck is part of coalesce.Sink. Its caller, who applies the log, does not wait for what is sent.
func (s *watchStream) Recheck() {
	if s.service.cfg.permits == nil {
		return
	}
	h := s.headerNow()
	s.mu.Lock()
	defer s.mu.Unlock()
	var revoked []*coalesce.Watcher
	for w := range s.watches.all() {
		if s.endIfRevoked(w, h) {
			revoked = append(revoked, w)
		}
	}
	if len(revoked) == 0 {
		return
	}
	resume := !s.sending
	s.sending = true
	s.service.tasks.Go(func() { // begun while the stream is open, so before Stop begins to wait
		if resume {
			s.resume()
		}
		for _, w := range revoked {
			s.hub.Cancel(w) // after its cancellation is on its way, see cancel
		}
	})
}

// endIfRevoked takes a watch away that has been announced and that the client may no longer have, and puts the cancellation,
// which states h, into the queue. It tells whether it has; then its caller, who holds s.mu, sends, and cancels the watch at the
// hub. A watch that has not been announced is looked at when it is.
func (s *watchStream) endIfRevoked(w *coalesce.Watcher, h wire.Header) bool {
	if s.service.cfg.permits == nil || !w.Open {
		return false
	}
	var (
		user string
		r    coalesce.Range
	)
	if w.Range != nil {
		user, r = s.user, *w.Range
	}
	err := s.service.cfg.permits.PermitUser(user, r.Key, r.End)
	switch {
	case err == nil:
		return false
	case isUnavailable(err):
		s.endNow(err)
		return false
	}
	s.forget(w.ID)
	o := s.response(h, w.ID)
	o.head = wire.AppendWatchCanceled(o.head, 0, refusal(err))
	s.enqueue(o.add(nil, 0))
	return true
}
