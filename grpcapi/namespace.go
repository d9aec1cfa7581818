package grpcapi

import (
	"errors"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"weir/grpcapi/lockpb"
	"weir/grpcapi/wire"
)

// namespace is the wire.Namespace of a client, or "" for one that has the whole store. It is at the edge: keys lose it where
// answers leave for the client, and whatever is behind that, watches and memory that clients share included, has upstream's
// keys. To give each namespace watches and memory of its own was rejected: they could not be shared with anybody outside.
type namespace string

// keyed returns the kinds of a method's messages. A method that is not known is refused in a namespace, since nobody can tell
// where it has keys.
func keyed(method string) (request, answer wire.Keyed, known bool) {
	switch method {
	case pb.KV_Range_FullMethodName:
		return wire.RangeRequestKeys, wire.RangeResponseKeys, true
	case pb.KV_RangeStream_FullMethodName:
		return wire.RangeRequestKeys, wire.RangeStreamResponseKeys, true
	case pb.KV_Put_FullMethodName:
		return wire.PutRequestKeys, wire.PutResponseKeys, true
	case pb.KV_DeleteRange_FullMethodName:
		return wire.DeleteRangeRequestKeys, wire.DeleteRangeResponseKeys, true
	case pb.KV_Txn_FullMethodName:
		return wire.TxnRequestKeys, wire.TxnResponseKeys, true
	case pb.Watch_Watch_FullMethodName:
		return wire.WatchRequestKeys, wire.WatchResponseKeys, true
	case pb.Lease_LeaseTimeToLive_FullMethodName:
		return wire.NoKeys, wire.LeaseTimeToLiveResponseKeys, true
	case lockpb.Lock_Lock_FullMethodName:
		return wire.LockRequestKeys, wire.LockResponseKeys, true
	case lockpb.Lock_Unlock_FullMethodName:
		return wire.UnlockRequestKeys, wire.NoKeys, true
	case lockpb.Election_Campaign_FullMethodName:
		return wire.CampaignRequestKeys, wire.CampaignResponseKeys, true
	case lockpb.Election_Proclaim_FullMethodName:
		return wire.ProclaimRequestKeys, wire.NoKeys, true
	case lockpb.Election_Leader_FullMethodName, lockpb.Election_Observe_FullMethodName:
		return wire.LeaderRequestKeys, wire.LeaderResponseKeys, true
	case lockpb.Election_Resign_FullMethodName:
		return wire.ResignRequestKeys, wire.NoKeys, true
	case wire.PingsMethod:
		return wire.NoKeys, wire.NoKeys, true
	}
	return wire.NoKeys, wire.NoKeys, isEtcdMethod(method)
}

// isEtcdMethod tells whether etcd has the method ("/etcdserverpb.KV/Put").
func isEtcdMethod(method string) bool {
	return slices.ContainsFunc(etcdServices(), func(s grpc.ServiceDesc) bool {
		name, ok := cutService(method, s.ServiceName)
		return ok && (slices.ContainsFunc(s.Methods, func(m grpc.MethodDesc) bool { return m.MethodName == name }) ||
			slices.ContainsFunc(s.Streams, func(m grpc.StreamDesc) bool { return m.StreamName == name }))
	})
}

func cutService(method, service string) (name string, ok bool) {
	if n := len(service) + 2; len(method) > n && method[1:n-1] == service && method[n-1] == '/' {
		return method[n:], true
	}
	return "", false
}

// request returns a request as upstream is to have it. The error is the client's.
func (n namespace) request(method string, raw wire.Raw) (wire.Raw, error) {
	if n == "" {
		return raw, nil
	}
	kind, _, known := keyed(method)
	if !known {
		return nil, errNotThere(method)
	}
	out, err := wire.Namespace(n).Request(kind, raw)
	if err != nil {
		return nil, namespaceError(err)
	}
	return out, nil
}

// enclose makes a client's range that of the store.
func (n namespace) enclose(key, end *[]byte) {
	if n != "" {
		*key, *end = wire.Namespace(n).Key(*key), wire.Namespace(n).RangeEnd(*end)
	}
}

// response returns an encoded answer as the client is to have it. What has no keys may be in any form.
func (n namespace) response(method string, resp any) (any, error) {
	if n == "" {
		return resp, nil
	}
	_, kind, known := keyed(method)
	if !known {
		return nil, errNotThere(method)
	}
	if kind == wire.NoKeys {
		return resp, nil
	}
	var raw wire.Raw
	switch r := resp.(type) {
	case wire.Raw:
		raw = r
	case *wire.Raw:
		raw = *r
	case mem.BufferSlice:
		raw = contiguous(r)
	case *mem.BufferSlice:
		raw = contiguous(*r)
	default:
		return nil, status.Errorf(codes.Internal, "weir: an answer of %s in a namespace is a %T", method, resp)
	}
	out, err := wire.Namespace(n).Answer(kind, raw)
	if err != nil {
		return nil, namespaceError(err)
	}
	return wire.Raw(out), nil
}

// contiguous returns the bytes of b, which are not copied if they are in one piece.
func contiguous(b mem.BufferSlice) []byte {
	if len(b) == 1 {
		return b[0].ReadOnlyData()
	}
	return b.Materialize()
}

// namespaceError is what a client is answered whose message, or whose answer, cannot be rewritten.
func namespaceError(err error) error {
	var unknown *wire.UnknownFieldError
	switch {
	case errors.As(err, &unknown):
		return status.Error(codes.Unimplemented, "weir: "+err.Error())
	case errors.Is(err, wire.ErrNamespaceTooLarge):
		return rpctypes.ErrGRPCRequestTooLarge
	case errors.Is(err, wire.ErrForeignKey):
		return status.Error(codes.Internal, "weir: "+err.Error())
	}
	return errUndecodable
}

// stream returns a client's stream of which upstream's side is: what is received from it is in the namespace, and what is sent
// on it is as the client is to have it.
func (n namespace) stream(method string, gs grpc.ServerStream) grpc.ServerStream {
	if n == "" {
		return gs
	}
	return &namespaceStream{ServerStream: gs, namespace: n, method: method}
}

type namespaceStream struct {
	grpc.ServerStream
	namespace namespace
	method    string
}

// RecvMsg is part of grpc.ServerStream.
func (s *namespaceStream) RecvMsg(m any) error {
	var raw wire.Raw
	if err := s.ServerStream.RecvMsg(&raw); err != nil {
		return err
	}
	raw, err := s.namespace.request(s.method, raw)
	if err != nil {
		return err
	}
	return wire.Codec{}.Unmarshal(mem.BufferSlice{mem.SliceBuffer(raw)}, m)
}

// SendMsg is part of grpc.ServerStream.
func (s *namespaceStream) SendMsg(m any) error {
	resp, err := s.namespace.response(s.method, m)
	if err != nil {
		return err
	}
	return s.ServerStream.SendMsg(resp)
}
