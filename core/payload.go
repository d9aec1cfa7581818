package core

import (
	"fmt"

	"github.com/coreos/go-semver/semver"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/membershippb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/wire"
)

// decode makes of a payload what apply takes for that kind. Kinds of levels above the highest are not known.
func decode(k kind, payload []byte, highest int) (any, error) {
	switch k {
	case kindPut:
		r := new(wire.PutRequest)
		return r, r.Unmarshal(payload)
	case kindDeleteRange:
		r := new(wire.DeleteRangeRequest)
		return r, r.Unmarshal(payload)
	case kindLeaseCheckpoint:
		return parseCheckpoints(payload)
	case kindLevel:
		r := new(levelRaise)
		if err := decodeStrictly(payload, r); err != nil {
			return nil, fmt.Errorf("decode %v request: %w", k, err)
		}
		return r, nil
	}
	info, ok := kinds[k]
	if !ok || info.level > highest {
		return nil, fmt.Errorf("a request of %v, which this weir does not know: run the weir that wrote it", k)
	}
	m := info.make()
	if err := proto.Unmarshal(payload, m); err != nil {
		return nil, fmt.Errorf("decode %v request: %w", k, err)
	}
	return m, nil
}

// validate refuses a request, as decode returns it, that cannot be carried out, or that would leave in the store what cannot be
// read again. Whatever passes ends no member.
//
// It depends on the request alone. So what a member refuses to put into the log, all refuse to carry out, should it be there.
// What clients send has been checked more strictly, by grpcapi; what another member proposes has been checked by that one, or by nobody.
func validate(decoded any) error {
	switch r := decoded.(type) {
	case *pb.TxnRequest:
		return validateTxn(r)
	case *membershippb.ClusterVersionSetRequest:
		return validateVersion(r.Ver)
	case *membershippb.DowngradeInfoSetRequest:
		if r.Enabled {
			return validateVersion(r.Ver)
		}
	}
	return nil
}

// validateTxn looks at all branches: which ones are taken depends on the state.
func validateTxn(r *pb.TxnRequest) error {
	for _, ops := range [][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			var err error
			switch req := op.Request.(type) {
			case *pb.RequestOp_RequestRange:
				err = validateSort(req.RequestRange)
			case *pb.RequestOp_RequestTxn:
				err = validateTxn(req.RequestTxn)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func validateSort(r *pb.RangeRequest) error {
	_, order := pb.RangeRequest_SortOrder_name[int32(r.SortOrder)]
	_, target := pb.RangeRequest_SortTarget_name[int32(r.SortTarget)]
	if !order || !target {
		return rpctypes.ErrGRPCInvalidSortOption
	}
	return nil
}

var errNoVersion = status.Error(codes.InvalidArgument, "weir: the version is not of the form 3.7.0")

func validateVersion(text string) error {
	if _, err := semver.NewVersion(text); err != nil {
		return errNoVersion
	}
	return nil
}
