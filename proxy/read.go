package proxy

import (
	"context"
	"errors"
	"slices"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"weir/cache"
	"weir/grpcapi/wire"
	"weir/proxy/feed"
	"weir/proxy/reads"
)

// readUpstream is what reads from memory depend on: all of it is known to the feeds.
type readUpstream struct{ *feed.Set }

// Standing is part of reads.Upstream.
func (u readUpstream) Standing() reads.Standing { return reads.Standing(u.Set.Standing()) }

// Compacted is part of reads.Upstream.
func (u readUpstream) Compacted() int64 { return u.Compaction() }

// staleKey is the response metadata which says that upstream is away, and how old the answer may be.
const staleKey = "weir-stale"

// Range answers a read without an identity: from memory, or as upstream does. See grpcapi.Reads.
func (p *Proxy) Range(ctx context.Context, r *wire.RangeRequest, s *cache.Session) (mem.BufferSlice, error) {
	resp, stale, err := p.reads.Range(ctx, r, s)
	if !errors.Is(err, reads.ErrForward) {
		tellStale(ctx, stale)
		return resp, err
	}
	raw, err := p.fetch(ctx, pb.KV_Range_FullMethodName, p.bound(r), s, func(resp wire.Raw) { p.reads.Forwarded(r, resp) })
	if err != nil {
		return nil, err
	}
	if err := p.reads.CheckAnswer(r, raw); err != nil {
		return nil, err
	}
	return mem.BufferSlice{mem.SliceBuffer(raw)}, nil
}

// bound is the request to forward for r: with a limit, if there is one on all answers.
func (p *Proxy) bound(r *wire.RangeRequest) wire.Raw {
	bounded, ok := p.reads.Bound(r)
	if !ok {
		return r.Raw
	}
	// The last of a field counts, and what else is in the request stays, known here or not.
	return append(slices.Clip(r.Raw), wire.AppendRangeRequest(nil, &wire.RangeRequest{Limit: bounded.Limit})...)
}

// Txn answers a transaction without an identity that only reads. See grpcapi.Reads.
func (p *Proxy) Txn(ctx context.Context, r *pb.TxnRequest, raw wire.Raw, s *cache.Session) (mem.BufferSlice, error) {
	resp, stale, err := p.reads.Txn(ctx, r, s)
	if !errors.Is(err, reads.ErrForward) {
		tellStale(ctx, stale)
		return resp, err
	}
	answer, err := p.fetch(ctx, pb.KV_Txn_FullMethodName, raw, s, func(resp wire.Raw) { p.reads.ForwardedTxn(r, resp) })
	if err != nil {
		return nil, err
	}
	return mem.BufferSlice{mem.SliceBuffer(answer)}, nil
}

// RangeStream answers a range in parts. See grpcapi.Reads.
func (p *Proxy) RangeStream(r *wire.RangeRequest, s *cache.Session, client grpc.ServerStream) error {
	err := p.reads.RangeStream(client.Context(), r, s, func(m mem.BufferSlice, stale time.Duration) error {
		tellStale(client.Context(), stale) // which has an effect before the first message
		return client.SendMsg(m)
	})
	if !errors.Is(err, reads.ErrForward) {
		return err
	}
	counted := &countedStream{ServerStream: client}
	if err := p.Stream(pb.KV_RangeStream_FullMethodName, counted, s); err != nil {
		return err
	}
	p.reads.ForwardedStream(r, counted.bytes, counted.last)
	return nil
}

// countedStream is a client's stream that knows what was sent to him. Only the sender touches it.
type countedStream struct {
	grpc.ServerStream
	bytes int
	last  wire.Raw
}

// SendMsg is part of grpc.ServerStream.
func (s *countedStream) SendMsg(m any) error {
	if raw, ok := m.(wire.Raw); ok {
		s.bytes += len(raw)
		s.last = raw
	}
	return s.ServerStream.SendMsg(m)
}

// fetch asks upstream, once for all who ask the same before it is sent: answered is called by who asks, with each answer of
// upstream.
func (p *Proxy) fetch(ctx context.Context, method string, req wire.Raw, s *cache.Session, answered func(resp wire.Raw)) (wire.Raw, error) {
	return p.answer(ctx, method, req, s, func(req wire.Raw) (answer, error) { return p.share(ctx, method, req, answered) })
}

// sharePatience is how long a read waits for one that was sent before it, and asks the same, until it is sent too.
const sharePatience = 100 * time.Millisecond

func (p *Proxy) share(ctx context.Context, method string, req wire.Raw, answered func(resp wire.Raw)) (answer, error) {
	a, err := p.flight.Do(ctx, method+string(req), func(ctx context.Context) (answer, error) {
		a, err := p.call(outgoing(ctx), method, req)
		if err == nil {
			answered(a.resp)
		}
		return a, err
	})
	if err != nil && ctx.Err() != nil {
		err = status.FromContextError(ctx.Err()).Err()
	}
	return a, err
}

func tellStale(ctx context.Context, age time.Duration) {
	if age > 0 {
		age = age.Truncate(time.Millisecond) + time.Millisecond // not less than it is
		_ = grpc.SetHeader(ctx, metadata.Pairs(staleKey, age.String()))
	}
}
