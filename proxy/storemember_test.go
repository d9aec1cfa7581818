package proxy

import (
	"maps"
	"slices"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/wire"
)

// storeMember is a member as far as reads from memory need one: keys, which are read as they are now, and watches of all of them.
type storeMember struct {
	mu      sync.Mutex // guards what follows, and sending on watches
	rev     int64
	keys    map[string]*mvccpb.KeyValue
	watches map[grpc.ServerStream][]int64 // ids by stream
	asked   int                           // questions for a part of a range, at a revision
}

func newStoreMember() *storeMember {
	return &storeMember{rev: 1, keys: map[string]*mvccpb.KeyValue{}, watches: map[grpc.ServerStream][]int64{}}
}

func (m *storeMember) handlers() map[string]func(grpc.ServerStream) error {
	return map[string]func(grpc.ServerStream) error{
		pb.KV_Range_FullMethodName:           m.read,
		pb.Watch_Watch_FullMethodName:        m.watch,
		pb.Maintenance_Status_FullMethodName: answers(&pb.StatusResponse{Version: "3.7.0"}),
	}
}

func (m *storeMember) header() *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: 1, MemberId: 1, RaftTerm: 1, Revision: m.rev}
}

func (m *storeMember) put(t *testing.T, key string, value []byte) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rev++
	kv := &mvccpb.KeyValue{Key: []byte(key), Value: value, CreateRevision: m.rev, ModRevision: m.rev, Version: 1}
	if was := m.keys[key]; was != nil {
		kv.CreateRevision, kv.Version = was.CreateRevision, was.Version+1
	}
	m.keys[key] = kv
	for s, ids := range m.watches {
		for _, id := range ids {
			if err := s.SendMsg(&pb.WatchResponse{Header: m.header(), WatchId: id, Events: []*mvccpb.Event{{Kv: kv}}}); err != nil {
				t.Error(err)
			}
		}
	}
}

func (m *storeMember) read(s grpc.ServerStream) error {
	var raw wire.Raw
	var r pb.RangeRequest
	if err := s.RecvMsg(&raw); err != nil {
		return err
	}
	if err := proto.Unmarshal(raw, &r); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.Revision > 0 && !r.Serializable {
		m.asked++
	}
	resp := &pb.RangeResponse{Header: m.header()}
	for _, key := range slices.Sorted(maps.Keys(m.keys)) {
		if key != string(r.Key) && (key < string(r.Key) || string(r.RangeEnd) != "\x00" && key >= string(r.RangeEnd)) {
			continue
		}
		if resp.Count++; r.Limit > 0 && resp.Count > r.Limit {
			resp.More = true
		} else if !r.CountOnly {
			resp.Kvs = append(resp.Kvs, m.keys[key])
		}
	}
	return s.SendMsg(resp)
}

func (m *storeMember) watch(s grpc.ServerStream) error {
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.watches, s)
	}()
	for {
		var raw wire.Raw
		var r pb.WatchRequest
		if err := s.RecvMsg(&raw); err != nil {
			return endOf(err)
		}
		if err := proto.Unmarshal(raw, &r); err != nil {
			return err
		}
		if err := m.answer(s, &r); err != nil {
			return err
		}
	}
}

// answer answers one request of a stream of watches.
func (m *storeMember) answer(s grpc.ServerStream, r *pb.WatchRequest) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	resp := &pb.WatchResponse{Header: m.header()}
	switch r := r.RequestUnion.(type) {
	case *pb.WatchRequest_CreateRequest:
		resp.WatchId, resp.Created = r.CreateRequest.WatchId, true
		m.watches[s] = append(m.watches[s], resp.WatchId)
	case *pb.WatchRequest_CancelRequest:
		resp.WatchId, resp.Canceled = r.CancelRequest.WatchId, true
		m.watches[s] = slices.DeleteFunc(m.watches[s], func(id int64) bool { return id == resp.WatchId })
	case *pb.WatchRequest_ProgressRequest:
		resp.WatchId = -1 // of all
	}
	return s.SendMsg(resp)
}
