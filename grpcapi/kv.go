package grpcapi

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/wire"
)

// kv is the KV service over a Backend.
type kv struct {
	b               Backend
	maxRequestBytes int
	maxTxnOps       int
}

func registerKV(s grpc.ServiceRegistrar, b Backend, cfg Config) {
	k := kv{b: b, maxRequestBytes: cfg.MaxRequestBytes, maxTxnOps: cfg.MaxTxnOps}
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: pb.KV_ServiceDesc.ServiceName,
		Methods: []grpc.MethodDesc{
			rawMethod("Range", b, k.rangeKeys),
			rawMethod("Put", b, k.put),
			rawMethod("DeleteRange", b, k.deleteRange),
			rawMethod("Txn", b, k.txn),
			method("Compact", b, b.Compact),
		},
		Streams: []grpc.StreamDesc{stream("RangeStream", false, b, k.rangeStream)},
	}, nil)
}

func (k kv) rangeKeys(ctx context.Context, raw wire.Raw) (mem.BufferSlice, error) {
	var r wire.RangeRequest
	if err := r.Unmarshal(raw); err != nil {
		return nil, errUndecodable
	}
	if err := checkRange(r.Key, r.SortOrder, r.SortTarget); err != nil {
		return nil, err
	}
	return k.b.Range(ctx, &r)
}

func (k kv) rangeStream(s grpc.ServerStream) error {
	var raw wire.Raw
	if err := s.RecvMsg(&raw); err != nil {
		return err
	}
	var r wire.RangeRequest
	if err := r.Unmarshal(raw); err != nil {
		return errUndecodable
	}
	if err := checkRangeStream(&r); err != nil {
		return err
	}
	return k.b.RangeStream(s.Context(), &r, func(m mem.BufferSlice) error { return s.SendMsg(m) })
}

func (k kv) put(ctx context.Context, raw wire.Raw) (mem.BufferSlice, error) {
	var r wire.PutRequest
	if err := r.Unmarshal(raw); err != nil {
		return nil, errUndecodable
	}
	if err := checkPut(r.Key, len(r.Value), r.Lease, r.IgnoreValue, r.IgnoreLease); err != nil {
		return nil, err
	}
	if err := checkSize(raw, k.maxRequestBytes); err != nil {
		return nil, err
	}
	return k.b.Put(ctx, &r)
}

func (k kv) deleteRange(ctx context.Context, raw wire.Raw) (mem.BufferSlice, error) {
	var r wire.DeleteRangeRequest
	if err := r.Unmarshal(raw); err != nil {
		return nil, errUndecodable
	}
	if err := checkDelete(r.Key); err != nil {
		return nil, err
	}
	if err := checkSize(raw, k.maxRequestBytes); err != nil {
		return nil, err
	}
	return k.b.DeleteRange(ctx, &r)
}

func (k kv) txn(ctx context.Context, raw wire.Raw) (mem.BufferSlice, error) {
	var r pb.TxnRequest
	if err := proto.Unmarshal(raw, &r); err != nil {
		return nil, errUndecodable
	}
	if err := checkTxn(&r, k.maxTxnOps); err != nil {
		return nil, err
	}
	if err := checkOverlap(&r); err != nil {
		return nil, err
	}
	if !readOnly(&r) {
		if err := checkSize(raw, k.maxRequestBytes); err != nil {
			return nil, err
		}
	}
	return k.b.Txn(ctx, &r, raw)
}
