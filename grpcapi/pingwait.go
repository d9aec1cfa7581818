package grpcapi

import (
	"context"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/coalesce"
)

// waitingPings are the pings of one stream that have to wait for somebody: for a verdict, for the revocation of a lease. A few
// goroutines take care of them, so that neither the stream nor the pings behind waits for one of them. No lease is renewed for a
// ping that arrived more than coalesce.PingLife ago.
//
// They are bounded by what a stream may have open, see maxOpenPings.
type waitingPings struct {
	stream *pingStream
	ctx    context.Context // of the stream: when it has ended nobody wants to know
	tasks  *sync.WaitGroup // of the goroutines, which end soon after ctx

	mu      sync.Mutex // guards the fields below
	queue   []waitingPing
	workers int
}

// waitingPing is a ping without an answer.
type waitingPing struct {
	id int64
	pingStamp
}

// maxPingWaiters bounds the goroutines of one stream: how many pings ask upstream for something at the same time.
const maxPingWaiters = 32

func (w *waitingPings) add(p waitingPing) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue = append(w.queue, p)
	if w.workers < maxPingWaiters {
		w.workers++
		w.tasks.Go(w.work)
	}
}

// work takes care of pings, one after another, until there are none.
func (w *waitingPings) work() {
	for p, ok := w.next(); ok; p, ok = w.next() {
		if err := w.settle(p); err != nil {
			w.stream.answer(coalesce.Pong{ID: p.id, Number: p.number, Err: err})
		}
	}
}

func (w *waitingPings) settle(p waitingPing) error {
	if time.Since(p.arrived) >= coalesce.PingLife {
		return rpctypes.ErrGRPCTimeout
	}
	ctx, cancel := context.WithDeadline(w.ctx, p.arrived.Add(w.stream.pinger.patience()))
	defer cancel()
	if err := w.stream.pinger.settle(ctx, w.stream, p); err != nil {
		return tooLate(ctx, err)
	}
	return nil
}

func (w *waitingPings) next() (p waitingPing, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 || w.ctx.Err() != nil {
		w.queue = nil
		w.workers--
		return p, false
	}
	p, w.queue = w.queue[0], w.queue[1:]
	return p, true
}

// tooLate is err, or etcd's for what has taken too long, if err says no more than that ctx has ended.
func tooLate(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	switch status.Code(toStatus(err)) {
	case codes.Canceled, codes.DeadlineExceeded, codes.Unavailable, codes.Unknown:
		return rpctypes.ErrGRPCTimeout
	}
	return err
}
