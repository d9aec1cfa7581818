package identities

import (
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// op is a request of a client, and its answer.
type op struct {
	who    *identity // nil is nobody
	how    way
	client string

	sent, answered time.Duration
	known          int64 // the newest revision of which some client had been told before this was sent

	request  proto.Message
	response proto.Message // nil if there was an error
	err      error
}

// way is how a request goes.
type way string

const (
	byGRPC  way = "gRPC"
	inParts way = "RangeStream"
	byJSON  way = "JSON"
)

func (o *op) String() string {
	return fmt.Sprintf("%s as %s, at %v to %v, %s %s{%v}: %v %v", o.client, o.who, o.sent, o.answered, o.how, o.request.ProtoReflect().Descriptor().Name(), o.request, o.response, o.err)
}

// needsOf are what etcd asks for before it answers a request. leases are the keys of each lease.
func needsOf(request proto.Message, leases map[int64][]string) (all []need) {
	switch r := request.(type) {
	case *pb.RangeRequest:
		return []need{{key: string(r.Key), end: string(r.RangeEnd)}}
	case *pb.PutRequest:
		all = append(all, need{key: string(r.Key), write: true})
		if r.PrevKv {
			all = append(all, need{key: string(r.Key)})
		}
	case *pb.DeleteRangeRequest:
		all = append(all, need{key: string(r.Key), end: string(r.RangeEnd), write: true})
		if r.PrevKv {
			all = append(all, need{key: string(r.Key), end: string(r.RangeEnd)})
		}
	case *pb.TxnRequest:
		for _, c := range r.Compare {
			all = append(all, need{key: string(c.Key), end: string(c.RangeEnd)})
		}
		for _, branch := range [][]*pb.RequestOp{r.Success, r.Failure} {
			for _, of := range branch {
				all = append(all, needsOf(requestOf(of), leases)...)
			}
		}
	case *pb.LeaseTimeToLiveRequest:
		if r.Keys {
			for _, key := range leases[r.ID] {
				all = append(all, need{key: key})
			}
		}
	}
	return all
}

func requestOf(of *pb.RequestOp) proto.Message {
	switch r := of.Request.(type) {
	case *pb.RequestOp_RequestRange:
		return r.RequestRange
	case *pb.RequestOp_RequestPut:
		return r.RequestPut
	case *pb.RequestOp_RequestDeleteRange:
		return r.RequestDeleteRange
	default:
		return of.GetRequestTxn()
	}
}

// writes tells whether a request changes anything.
func writes(request proto.Message) bool {
	switch r := request.(type) {
	case *pb.PutRequest, *pb.DeleteRangeRequest:
		return true
	case *pb.TxnRequest:
		for _, branch := range [][]*pb.RequestOp{r.Success, r.Failure} {
			for _, of := range branch {
				if writes(requestOf(of)) {
					return true
				}
			}
		}
	}
	return false
}

// header is that of an answer.
func header(response proto.Message) *pb.ResponseHeader {
	if r, ok := response.(interface{ GetHeader() *pb.ResponseHeader }); ok {
		return r.GetHeader()
	}
	return nil
}
