package tenants

import (
	"context"
	"strconv"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// refusal is why an RPC or a watch is not let in.
type refusal uint8

const (
	admitted refusal = iota
	overRate
	overInFlight
	overWatches
	overQuota
	forbidden
	refusals
)

// Refused counts what was not let in.
type Refused struct {
	Rate     uint64 `json:"rate"`      // more requests or bytes a second than the limit
	InFlight uint64 `json:"in_flight"` // more at a time
	Watches  uint64 `json:"watches"`
	Quota    uint64 `json:"quota"`  // it might take a namespace above its quota, or nobody knows
	Access   uint64 `json:"access"` // it is not for who asked
}

type refusalCounts [refusals]atomic.Uint64

func (c *refusalCounts) load() Refused {
	return Refused{
		Rate: c[overRate].Load(), InFlight: c[overInFlight].Load(), Watches: c[overWatches].Load(),
		Quota: c[overQuota].Load(), Access: c[forbidden].Load(),
	}
}

// pushback is the trailer that gRPC clients with a retry policy wait by, in milliseconds
// (https://github.com/grpc/proposal/blob/master/A6-client-retries.md).
const pushback = "grpc-retry-pushback-ms"

// tooMany is what a client is answered that is over a limit: etcd's error, with the time after which it may come again, as
// RetryInfo (https://google.aip.dev/194) and as gRPC's own trailer.
func tooMany(ctx context.Context, wait time.Duration) error {
	_ = grpc.SetTrailer(ctx, metadata.Pairs(pushback, strconv.FormatInt(int64(inMilliseconds(wait)), 10))) // it fails if nobody is left to be told
	return hinted(wait)
}

// hinted is that error without the trailer.
func hinted(wait time.Duration) error {
	s, err := status.Convert(rpctypes.ErrGRPCRequestTooManyRequests).WithDetails(
		&errdetails.RetryInfo{RetryDelay: durationpb.New(inMilliseconds(wait) * time.Millisecond)})
	if err != nil {
		return rpctypes.ErrGRPCRequestTooManyRequests // without the hint
	}
	return s.Err()
}

// inMilliseconds is how many there are in wait, rounded up.
func inMilliseconds(wait time.Duration) time.Duration {
	return (wait + time.Millisecond - 1) / time.Millisecond
}
