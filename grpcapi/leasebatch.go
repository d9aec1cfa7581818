package grpcapi

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"weir/coalesce"
)

// keepAliveBatches serves a stream on which a proxy of weir's pings leases, many with each message (wire.PingsMethod).
//
// What a message costs is then hardly more for a hundred pings than for one. All of its leases that can be renewed at once
// are, and are answered in one message. The others are late: a lease that has expired waits for its revocation, one that is
// not known may have been granted a moment ago. They are answered later, so that nobody waits for them but who sent them.
func (l lease) keepAliveBatches(gs grpc.ServerStream) error {
	return newPingStream(gs, batchedPings{}, &renewals{backend: l.b}, l.pinging, nil).serve()
}

// renewals has the pings of one stream renew leases of a Backend.
type renewals struct {
	backend Backend
	ttls    []int64         // of ping
	pongs   []coalesce.Pong // likewise
}

// ping is part of pinger.
func (r *renewals) ping(s *pingStream, ids []int64, stamp pingStamp) {
	h := r.backend.Header() // before the pings; see keepAlive
	r.ttls = append(emptied(r.ttls), ids...)
	r.backend.LeaseRenewNow(s.grpc.Context(), ids, r.ttls)
	r.pongs = emptied(r.pongs)
	for i, ttl := range r.ttls {
		if ttl > 0 {
			r.pongs = append(r.pongs, coalesce.Pong{ID: ids[i], TTL: ttl, Header: h})
		} else {
			s.waiting.add(waitingPing{ids[i], stamp})
		}
	}
	s.answer(r.pongs...)
}

// settle is part of pinger.
func (r *renewals) settle(ctx context.Context, s *pingStream, p waitingPing) error {
	h := r.backend.Header()
	ttl, err := r.backend.LeaseRenew(ctx, p.id)
	if isLeaseNotFound(err) {
		ttl, err = 0, nil
	}
	if err == nil {
		s.answer(coalesce.Pong{ID: p.id, TTL: ttl, Header: h})
	}
	return err
}

// patience is part of pinger.
func (r *renewals) patience() time.Duration { return coalesce.PingLife }
