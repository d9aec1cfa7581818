package differential

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"weir/loadtest/target"
)

// side is one of the two servers.
type side struct {
	index    int
	name     string
	target   *target.Target
	rpcs     map[protoreflect.FullName]rpc
	conn     *grpc.ClientConn
	http     *http.Client // for the gateway
	kv       pb.KVClient
	lease    pb.LeaseClient
	watch    pb.WatchClient
	election v3electionpb.ElectionClient

	pings      pb.Lease_LeaseKeepAliveClient
	closePings context.CancelFunc // nil before the first

	// Ids that the server has made up.
	self    uint64 // of the member, from the last header
	learner uint64 // of the learner that was added last; it may be gone
}

func newSide(index int, tg *target.Target) (*side, error) {
	rpcs, err := unaryRPCs()
	if err != nil {
		return nil, err
	}
	// One connection: what is promised about revisions that never go back is promised to a connection.
	conn, err := target.Dial(tg.Endpoint)
	if err != nil {
		return nil, err
	}
	s := &side{index: index, name: string(tg.Kind), target: tg, rpcs: rpcs, conn: conn, http: &http.Client{Transport: &http.Transport{}},
		kv: pb.NewKVClient(conn), lease: pb.NewLeaseClient(conn), watch: pb.NewWatchClient(conn), election: v3electionpb.NewElectionClient(conn)}
	return s, nil
}

// several tells whether the side has more than one member, which the other side has not.
func (s *side) several() bool { return s.target.Kind.Members() > 1 }

// close ends the connections and all that runs over them.
func (s *side) close() {
	_ = s.conn.Close()
	s.http.CloseIdleConnections()
}

// as gives a gRPC request an identity.
func (s *side) as(ctx context.Context, who *identity) context.Context {
	if who == nil {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "token", who.tokens[s.index])
}

// openPings opens the stream of keepalives anew.
func (s *side) openPings(ctx context.Context, who *identity) error {
	ctx, cancel := context.WithCancel(ctx)
	pings, err := s.lease.LeaseKeepAlive(s.as(ctx, who))
	if err != nil {
		cancel()
		return fmt.Errorf("open the keepalive stream of %s: %w", s.name, err)
	}
	if s.closePings != nil {
		s.closePings()
	}
	s.pings, s.closePings = pings, cancel
	return nil
}

// ping is one keepalive on the side's only keepalive stream.
func (s *side) ping(r *pb.LeaseKeepAliveRequest) answer {
	// A stream that has ended says so at Send, and why at Recv.
	if err := s.pings.Send(r); err != nil && !errors.Is(err, io.EOF) {
		return answer{err: err}
	}
	resp, err := s.pings.Recv()
	if err != nil {
		return answer{err: err}
	}
	return answer{resp: resp}
}

// rangeStream is a RangeStream with its chunks put together: where they are cut is the server's business. That only the
// last one has more than key-values is not.
func (s *side) rangeStream(ctx context.Context, who *identity, r *pb.RangeRequest) answer {
	stream, err := s.kv.RangeStream(s.as(ctx, who), r)
	if err != nil {
		return answer{err: err}
	}
	all := &pb.RangeResponse{}
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return answer{resp: all}
		}
		if err != nil {
			return answer{err: err}
		}
		if all.Header != nil {
			return answer{err: fmt.Errorf("a chunk after the last one: %v", chunk)}
		}
		proto.Merge(all, chunk.RangeResponse)
		if all.Header == nil && (all.More || all.Count != 0) {
			return answer{err: fmt.Errorf("count or more before the last chunk: %v", chunk)}
		}
	}
}
