package proxy

import (
	"context"

	"google.golang.org/grpc"

	"weir/proxy/fair"
	"weir/proxy/tenants"
)

// turnStream is a RangeStream from upstream, received from in turn: it holds a slot of the pool from when upstream is to make an
// answer until that is there. While its client takes the time to receive it, it holds none, and upstream makes no more than
// gRPC's windows have room for. Other streams are open for long and mostly wait, and take no turns.
//
// One goroutine at a time may use it.
type turnStream struct {
	grpc.ClientStream
	pool   *fair.Pool[tenants.Identity]
	ctx    context.Context // of the stream
	who    tenants.Identity
	weight int
	slot   fair.Slot[tenants.Identity]
	holds  bool
}

// newTurnStream is that of ctx's client. Its ClientStream is to be set after the first turn has been taken.
func (p *Proxy) newTurnStream(ctx context.Context) *turnStream {
	t := &turnStream{pool: p.pool, ctx: ctx}
	t.who, t.weight = p.tenants.Identify(ctx)
	return t
}

// turn waits for the turn of ctx's client, for one call upstream, which end ends. The error is the client's.
func (p *Proxy) turn(ctx context.Context) (end func(), err error) {
	who, weight := p.tenants.Identify(ctx)
	slot, err := p.pool.Acquire(ctx, who, weight, 0)
	if err != nil {
		return nil, err
	}
	return slot.Release, nil
}

// take waits for a turn, if none is taken. The error is the client's.
func (t *turnStream) take() (err error) {
	if !t.holds {
		t.slot, err = t.pool.Acquire(t.ctx, t.who, t.weight, 0)
		t.holds = err == nil
	}
	return err
}

// end ends the turn.
func (t *turnStream) end() {
	if t.holds {
		t.holds = false
		t.slot.Release()
	}
}

// RecvMsg is part of grpc.ClientStream.
func (t *turnStream) RecvMsg(m any) error {
	if err := t.take(); err != nil {
		return err
	}
	defer t.end()
	return t.ClientStream.RecvMsg(m)
}
