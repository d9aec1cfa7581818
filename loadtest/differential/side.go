package differential

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"weir/loadtest/target"
)

// side is one of the two servers.
type side struct {
	name        string
	conn        *grpc.ClientConn
	kv          pb.KVClient
	lease       pb.LeaseClient
	watch       pb.WatchClient
	cluster     pb.ClusterClient
	maintenance pb.MaintenanceClient
	pings       pb.Lease_LeaseKeepAliveClient
}

func newSide(ctx context.Context, tg *target.Target) (*side, error) {
	// One connection: what is promised about revisions that never go back is promised to a connection.
	conn, err := target.Dial(tg.Endpoint)
	if err != nil {
		return nil, err
	}
	s := &side{
		name:        string(tg.Kind),
		conn:        conn,
		kv:          pb.NewKVClient(conn),
		lease:       pb.NewLeaseClient(conn),
		watch:       pb.NewWatchClient(conn),
		cluster:     pb.NewClusterClient(conn),
		maintenance: pb.NewMaintenanceClient(conn),
	}
	if s.pings, err = s.lease.LeaseKeepAlive(ctx); err != nil {
		return nil, fmt.Errorf("open the keepalive stream of %s: %w", s.name, err)
	}
	return s, nil
}

// close ends the connection and all that runs over it.
func (s *side) close() { _ = s.conn.Close() }

// rangeStream is a RangeStream with its chunks put together: where they are cut is the server's business. That only the
// last one has more than key-values is not.
func (s *side) rangeStream(ctx context.Context, r *pb.RangeRequest) (proto.Message, error) {
	stream, err := s.kv.RangeStream(ctx, r)
	if err != nil {
		return nil, err
	}
	all := &pb.RangeResponse{}
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		if all.Header != nil {
			return nil, fmt.Errorf("a chunk after the last one: %v", chunk)
		}
		proto.Merge(all, chunk.RangeResponse)
		if all.Header == nil && (all.More || all.Count != 0) {
			return nil, fmt.Errorf("count or more before the last chunk: %v", chunk)
		}
	}
}

// ping is one keepalive on the side's only keepalive stream.
func (s *side) ping(r *pb.LeaseKeepAliveRequest) (proto.Message, error) {
	if err := s.pings.Send(r); err != nil {
		return nil, err
	}
	return s.pings.Recv()
}

// statusText shows an error as "Code: text".
func statusText(err error) string {
	s, ok := status.FromError(err)
	if !ok {
		return "not a status: " + err.Error()
	}
	return s.Code().String() + ": " + s.Message()
}

// normalize takes out of a response what two servers may give differently.
func normalize(m proto.Message) {
	if f := m.ProtoReflect().Descriptor().Fields().ByName("header"); f != nil && m.ProtoReflect().Has(f) {
		// Only the outermost header names servers; that those in the responses of a txn do not is compared.
		if h, ok := m.ProtoReflect().Get(f).Message().Interface().(*pb.ResponseHeader); ok {
			h.ClusterId, h.MemberId, h.RaftTerm = isSet(h.ClusterId), isSet(h.MemberId), isSet(h.RaftTerm)
		}
	}
	switch m := m.(type) {
	case *pb.LeaseTimeToLiveResponse:
		// A second may pass between the two answers.
		if m.TTL > 0 && m.TTL <= m.GrantedTTL && m.TTL > m.GrantedTTL-60 {
			m.TTL = m.GrantedTTL
		}
		slices.SortFunc(m.Keys, bytes.Compare) // etcd gives them in the order of a Go map
	case *pb.LeaseLeasesResponse:
		// In the order of expiry: that of leases granted at about the same time.
		slices.SortFunc(m.Leases, func(a, b *pb.LeaseStatus) int { return int(sign(a.ID, b.ID)) })
	case *pb.MemberListResponse:
		for _, member := range m.Members {
			member.ID = isSet(member.ID)
			member.PeerURLs, member.ClientURLs = blank(member.PeerURLs), blank(member.ClientURLs)
		}
	case *pb.StatusResponse:
		m.Leader, m.RaftTerm, m.RaftIndex, m.RaftAppliedIndex = isSet(m.Leader), isSet(m.RaftTerm), isSet(m.RaftIndex), isSet(m.RaftAppliedIndex)
		m.DbSize, m.DbSizeInUse = 1, 1
	case *pb.HashResponse:
		m.Hash = 0 // of the whole file, ids and indexes included
	}
}

func isSet(id uint64) uint64 { return min(id, 1) }

func sign(a, b int64) int64 {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	default:
		return 0
	}
}

func blank(urls []string) []string {
	for i, u := range urls {
		urls[i], _, _ = strings.Cut(u, "127.0.0.1:")
	}
	return urls
}

// revisionOf is the revision in a response's header.
func revisionOf(m proto.Message) int64 {
	f := m.ProtoReflect().Descriptor().Fields().ByName(protoreflect.Name("header"))
	if f == nil {
		return 0
	}
	h, ok := m.ProtoReflect().Get(f).Message().Interface().(*pb.ResponseHeader)
	if !ok {
		return 0
	}
	return h.GetRevision()
}
