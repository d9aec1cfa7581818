package proxy

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"weir/cache"
	"weir/grpcapi/wire"
	"weir/proxy/access"
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

// lookup is a read that may be answered from memory.
type lookup struct {
	era    uint64
	ranges []access.Range // what is asked for, if that was judged
	judged time.Time      // when it was last known that they may be read; zero if it was not asked: nothing was guarded

	serializable bool
}

// mayRead tells whether it is worth looking into memory for what asks for these ranges: who asks may be given them, in which era.
// While authentication is off everybody may, and while nothing is shared nobody is given anything.
//
// Where there is a question, upstream is not asked whether something is permitted that it will have to be asked for anyway. What
// is not looked for counts as forwarded.
func (p *Proxy) mayRead(ctx context.Context, serializable bool, ranges func() []access.Range) (l lookup, ok bool) {
	era, guarded := p.feeds.Guarded()
	l.era, l.serializable = era, serializable
	if !guarded {
		return l, true
	}
	l.ranges = ranges()
	missing := func(r access.Range) bool { return !p.reads.Has(r.Key, r.End) }
	if slices.ContainsFunc(l.ranges, missing) || !p.guard.MayRead(ctx, l.ranges...) {
		p.reads.CountForward(serializable)
		return l, false
	}
	l.judged = time.Now()
	return l, true
}

// answerDelay is how long an answer from memory may take until it is judged again whether it may be given.
const answerDelay = 10 * time.Millisecond

// mayAnswer tells whether the answer may still be given: it may have been waited for, and the right to it be gone meanwhile. What
// was not judged, because nothing was guarded, may be what has come into memory since then for who may have it.
func (p *Proxy) mayAnswer(ctx context.Context, l lookup) bool {
	if l.judged.IsZero() {
		return p.feeds.IsOpen(l.era)
	}
	return time.Since(l.judged) <= answerDelay || p.guard.MayRead(ctx, l.ranges...)
}

// found tells whether what a lookup has brought, which may be an error, is the client's answer.
func (p *Proxy) found(ctx context.Context, l lookup, err error) bool {
	if errors.Is(err, reads.ErrForward) {
		return false
	}
	if !p.mayAnswer(ctx, l) {
		p.reads.CountForward(l.serializable)
		return false
	}
	return true
}

// Range answers a read: from memory, or as upstream does. See grpcapi.Reads.
func (p *Proxy) Range(ctx context.Context, r *wire.RangeRequest, s *cache.Session) (mem.BufferSlice, error) {
	p.busy.read(ctx, p.tenants, r.Key, r.RangeEnd)
	if l, ok := p.mayRead(ctx, r.Serializable, func() []access.Range { return []access.Range{{Key: r.Key, End: r.RangeEnd}} }); ok {
		resp, stale, err := p.reads.Range(ctx, r, s, l.era)
		if p.found(ctx, l, err) {
			tellStale(ctx, stale)
			return resp, err
		}
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

// Txn answers a transaction that only reads. See grpcapi.Reads.
func (p *Proxy) Txn(ctx context.Context, r *pb.TxnRequest, raw wire.Raw, s *cache.Session) (mem.BufferSlice, error) {
	p.busy.call(ctx, p.tenants)
	if l, ok := p.mayRead(ctx, reads.Serializable(r), func() []access.Range { return rangesOf(r) }); ok {
		resp, stale, err := p.reads.Txn(ctx, r, s, l.era)
		if p.found(ctx, l, err) {
			tellStale(ctx, stale)
			return resp, err
		}
	}
	answer, err := p.fetch(ctx, pb.KV_Txn_FullMethodName, raw, s, func(resp wire.Raw) { p.reads.ForwardedTxn(r, resp) })
	if err != nil {
		return nil, err
	}
	return mem.BufferSlice{mem.SliceBuffer(answer)}, nil
}

// rangesOf are what one must be allowed to read for a transaction that only reads: its compares, and both branches, taken or not.
func rangesOf(r *pb.TxnRequest) []access.Range {
	var all []access.Range
	for _, c := range r.Compare {
		all = append(all, access.Range{Key: c.Key, End: c.RangeEnd})
	}
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			in := op.GetRequestRange()
			all = append(all, access.Range{Key: in.GetKey(), End: in.GetRangeEnd()})
		}
	}
	return all
}

// RangeStream answers a range in parts. See grpcapi.Reads. As at a core, each part is permitted by itself.
func (p *Proxy) RangeStream(r *wire.RangeRequest, s *cache.Session, client grpc.ServerStream) error {
	ctx := client.Context()
	p.busy.read(ctx, p.tenants, r.Key, r.RangeEnd)
	whole := access.Range{Key: r.Key, End: r.RangeEnd}
	if l, ok := p.mayRead(ctx, r.Serializable, func() []access.Range { return []access.Range{whole} }); ok {
		sent := false
		err := p.reads.RangeStream(ctx, r, s, l.era, func(m mem.BufferSlice, stale time.Duration) error {
			_, guarded := p.feeds.Guarded()
			switch {
			case !sent && !p.mayAnswer(ctx, l):
				return reads.ErrForward
			case sent && guarded && !p.guard.MayRead(ctx, whole):
				return rpctypes.ErrGRPCAuthOldRevision // upstream's word for rights that have changed meanwhile
			}
			sent = true
			tellStale(ctx, stale) // which has an effect before the first message
			return client.SendMsg(m)
		})
		if !errors.Is(err, reads.ErrForward) {
			return err
		}
	}
	counted := &countedStream{ServerStream: client}
	if err := p.stream(pb.KV_RangeStream_FullMethodName, counted, s); err != nil {
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
	who := identityOf(ctx)
	return p.answer(ctx, method, req, s, func(req wire.Raw) (answer, error) { return p.share(ctx, who, method, req, answered) })
}

// sharePatience is how long a read waits for one that was sent before it, and asks the same, until it is sent too.
const sharePatience = 100 * time.Millisecond

// share asks together with others of the same identity only: what upstream gives to one it need not give to another. Where calls
// wait for their turns it asks for one account only: nobody waits behind a call of who asks for more than his share.
func (p *Proxy) share(ctx context.Context, who, method string, req wire.Raw, answered func(resp wire.Raw)) (answer, error) {
	if p.pool.IsFull() {
		account, _ := p.tenants.Identify(ctx)
		who = strconv.Quote(account.String()) + who // which never begins with a quote otherwise
	}
	a, err := p.flight.Do(ctx, who+method+string(req), func(ctx context.Context) (answer, error) {
		a, err := p.ask(ctx, method, req)
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

// identityOf is different for whomever upstream, or the guard, may tell apart.
func identityOf(ctx context.Context) string {
	switch c := wire.CredentialsOf(ctx); {
	case c.HasToken:
		return "token " + c.Token + "\x00"
	case c.HasCertificate:
		return "certificate " + c.CommonName + "\x00"
	}
	return ""
}

func tellStale(ctx context.Context, age time.Duration) {
	if age > 0 {
		age = age.Truncate(time.Millisecond) + time.Millisecond // not less than it is
		_ = grpc.SetHeader(ctx, metadata.Pairs(staleKey, age.String()))
	}
}
