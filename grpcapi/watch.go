package grpcapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/protobuf/proto"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// watchService is the Watch service over a Hub: it speaks the protocol, and the hub does the watching. Requests are
// read here, in the goroutine of the RPC; watchStream sends what is to be sent.
//
// What clients can observe is as in etcd 3.7's v3rpc/watch.go, with these differences: several revisions may come in
// one response; the header's revision of an event response is never ahead of what the watcher has been sent; and
// RequestProgress is answered when the watchers are up to date, where etcd drops it if they are not.
type watchService struct {
	hub    *coalesce.Hub
	header func() wire.Header // as of now
	cfg    watchConfig
	marker []byte // empty; see outgoing

	watchBytes atomic.Int64 // of the watches of all streams
}

// watchConfig says how a watchService behaves. All fields must be set.
type watchConfig struct {
	// maxResponseBytes is the size from which a response is sent in fragments to watchers that ask for it.
	maxResponseBytes int
	// progressInterval is after how long without events a watcher with progress_notify is told its progress. Up to
	// a tenth is added, so that streams opened together do not all come at once.
	progressInterval time.Duration
	// after calls f once after d, in a goroutine of its own, unless it is stopped before.
	after func(d time.Duration, f func()) (stop func() bool)
}

// etcd's default, and the least that it accepts.
const (
	defaultProgressInterval = 10 * time.Minute
	minProgressInterval     = 100 * time.Millisecond
)

// The watches of one stream may take maxStreamWatchBytes, a quarter of a million of short keys, and those of all streams
// maxWatchBytes; more are refused. etcd has no such bounds.
const (
	maxStreamWatchBytes = 128 << 20
	maxWatchBytes       = 1 << 30
	watchBytes          = 512 // at most, of one besides its key and range end; see BenchmarkWatchMemory
)

// Reasons for which etcd refuses a watch. They are not among rpctypes' errors.
const (
	reasonEmptyRange  = "mvcc: watcher range is empty"
	reasonDuplicateID = "mvcc: duplicate watch ID provided on the WatchStream"
)

// noWatchID is in responses that are not about one watch.
const noWatchID = -1

// afterFunc is watchConfig.after on the system's clock.
func afterFunc(d time.Duration, f func()) (stop func() bool) { return time.AfterFunc(d, f).Stop }

func newWatchService(hub *coalesce.Hub, header func() wire.Header, cfg watchConfig) *watchService {
	return &watchService{hub: hub, header: header, cfg: cfg, marker: make([]byte, 0, markerCap)}
}

// register adds the service to gs.
func (w *watchService) register(gs *grpc.Server, b Maintenance) {
	gs.RegisterService(&grpc.ServiceDesc{
		ServiceName: pb.Watch_ServiceDesc.ServiceName,
		Metadata:    pb.Watch_ServiceDesc.Metadata,
		Streams:     []grpc.StreamDesc{stream("Watch", true, b, w.serve)},
	}, nil)
}

// serve is one Watch RPC. It ends when the client or the transport ends it. A client that has only closed its sending
// side goes on receiving, as at etcd.
func (w *watchService) serve(gs grpc.ServerStream) error {
	s := newWatchStream(w, gs)
	defer s.close()

	ctx := gs.Context()
	// A compressed message is freed before it is sent, and what is in flight could not be counted.
	if err := grpc.SetSendCompressor(ctx, encoding.Identity); err != nil {
		return err
	}
	if ctx.Value(http.ServerContextKey) != nil {
		s.limit = 1 // net/http's transport blocks as soon as one message is unwritten
	}
	for s.awaitRoom() {
		var raw wire.Raw
		err := gs.RecvMsg(&raw)
		switch {
		case errors.Is(err, io.EOF):
			<-ctx.Done()
		case err != nil && ctx.Err() == nil:
			return err
		case err == nil:
			var req pb.WatchRequest
			if err := proto.Unmarshal(raw, &req); err != nil {
				return undecodable(err)
			}
			s.handle(&req)
		}
		if ctx.Err() != nil {
			break
		}
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return rpctypes.ErrGRPCWatchCanceled
	}
	return ctx.Err()
}

// handle does what one request asks. Requests of an unknown kind are ignored, as at etcd.
func (s *watchStream) handle(req *pb.WatchRequest) {
	switch r := req.RequestUnion.(type) {
	case *pb.WatchRequest_CreateRequest:
		if r.CreateRequest != nil {
			s.create(r.CreateRequest)
		}
	case *pb.WatchRequest_CancelRequest:
		if r.CancelRequest != nil {
			s.cancel(r.CancelRequest.WatchId)
		}
	case *pb.WatchRequest_ProgressRequest:
		if r.ProgressRequest != nil {
			s.hub.RequestProgress(s.headerNow().Revision)
		}
	}
}

// create announces a watch and starts it. The announcement comes first, so that it precedes all events; "now" is
// the revision that it states.
func (s *watchStream) create(r *pb.WatchCreateRequest) {
	if len(r.Key) == 0 {
		r.Key = []byte{0} // the smallest key
	}
	h := s.headerNow()
	w, reason := s.newWatch(r)
	if reason != "" {
		head := wire.AppendWatchCreated(wire.AppendWatchHead(nil, h, noWatchID))
		s.post(wire.AppendWatchCanceled(head, 0, reason))
		return
	}
	s.post(wire.AppendWatchCreated(wire.AppendWatchHead(nil, h, w.ID)))
	o := coalesce.Watch{
		Key: r.Key, End: r.RangeEnd, Start: r.StartRevision,
		PrevKV: r.PrevKv, ProgressNotify: r.ProgressNotify,
	}
	if o.Start == 0 {
		o.Start = h.Revision + 1
	}
	for _, f := range r.Filters {
		o.NoPut = o.NoPut || f == pb.WatchCreateRequest_NOPUT
		o.NoDelete = o.NoDelete || f == pb.WatchCreateRequest_NODELETE
	}
	if o.ProgressNotify {
		s.startTicking()
	}
	s.hub.Watch(w, o)
}

// newWatch gives a watch its id, or says why it cannot be, in etcd's order of precedence.
func (s *watchStream) newWatch(r *pb.WatchCreateRequest) (w *coalesce.Watcher, reason string) {
	if r.StartRevision < 0 {
		return nil, rpctypes.ErrCompacted.Error()
	}
	if isEmptyRange(r.Key, r.RangeEnd) {
		return nil, reasonEmptyRange
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	size := watchBytes + 2*(len(r.Key)+len(r.RangeEnd)) // the request is there while the watch is made of it
	if s.watchBytes+size > maxStreamWatchBytes || s.service.watchBytes.Load()+int64(size) > maxWatchBytes {
		return nil, rpctypes.ErrTooManyRequests.Error()
	}
	id := r.WatchId
	if id == 0 {
		for s.watches[s.nextID].watcher != nil {
			s.nextID++
		}
		id = s.nextID
		s.nextID++
	} else if s.watches[id].watcher != nil {
		return nil, reasonDuplicateID
	}
	w = &coalesce.Watcher{ID: id, Fragment: r.Fragment}
	s.watches[id] = watchEntry{watcher: w, bytes: size}
	s.watchBytes += size
	s.service.watchBytes.Add(int64(size))
	s.announced++
	return w, ""
}

func isEmptyRange(key, end []byte) bool {
	return len(end) > 0 && !bytes.Equal(end, []byte{0}) && bytes.Compare(key, end) >= 0
}

// cancel ends a watch at the client's wish. An unknown id has no answer. One that was compacted away is known until
// the client cancels it, as at etcd.
//
// The answer is on its way before the hub knows: when a watch has left the hub, the stream may be told a progress that
// the watch was not sent up to.
func (s *watchStream) cancel(id int64) {
	h := s.headerNow()
	s.mu.Lock()
	w := s.forget(id)
	if w == nil {
		s.mu.Unlock()
		return
	}
	o := s.response(h, id)
	o.head = wire.AppendWatchCanceled(o.head, 0, "")
	s.enqueue(o.add(nil, 0))
	s.send()
	s.hub.Cancel(w)
}

// headerNow is the header of a response that is not about events. Its revision is not below any that this stream
// has been sent.
func (s *watchStream) headerNow() wire.Header {
	h := s.service.header()
	h.Revision = max(h.Revision, s.service.hub.Revision())
	return h
}

// startTicking begins the periodic progress notifications of the stream.
func (s *watchStream) startTicking() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopTicking == nil {
		interval := s.service.cfg.progressInterval
		s.tick(interval + rand.N(interval/10+1))
	}
}

// tick is called with s.mu held.
func (s *watchStream) tick(interval time.Duration) {
	s.stopTicking = s.service.cfg.after(interval, func() {
		s.hub.NotifyProgress()
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.closed {
			s.tick(interval)
		}
	})
}
