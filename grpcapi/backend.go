package grpcapi

import (
	"context"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"

	"weir/cache"
	"weir/coalesce"
	"weir/grpcapi/wire"
)

// Backend answers the requests of a server that holds the data itself. core.Node satisfies it.
//
// Requests arrive decoded and checked for everything that can be checked without the data. Encoded answers are
// immutable once returned. Errors are those of etcd's rpctypes package, or context errors, which the server
// turns into etcd's. Every method may be called concurrently.
type Backend interface {
	KV
	Lease
	Cluster
	Maintenance
	Auth

	// Header is the ResponseHeader as of now: the newest applied revision and the term of raft.
	Header() wire.Header
	// Hub is the watch engine that the store publishes to.
	Hub() *coalesce.Hub
}

// KV is the data. Each method but Compact returns the encoded response, header included.
type KV interface {
	Range(ctx context.Context, r *wire.RangeRequest) (mem.BufferSlice, error)
	// RangeStream calls send with encoded RangeStreamResponses; an error from send ends it.
	RangeStream(ctx context.Context, r *wire.RangeRequest, send func(mem.BufferSlice) error) error
	Put(ctx context.Context, r *wire.PutRequest) (mem.BufferSlice, error)
	DeleteRange(ctx context.Context, r *wire.DeleteRangeRequest) (mem.BufferSlice, error)
	// Txn is given the encoded request too, which is what goes into the log.
	Txn(ctx context.Context, r *pb.TxnRequest, raw []byte) (mem.BufferSlice, error)
	Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error)
}

// Lease is the lease service. Responses come with their header.
type Lease interface {
	LeaseGrant(ctx context.Context, r *pb.LeaseGrantRequest) (*pb.LeaseGrantResponse, error)
	LeaseRevoke(ctx context.Context, r *pb.LeaseRevokeRequest) (*pb.LeaseRevokeResponse, error)
	// LeaseRenew is one ping. It returns the TTL in seconds that the lease has again, or
	// rpctypes.ErrGRPCLeaseNotFound, which the keepalive stream answers as TTL 0.
	LeaseRenew(ctx context.Context, id int64) (ttl int64, err error)
	// LeaseRenewNow is many pings, as far as none has to wait for its own lease or is refused. It may wait for what they all need,
	// as for other members' word that this one still leads. It sets ttls, which is as long as ids, to the TTLs in seconds that the
	// leases have again; 0 is of one about which LeaseRenew is to be asked.
	LeaseRenewNow(ctx context.Context, ids, ttls []int64)
	// LeaseTimeToLive fails with rpctypes.ErrGRPCLeaseNotFound too, which is answered as TTL -1.
	LeaseTimeToLive(ctx context.Context, r *pb.LeaseTimeToLiveRequest) (*pb.LeaseTimeToLiveResponse, error)
	LeaseLeases(ctx context.Context, r *pb.LeaseLeasesRequest) (*pb.LeaseLeasesResponse, error)
}

// Cluster is the membership. The headers of its answers have no revision, as at etcd.
type Cluster interface {
	MemberList(ctx context.Context, r *pb.MemberListRequest) (*pb.MemberListResponse, error)
	MemberAdd(ctx context.Context, r *pb.MemberAddRequest) (*pb.MemberAddResponse, error)
	MemberRemove(ctx context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error)
	MemberUpdate(ctx context.Context, r *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error)
	MemberPromote(ctx context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error)
}

// Maintenance is what operators ask of one member.
type Maintenance interface {
	Alarm(ctx context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error)
	// Alarms are those that this member knows of. It asks no other member, and permits everybody.
	Alarms() []*pb.AlarmMember
	Status(ctx context.Context, r *pb.StatusRequest) (*pb.StatusResponse, error)
	Defragment(ctx context.Context, r *pb.DefragmentRequest) (*pb.DefragmentResponse, error)
	Hash(ctx context.Context, r *pb.HashRequest) (*pb.HashResponse, error)
	HashKV(ctx context.Context, r *pb.HashKVRequest) (*pb.HashKVResponse, error)
	// Snapshot calls send with the parts of the store's file as of one moment, then with its SHA-256, as etcd does.
	Snapshot(ctx context.Context, send func(*pb.SnapshotResponse) error) error
	MoveLeader(ctx context.Context, r *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error)
	Downgrade(ctx context.Context, r *pb.DowngradeRequest) (*pb.DowngradeResponse, error)
	// PermitKnown refuses who does not say who they are, while authentication is on. Status and reading alarms do not ask
	// that by themselves, because the server needs them too.
	PermitKnown(ctx context.Context) error
}

// Forwarder passes RPCs to another server without reading them. proxy.Proxy satisfies it.
//
// Metadata, deadline, half-close, trailers, code, text and details of errors pass unchanged in both directions.
// What an answer shows of the store's revision is told to the session of the client's connection, which is nil for requests
// of the server itself. Both methods may be called concurrently.
type Forwarder interface {
	// Unary forwards one request of the method ("/etcdserverpb.KV/Put") and returns the encoded response. It sets
	// header and trailer on ctx (grpc.SetHeader, grpc.SetTrailer).
	Unary(ctx context.Context, method string, req wire.Raw, s *cache.Session) (wire.Raw, error)
	// Stream forwards a stream of any kind until both sides have ended.
	Stream(method string, stream grpc.ServerStream, s *cache.Session) error
}

// WatchSharer is what a forwarding server needs to serve watches itself, many of its clients' from one of upstream's.
// proxy.Proxy satisfies it. All methods may be called concurrently.
//
// Who may watch what is asked as at a Backend, see WatchPermits. There the user is an opaque name for whoever has sent a stream.
// An Unavailable error of it ends the stream: the client comes again, and it is seen then.
type WatchSharer interface {
	WatchPermits

	// Hub is the watch engine that upstream's watches feed. Before it serves a stream no longer that it has
	// served, because what Share says has changed, it ends the stream with an error that has clients connect again.
	Hub() *coalesce.Hub
	// Header is that of the member from which the hub is fed, as last seen. Its revision may be old, or 0.
	Header() wire.Header
	// Share tells whether streams may be served from the hub: then apart is nil. If not, they are forwarded until apart
	// ends, because from then on they may, and its cause is the error to end them with, which has clients connect again.
	// Share waits until that is known, or fails with the error to answer: upstream cannot be reached, or ctx has ended.
	Share(ctx context.Context) (apart context.Context, err error)
	// Watching says that so many more streams may be served from the hub.
	Watching(more int)
	// Leader waits until it is known whether upstream has a leader. If it has none, the error is
	// rpctypes.ErrGRPCNoLeader; if upstream cannot be reached, it is Unavailable. Else led ends when the leader is lost,
	// and its cause is the status error to end the stream with: ErrGRPCNoLeader if a member said so, and Unavailable if
	// no member could be reached for long, which the client resumes from by itself.
	Leader(ctx context.Context) (led context.Context, err error)
	// Era counts how often revisions have begun to mean something else, see cache.Session. It is raised before the
	// hub has a feed of the new era: a watch that is asked for after Era was called is of that era or a later one. It
	// takes no lock.
	Era() uint64
}

// Reads is what a forwarding server needs to answer reads without asking upstream for each of them. proxy.Proxy satisfies it.
//
// Requests ask for no leader, are valid, and hold nothing that is not known here. Who asks is in wire.CredentialsOf(ctx), and
// Reads sees to it that nobody is given what upstream would refuse them. It asks upstream itself where it has no answer. The session is that of the client's connection: no answer is of an older revision than the
// session was told, and it is told that of the answer. Errors are as Backend's, or status errors from upstream. All
// methods may be called concurrently.
type Reads interface {
	// Range returns the encoded RangeResponse. r.Raw is the request as it came. What is to go beside the response is set
	// on ctx (grpc.SetHeader, grpc.SetTrailer).
	Range(ctx context.Context, r *wire.RangeRequest, s *cache.Session) (mem.BufferSlice, error)
	// Txn returns the encoded TxnResponse of a transaction that only compares and reads. raw is the request as it came.
	Txn(ctx context.Context, r *pb.TxnRequest, raw wire.Raw, s *cache.Session) (mem.BufferSlice, error)
	// RangeStream sends the RangeStreamResponses. The stream still has the request to be received, so that it can be
	// given to Forwarder.Stream, unless something has been sent.
	RangeStream(r *wire.RangeRequest, s *cache.Session, stream grpc.ServerStream) error
}

// Upstream is a Forwarder that knows whether it can forward. proxy.Proxy satisfies it.
type Upstream interface {
	Forwarder
	// Ready returns nil if some upstream endpoint is connected, else an error that names each and what is wrong.
	Ready(ctx context.Context) error
	// UpstreamHTTP returns the body of what an upstream member answers to GET at a path: /metrics, /version. It ends with
	// ctx, and the caller closes it.
	UpstreamHTTP(ctx context.Context, path string) (io.ReadCloser, error)
}
