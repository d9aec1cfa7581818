package tenants

import (
	"slices"
	"strconv"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/lockpb"
	"weir/grpcapi/wire"
)

// demand is what a request asks for, as far as it matters who asks. Keys are without namespace.
type demand struct {
	class    class
	user     string             // whom it asks to know about
	leases   map[int64]struct{} // that it attaches a key to, renews, revokes or asks to know about; no more than one too many
	branches [][]put            // of which one is done
}

// maxLeases bounds the leases of one request, because upstream is asked about each. The two branches of a transaction have 256 at
// most, of the 128 operations that etcd's --max-txn-ops lets a branch have by default. The proxy does not know upstream's, which may
// be higher, and those inside a transaction have some of their own: so there is room for as many again.
const maxLeases = 512

// put is a key that may be there afterwards.
type put struct {
	key     []byte
	unnamed bool  // upstream chooses the key
	size    int64 // of key and value
}

// What a put takes while it is kept, beside its key, and a lease.
const (
	putBytes   = 64 // with what the allocators of slices and keys round up
	leaseBytes = 32
)

// bytes is about what is kept of a request beside the request itself.
func (d *demand) bytes() int {
	n := leaseBytes * len(d.leases)
	for _, puts := range d.branches {
		n += putBytes * len(puts)
		for i := range puts {
			n += len(puts[i].key)
		}
	}
	return n
}

// read finds out what a request of a method asks for. The error is the client's. A message of a stream is a request too.
func read(method string, req wire.Raw) (d demand, err error) {
	d.class = classOf(method)
	switch method {
	case pb.KV_Put_FullMethodName:
		var r wire.PutRequest
		if err = r.Unmarshal(req); err == nil {
			d.put(0, r.Key, r.Value, r.Lease, r.IgnoreValue)
		}
	case pb.KV_Txn_FullMethodName:
		var r pb.TxnRequest
		if err = proto.Unmarshal(req, &r); err == nil {
			d.class = reads
			d.operations(0, r.Success)
			d.operations(1, r.Failure)
		}
	case pb.Lease_LeaseRevoke_FullMethodName:
		var r pb.LeaseRevokeRequest
		err = proto.Unmarshal(req, &r)
		d.lease(r.ID)
	case pb.Lease_LeaseTimeToLive_FullMethodName:
		var r pb.LeaseTimeToLiveRequest
		err = proto.Unmarshal(req, &r)
		d.lease(r.ID)
	case pb.Lease_LeaseKeepAlive_FullMethodName:
		var r pb.LeaseKeepAliveRequest
		err = proto.Unmarshal(req, &r)
		d.lease(r.ID)
	case pb.Maintenance_Alarm_FullMethodName:
		var r pb.AlarmRequest
		if err = proto.Unmarshal(req, &r); r.Action == pb.AlarmRequest_GET {
			d.class = reads
		}
	case pb.Auth_UserGet_FullMethodName:
		var r pb.AuthUserGetRequest
		err = proto.Unmarshal(req, &r)
		d.user = r.Name
	case lockpb.Lock_Lock_FullMethodName:
		var r lockpb.LockRequest
		err = proto.Unmarshal(req, &r)
		d.join(r.Name, nil, r.Lease)
	case lockpb.Election_Campaign_FullMethodName:
		var r lockpb.CampaignRequest
		err = proto.Unmarshal(req, &r)
		d.join(r.Name, r.Value, r.Lease)
	case lockpb.Election_Proclaim_FullMethodName:
		var r lockpb.ProclaimRequest
		err = proto.Unmarshal(req, &r)
		d.put(0, r.GetLeader().GetKey(), r.Value, r.GetLeader().GetLease(), false)
	case lockpb.Election_Resign_FullMethodName: // etcd pings the lease
		var r lockpb.ResignRequest
		err = proto.Unmarshal(req, &r)
		d.lease(r.GetLeader().GetLease())
	}
	if err != nil {
		return demand{}, errUndecodable
	}
	return d, nil
}

// errUndecodable is what etcd answers when a message is not the protobuf it should be.
var errUndecodable = status.Error(codes.Internal,
	"grpc: failed to unmarshal the received message: proto: cannot parse invalid wire-format data")

func (d *demand) lease(id int64) {
	if id == 0 || len(d.leases) > maxLeases {
		return
	}
	if d.leases == nil {
		d.leases = map[int64]struct{}{}
	}
	d.leases[id] = struct{}{}
}

// put adds a put to a branch. One that leaves the value as it is does not make the key larger, and fails if it is not there.
func (d *demand) put(branch int, key, value []byte, lease int64, sameValue bool) {
	d.lease(lease)
	if sameValue {
		return
	}
	for len(d.branches) <= branch {
		d.branches = append(d.branches, nil)
	}
	d.branches[branch] = append(d.branches[branch], put{key: key, size: int64(len(key) + len(value))})
}

// join adds the key by which somebody queues up for a lock or an election: its name, and the lease. Without one upstream
// grants it. (etcd's client/v3/concurrency)
func (d *demand) join(name, value []byte, lease int64) {
	const maxLease = 16 // digits
	if lease != 0 {
		d.put(0, strconv.AppendUint(append(slices.Clip(name), '/'), uint64(lease), 16), value, lease, false)
		return
	}
	d.branches = [][]put{{{unnamed: true, size: int64(len(name) + 1 + maxLease + len(value))}}}
}

// operations adds those of one branch of a transaction. What a transaction inside does is added as if both of its branches
// were done.
func (d *demand) operations(branch int, ops []*pb.RequestOp) {
	for _, op := range ops {
		switch r := op.GetRequest().(type) {
		case *pb.RequestOp_RequestRange:
		case *pb.RequestOp_RequestPut:
			d.class = min(d.class, writes)
			p := r.RequestPut
			d.put(branch, p.GetKey(), p.GetValue(), p.GetLease(), p.GetIgnoreValue())
		case *pb.RequestOp_RequestDeleteRange:
			d.class = min(d.class, writes)
		case *pb.RequestOp_RequestTxn:
			d.operations(branch, r.RequestTxn.GetSuccess())
			d.operations(branch, r.RequestTxn.GetFailure())
		default:
			if len(op.ProtoReflect().GetUnknown()) > 0 {
				d.class = changesAll // a newer etcd may know what it is
			}
		}
	}
}
