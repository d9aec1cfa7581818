package grpcapi

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// maxPingBatch bounds the pings of one message, which a Backend renews under one lock. Weir's proxies send far fewer.
const maxPingBatch = 256

// errPingBatch ends the stream of a client that is none of weir's proxies.
var errPingBatch = status.Errorf(codes.InvalidArgument, "weir: more than %d pings in one message", maxPingBatch)

// pingProtocol is how pings and pongs look on a client's stream.
type pingProtocol interface {
	// batches tells that a message has many. Then a ping may fail alone; else that ends the stream, as at etcd.
	batches() bool
	// decode appends the pings of a client's message to ids.
	decode(m wire.Raw, ids []int64) ([]int64, error)
	// encode appends a message with answers, which are one if it cannot have more.
	encode(dst []byte, answers []coalesce.Pong) []byte
}

// singlePings is LeaseKeepAlive.
type singlePings struct{}

func (singlePings) batches() bool { return false }

func (singlePings) decode(m wire.Raw, ids []int64) ([]int64, error) {
	id, err := wire.UnmarshalPing(m)
	if err != nil {
		return ids, errUndecodable
	}
	return append(ids, id), nil
}

func (singlePings) encode(dst []byte, answers []coalesce.Pong) []byte {
	p := &answers[0]
	return wire.AppendPong(dst, p.Header, wire.Pong{ID: p.ID, TTL: p.TTL})
}

// batchedPings is wire.PingsMethod.
type batchedPings struct{}

func (batchedPings) batches() bool { return true }

func (batchedPings) decode(m wire.Raw, ids []int64) ([]int64, error) {
	ids, err := wire.UnmarshalPings(m, ids)
	switch {
	case err != nil:
		return ids, errUndecodable
	case len(ids) > maxPingBatch:
		return ids, errPingBatch
	}
	return ids, nil
}

func (batchedPings) encode(dst []byte, answers []coalesce.Pong) []byte {
	var b wire.PongBatch
	b.Pongs = make([]wire.Pong, 0, len(answers))
	for _, p := range answers {
		if p.Err != nil {
			b.Failures = append(b.Failures, failedPing(p.ID, p.Err))
			continue
		}
		// The header that is stated must be true of each: it is from before the lease was looked at.
		if len(b.Pongs) == 0 || p.Header.Revision < b.Header.Revision {
			b.Header = p.Header
		}
		b.Pongs = append(b.Pongs, wire.Pong{ID: p.ID, TTL: p.TTL})
	}
	return b.Append(dst)
}

func failedPing(id int64, err error) wire.PingFailure {
	s := status.Convert(toStatus(err))
	return wire.PingFailure{ID: id, Text: s.Message(), Code: uint32(s.Code())}
}
