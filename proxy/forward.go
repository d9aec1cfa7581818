package proxy

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"weir/cache"
	"weir/grpcapi/wire"
)

// answer is what upstream has answered to a unary call.
type answer struct {
	resp            wire.Raw
	revision        int64 // in its header; 0 if it has none
	header, trailer metadata.MD
}

// Unary forwards one call; see grpcapi.Forwarder. What a client reads by serializable requests is not older than what
// was answered on its connection before.
func (p *Proxy) Unary(ctx context.Context, method string, req wire.Raw, s *cache.Session) (wire.Raw, error) {
	p.busy.call(ctx, p.tenants)
	if method == pb.KV_Range_FullMethodName {
		return p.forwardRange(ctx, req, s)
	}
	if method == pb.Lease_LeaseGrant_FullMethodName {
		return p.forwardGrant(ctx, req, s)
	}
	resp, err := p.forward(ctx, method, req, s)
	if err != nil {
		return nil, err
	}
	switch method {
	case pb.KV_Compact_FullMethodName:
		var r pb.CompactionRequest
		if proto.Unmarshal(req, &r) == nil { // upstream could
			p.feeds.Compacted(r.Revision) // who is told must not find older watches possible here
		}
	case pb.Auth_Authenticate_FullMethodName:
		p.guard.Authenticated(req, resp)
	}
	return resp, nil
}

// forwardRange forwards a Range that may not be answered from memory.
func (p *Proxy) forwardRange(ctx context.Context, req wire.Raw, s *cache.Session) (wire.Raw, error) {
	p.bypassed.Add(1)
	var r wire.RangeRequest
	if !p.reads.Limits() || r.Unmarshal(req) != nil {
		return p.forward(ctx, pb.KV_Range_FullMethodName, req, s)
	}
	resp, err := p.forward(ctx, pb.KV_Range_FullMethodName, p.bound(&r), s)
	if err != nil {
		return nil, err
	}
	return resp, p.reads.CheckAnswer(&r, resp)
}

func (p *Proxy) forward(ctx context.Context, method string, req wire.Raw, s *cache.Session) (wire.Raw, error) {
	return p.answer(ctx, method, req, s, func(req wire.Raw) (answer, error) { return p.ask(ctx, method, req) })
}

// answer answers a client with what ask brings from upstream. What is older than the session was told is asked for again.
func (p *Proxy) answer(ctx context.Context, method string, req wire.Raw, s *cache.Session, ask func(req wire.Raw) (answer, error)) (wire.Raw, error) {
	era := p.feeds.Era()
	a, err := ask(req)
	if err == nil && a.revision < s.Floor(era) {
		if again := linearizable(method, req); again != nil {
			a, err = ask(again)
		}
	}
	a.pass(ctx)
	if err != nil {
		return nil, err
	}
	p.tell(s, era, a)
	return a.resp, nil
}

// tell tells a session what an answer states. One that was on its way while an era ended is of the next one too, unless
// that is of another cluster.
func (p *Proxy) tell(s *cache.Session, era uint64, a answer) {
	s.Told(era, a.revision)
	if now := p.feeds.Era(); now != era && a.revision > 0 {
		if h, err := wire.UnmarshalHeader(a.resp); err == nil && h.ClusterID == p.feeds.Header().ClusterID {
			s.Told(now, a.revision)
		}
	}
}

const (
	// maxQueuedCalls bounds the calls of one client that wait for others upstream, and maxQueuedBytes the memory of all that do.
	maxQueuedCalls = 4096
	maxQueuedBytes = 256 << 20
)

// isShort tells whether a call ends by itself soon, so that it may have others wait. A lock is waited for.
func isShort(method string) bool {
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	switch service {
	case pb.KV_ServiceDesc.ServiceName, pb.Lease_ServiceDesc.ServiceName, pb.Auth_ServiceDesc.ServiceName:
		return name != "Compact" // which may wait until it is done
	}
	return false
}

// ask calls the current member for a client, with the rights that the client has, when it is the client's turn.
func (p *Proxy) ask(ctx context.Context, method string, req wire.Raw) (a answer, err error) {
	if isShort(method) || method == pb.KV_Compact_FullMethodName {
		w := p.newPatience(ctx) // the turn is waited for too
		defer func() { err = w.end(err) }()
		ctx = w.ctx
	}
	c := &judgedCall{proxy: p, method: method, req: req, client: outgoing(ctx)}
	// First, because to be judged may take a second, and others should not wait for that.
	if err := c.judge(); err != nil {
		return answer{}, err
	}
	if p.shares && isShort(method) {
		who, weight := p.tenants.Identify(ctx)
		slot, err := p.pool.Acquire(ctx, who, weight, len(req))
		if err != nil {
			return answer{}, err
		}
		defer slot.Release()
	}
	return c.do()
}

// pass gives upstream's metadata to the client that is answered by ctx.
func (a *answer) pass(ctx context.Context) {
	// Errors mean that the client is gone, or that ctx is not of a server.
	if a.header != nil {
		_ = grpc.SetHeader(ctx, a.header)
	}
	if a.trailer != nil {
		_ = grpc.SetTrailer(ctx, a.trailer)
	}
}

// revisionOf returns the revision in the header of an answer; 0 if it has none.
func revisionOf(method string, resp wire.Raw) int64 {
	if !strings.HasPrefix(method, "/etcdserverpb.") && !strings.HasPrefix(method, "/v3") {
		return 0
	}
	unmarshal := wire.UnmarshalHeader
	if method == pb.KV_RangeStream_FullMethodName {
		unmarshal = wire.UnmarshalStreamHeader
	}
	h, err := unmarshal(resp)
	if err != nil {
		return 0
	}
	return h.Revision
}

// serializableTag begins the field serializable of a RangeRequest: number 7, a varint.
const serializableTag = 7 << 3

// linearizable returns a serializable read as a linearizable one; nil if req is something else.
func linearizable(method string, req wire.Raw) wire.Raw {
	switch method {
	case pb.KV_Range_FullMethodName:
		var r wire.RangeRequest
		if r.Unmarshal(req) != nil || !r.Serializable {
			return nil
		}
		// The last of a field counts, and what else is in the request stays, known here or not.
		return append(slices.Clip(req), serializableTag, 0)
	case pb.KV_Txn_FullMethodName:
		var r pb.TxnRequest
		if proto.Unmarshal(req, &r) != nil {
			return nil
		}
		changed := false
		for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
			for _, op := range ops {
				in := op.GetRequestRange()
				if in == nil { // it writes, and has been done
					return nil
				}
				changed = changed || in.Serializable
				in.Serializable = false
			}
		}
		if again, err := proto.Marshal(&r); changed && err == nil {
			return again
		}
	}
	return nil
}

// Stream forwards a stream; see grpcapi.Forwarder. The request of a RangeStream has come already, so that the turn which is taken
// for it is not spent on waiting for the client.
//
// The client's messages are pumped by a goroutine that may outlive the call for a moment: it can be waiting in
// RecvMsg, which returns only when the stream has ended, and that is after Stream has returned.
func (p *Proxy) Stream(method string, client grpc.ServerStream, s *cache.Session) error {
	p.busy.call(client.Context(), p.tenants)
	return p.stream(method, client, s)
}

// stream is Stream for one that has been counted.
func (p *Proxy) stream(method string, client grpc.ServerStream, s *cache.Session) (err error) {
	ctx, cancel := context.WithCancel(outgoing(client.Context()))
	defer cancel()
	var turn *turnStream // nil if it takes none
	if method == pb.KV_RangeStream_FullMethodName {
		w := p.newPatience(ctx)
		defer func() { err = w.end(err) }()
		ctx = w.ctx
		turn = p.newTurnStream(ctx)
	}
	var judged *judgedStream // nil if upstream judges
	switch {
	case !p.guard.HasIdentity():
	case wire.CredentialsOf(ctx).HasToken:
		stay, err := p.guard.Stay(client.Context(), ctx, method)
		if err != nil {
			return err
		}
		defer stay.End()
		client = &stayingStream{client, stay}
	default:
		if judged, err = p.judge(ctx, method, client); err != nil {
			return err
		}
		defer judged.end()
		ctx, client = judged.ctx, judged
	}
	era := p.feeds.Era()
	if turn != nil {
		if err := turn.take(); err != nil {
			return err
		}
		defer turn.end()
	}
	var server grpc.ClientStream
	behind := false // the member may be, of what this connection was told
	err = p.upstream.try(ctx, func(t *tenure) (sent bool, err error) {
		if judged != nil {
			if ctx, err = judged.fresh(); err != nil {
				return true, err // no member is asked
			}
		}
		server, err = t.member.conn.NewStream(ctx, &anyStream, method)
		behind = t.shown.Load() < s.Floor(era)
		return err == nil, err
	})
	if err != nil {
		return err
	}
	if behind && method == pb.KV_RangeStream_FullMethodName {
		client = &linearizableStream{ServerStream: client} // its revision comes last, when it is too late to ask again
	}
	gone := make(chan error, 1) // the client is, or has been refused a message
	p.pumps.Go(func() {
		if err := pumpRequests(client, server); err != nil {
			gone <- err
			cancel()
		}
	})
	from := server
	if turn != nil {
		turn.ClientStream = server
		from = turn
	}
	err = pumpResponses(from, client, func(m wire.Raw) { s.Told(era, revisionOf(method, m)) })
	select {
	case why := <-gone:
		return why
	default:
		return err
	}
}

// linearizableStream is a client's RangeStream that asks linearizably, whatever the client does.
type linearizableStream struct {
	grpc.ServerStream
	received bool // the request, which is the first message
}

// RecvMsg is part of grpc.ServerStream.
func (s *linearizableStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if raw, ok := m.(*wire.Raw); ok && err == nil && !s.received {
		s.received = true
		if again := linearizable(pb.KV_Range_FullMethodName, *raw); again != nil {
			*raw = again
		}
	}
	return err
}

var anyStream = grpc.StreamDesc{ClientStreams: true, ServerStreams: true}

// pumpRequests passes the client's messages and its half-close on. It returns the client's error; that of the
// server is for pumpResponses to find.
func pumpRequests(client grpc.ServerStream, server grpc.ClientStream) error {
	for {
		var m wire.Raw
		if err := client.RecvMsg(&m); errors.Is(err, io.EOF) {
			_ = server.CloseSend() // it never fails
			return nil
		} else if err != nil {
			return err
		}
		if err := server.SendMsg(m); err != nil {
			return nil
		}
	}
}

// pumpResponses passes the server's header, messages and trailer on, the header as soon as it is there, and returns
// the server's status, or the client's error.
func pumpResponses(server grpc.ClientStream, client grpc.ServerStream, told func(wire.Raw)) error {
	h, err := server.Header()
	if err != nil {
		return err
	}
	if h != nil { // nil: it ended without a header
		if err := client.SendHeader(returning(h)); err != nil {
			return err
		}
	}
	for {
		var m wire.Raw
		if err := server.RecvMsg(&m); err != nil {
			client.SetTrailer(returning(server.Trailer()))
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		told(m) // before the client is: it may ask at once
		if err := client.SendMsg(m); err != nil {
			return err
		}
	}
}
