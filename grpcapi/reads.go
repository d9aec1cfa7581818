package grpcapi

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/wire"
)

// sharedReads is the reads of a forwarding server, which may be answered without asking upstream for each: what is a
// valid read is given to Reads, which knows who may have it. Everything else is forwarded as it came, and so upstream says
// what is wrong with it, under its own limits.
type sharedReads struct {
	door      door
	reads     Reads
	forward   Forwarder
	maxTxnOps int
}

// uncachedKey is metadata by which a client has its read or watch forwarded, whatever its value.
const uncachedKey = "weir-uncached"

func wantsUncached(ctx context.Context) bool { return len(incomingMetadata(ctx)[uncachedKey]) > 0 }

// takeOver replaces what the forwarding KV service does with reads.
func (k *sharedReads) takeOver(kv *grpc.ServiceDesc) {
	for i := range kv.Methods {
		switch m := &kv.Methods[i]; m.MethodName {
		case "Range":
			m.Handler = k.door.unary(pb.KV_Range_FullMethodName, k.rangeKeys)
		case "Txn":
			m.Handler = k.door.unary(pb.KV_Txn_FullMethodName, k.txn)
		}
	}
	kv.Streams = append(kv.Streams, grpc.StreamDesc{
		StreamName:    "RangeStream",
		ServerStreams: true,
		Handler: func(_ any, gs grpc.ServerStream) error {
			return k.door.stream(pb.KV_RangeStream_FullMethodName, gs, func(gs grpc.ServerStream, visit wire.Visit) error {
				return k.rangeStream(inNamespace(visit, pb.KV_RangeStream_FullMethodName, gs))
			})
		},
	})
}

// admit tells whether a request may be answered by Reads, as far as its metadata goes.
func (k *sharedReads) admit(ctx context.Context) (bool, error) {
	md := incomingMetadata(ctx)
	if requiresLeader(md) || wantsUncached(ctx) {
		return false, nil
	}
	if err := checkAPIVersion(md); err != nil { // which cannot be forwarded
		return false, err
	}
	return true, nil
}

func (k *sharedReads) rangeKeys(ctx context.Context, raw wire.Raw) (any, error) {
	admitted, err := k.admit(ctx)
	if err != nil {
		return nil, err
	}
	r := new(wire.RangeRequest)
	if !admitted || !knownRange(raw) || r.Unmarshal(raw) != nil || checkRange(r.Key, r.SortOrder, r.SortTarget) != nil {
		return forwardRaw(ctx, k.forward, pb.KV_Range_FullMethodName, raw)
	}
	return answer(k.reads.Range(ctx, r, sessionOf(ctx)))
}

// txn looks at the request first: most transactions write.
func (k *sharedReads) txn(ctx context.Context, raw wire.Raw) (any, error) {
	if !knownReads(raw) {
		return forwardRaw(ctx, k.forward, pb.KV_Txn_FullMethodName, raw)
	}
	admitted, err := k.admit(ctx)
	if err != nil {
		return nil, err
	}
	r := new(pb.TxnRequest)
	if !admitted || proto.Unmarshal(raw, r) != nil || checkTxn(r, k.maxTxnOps) != nil {
		return forwardRaw(ctx, k.forward, pb.KV_Txn_FullMethodName, raw)
	}
	return answer(k.reads.Txn(ctx, r, raw, sessionOf(ctx)))
}

func answer(resp mem.BufferSlice, err error) (any, error) {
	if err != nil {
		return nil, toStatus(err)
	}
	return resp, nil
}

func (k *sharedReads) rangeStream(gs grpc.ServerStream) error {
	ctx := gs.Context()
	s := sessionOf(ctx)
	admitted, err := k.admit(ctx)
	if err != nil {
		return err
	}
	var raw wire.Raw
	if err := gs.RecvMsg(&raw); err != nil {
		return err
	}
	r, unread := new(wire.RangeRequest), &unreadStream{ServerStream: gs, request: raw}
	if !admitted || !knownRange(raw) || r.Unmarshal(raw) != nil || checkRangeStream(r) != nil {
		return k.forward.Stream(pb.KV_RangeStream_FullMethodName, unread, s)
	}
	return toStatus(k.reads.RangeStream(r, s, unread))
}

// unreadStream is a stream whose one request was received, and is to be received again.
type unreadStream struct {
	grpc.ServerStream
	request wire.Raw
	read    bool // only the receiver touches it
}

// RecvMsg is part of grpc.ServerStream.
func (s *unreadStream) RecvMsg(m any) error {
	if s.read {
		return s.ServerStream.RecvMsg(m)
	}
	s.read = true
	return wire.Codec{}.Unmarshal(mem.BufferSlice{mem.SliceBuffer(s.request)}, m)
}
