package linearizable

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
)

// Metadata between a client and the proxy.
const (
	staleKey    = "weir-stale"    // in an answer: how old it may be, since upstream is away
	uncachedKey = "weir-uncached" // in a request: forward it
)

// Send sends the request and returns its answer.
func (r *Request) Send(ctx context.Context, kv pb.KVClient, opts ...grpc.CallOption) (*Response, error) {
	if r.Uncached {
		ctx = metadata.AppendToOutgoingContext(ctx, uncachedKey, "true")
	}
	var header, trailer metadata.MD
	answer, err := r.send(ctx, kv, append(opts, grpc.Header(&header), grpc.Trailer(&trailer)))
	if err != nil {
		return nil, err
	}
	answer.Stale = -1
	if s := append(header.Get(staleKey), trailer.Get(staleKey)...); len(s) > 0 {
		if answer.Stale, err = time.ParseDuration(s[0]); err != nil {
			return nil, fmt.Errorf("metadata %s is %q: %w", staleKey, s, err)
		}
	}
	return answer, nil
}

func (r *Request) send(ctx context.Context, kv pb.KVClient, opts []grpc.CallOption) (*Response, error) {
	first := r.Then[0]
	switch r.Kind {
	case Range:
		a, err := kv.Range(ctx, first.rangeRequest(), opts...)
		if err != nil {
			return nil, err
		}
		return answered(a.Header, resultOf(a)), nil
	case RangeStream:
		a, err := receiveAll(ctx, kv, first.rangeRequest(), opts)
		if err != nil {
			return nil, err
		}
		return answered(a.Header, resultOf(a)), nil
	case Put:
		a, err := kv.Put(ctx, first.putRequest(), opts...)
		if err != nil {
			return nil, err
		}
		return answered(a.Header, Result{}), nil
	case DeleteRange:
		a, err := kv.DeleteRange(ctx, first.deleteRequest(), opts...)
		if err != nil {
			return nil, err
		}
		return answered(a.Header, Result{Deleted: a.Deleted}), nil
	case Txn:
		a, err := kv.Txn(ctx, r.txnRequest(), opts...)
		if err != nil {
			return nil, err
		}
		answer := answered(a.Header)
		answer.Succeeded = a.Succeeded
		for _, one := range a.Responses {
			result := Result{Deleted: one.GetResponseDeleteRange().GetDeleted()}
			if ranged := one.GetResponseRange(); ranged != nil {
				result = resultOf(ranged)
			}
			answer.Results = append(answer.Results, result)
		}
		return answer, nil
	default:
		return nil, fmt.Errorf("there is no request of kind %q", r.Kind)
	}
}

func answered(h *pb.ResponseHeader, results ...Result) *Response {
	return &Response{Revision: h.GetRevision(), Succeeded: true, Results: results}
}

// receiveAll joins the parts of a streamed answer as etcd says: by merging them.
func receiveAll(ctx context.Context, kv pb.KVClient, r *pb.RangeRequest, opts []grpc.CallOption) (*pb.RangeResponse, error) {
	stream, err := kv.RangeStream(ctx, r, opts...)
	if err != nil {
		return nil, err
	}
	whole := &pb.RangeResponse{}
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return whole, nil
		}
		if err != nil {
			return nil, err
		}
		proto.Merge(whole, part.RangeResponse)
	}
}

func resultOf(r *pb.RangeResponse) Result {
	result := Result{More: r.More, Count: r.Count}
	for _, kv := range r.Kvs {
		result.KVs = append(result.KVs, kvOf(kv))
	}
	return result
}

func kvOf(kv *mvccpb.KeyValue) KV {
	return KV{Key: string(kv.Key), Value: string(kv.Value), Create: kv.CreateRevision, Mod: kv.ModRevision, Version: kv.Version}
}

func (s *Step) rangeRequest() *pb.RangeRequest {
	return &pb.RangeRequest{
		Key: []byte(s.Key), RangeEnd: []byte(s.End), Serializable: s.Read.Serializable, Revision: s.Read.Revision,
		Limit: s.Read.Limit, KeysOnly: s.Read.KeysOnly, CountOnly: s.Read.CountOnly,
	}
}

func (s *Step) putRequest() *pb.PutRequest {
	return &pb.PutRequest{Key: []byte(s.Key), Value: []byte(s.Value)}
}

func (s *Step) deleteRequest() *pb.DeleteRangeRequest {
	return &pb.DeleteRangeRequest{Key: []byte(s.Key), RangeEnd: []byte(s.End)}
}

func (r *Request) txnRequest() *pb.TxnRequest {
	return &pb.TxnRequest{Compare: r.Compare.message(), Success: operations(r.Then), Failure: operations(r.Else)}
}

func (c Compare) message() []*pb.Compare {
	switch {
	case c.Key == "":
		return nil
	case c.Value == "":
		return []*pb.Compare{{Key: []byte(c.Key), Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{Version: 0}}}
	default:
		return []*pb.Compare{{Key: []byte(c.Key), Target: pb.Compare_VALUE, TargetUnion: &pb.Compare_Value{Value: []byte(c.Value)}}}
	}
}

func operations(steps []Step) []*pb.RequestOp {
	var ops []*pb.RequestOp
	for _, s := range steps {
		op := &pb.RequestOp{}
		switch s.Kind {
		case Put:
			op.Request = &pb.RequestOp_RequestPut{RequestPut: s.putRequest()}
		case DeleteRange:
			op.Request = &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: s.deleteRequest()}
		default:
			op.Request = &pb.RequestOp_RequestRange{RequestRange: s.rangeRequest()}
		}
		ops = append(ops, op)
	}
	return ops
}
