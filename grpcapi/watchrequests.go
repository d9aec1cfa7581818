package grpcapi

import (
	"bytes"
	"math/rand/v2"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/status"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// watchRequest is an encoded WatchRequest, and when it arrived.
//
// The requests of a stream are done one after another in their order, as at etcd. Where creating a watch may have to wait
// for upstream, they are queued, so that those behind it are read, and so have arrived, meanwhile: one answer from
// upstream then serves all that arrived before it was asked. Otherwise a client that creates ten thousand watches would
// wait ten thousand times. A goroutine does what is in the queue, and ends when it is empty.
type watchRequest struct {
	raw     wire.Raw
	since   coalesce.Arrival
	refused bool // for want of room; raw is empty
}

const (
	// maxQueuedRequests is the size in bytes of a stream's queue from which no further requests are read.
	maxQueuedRequests = 64 << 10
	// maxAllQueuedRequests is the size of all streams' queues from which each stream may have one request in it, and none of
	// more than maxLateRequest: that one is refused. Nobody waits for another's queue, which may belong to a client that
	// takes no answers.
	maxAllQueuedRequests = 64 << 20
	maxLateRequest       = 4 << 10
)

// size is what a request counts in the queue.
func (r watchRequest) size() int { return len(r.raw) + 64 }

// mayRead is called with s.mu held.
func (s *watchStream) mayRead() bool {
	if s.requestBytes > 0 && s.service.requestBytes.Load() >= maxAllQueuedRequests {
		return false
	}
	return s.hasRoom() && s.requestBytes < maxQueuedRequests
}

func (s *watchStream) queueRequest(r watchRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(r.raw) > maxLateRequest && s.service.requestBytes.Load()+int64(r.size()) > maxAllQueuedRequests {
		r.raw, r.refused = nil, true
	}
	s.requests = append(s.requests, r)
	s.countRequests(r.size())
	if !s.handling {
		s.handling = true
		s.service.tasks.Go(s.handleQueued)
	}
}

// handleQueued does what is in the queue. While the client does not take the answers, it waits.
func (s *watchStream) handleQueued() {
	for {
		open := s.await(s.hasRoom)
		s.mu.Lock()
		if !open || len(s.requests) == 0 {
			for _, r := range s.requests {
				s.countRequests(-r.size())
			}
			s.requests, s.handling = nil, false
			s.mu.Unlock()
			return
		}
		r := s.requests[0]
		s.requests[0].raw = nil // the array is kept
		s.requests = s.requests[1:]
		s.mu.Unlock()

		s.handle(r)

		s.mu.Lock()
		s.countRequests(-r.size())
		s.changed.Broadcast()
		s.mu.Unlock()
	}
}

// countRequests is called with s.mu held.
func (s *watchStream) countRequests(bytes int) {
	s.requestBytes += bytes
	s.service.requestBytes.Add(int64(bytes))
}

// handle does what one request asks. It is called for one request at a time. Requests of an unknown kind are ignored, as
// at etcd.
func (s *watchStream) handle(r watchRequest) {
	if r.refused { // of the three kinds it can only have been a create
		s.refuse(rpctypes.ErrTooManyRequests.Error(), r.since)
		return
	}
	var req wire.WatchRequest
	if err := req.Unmarshal(r.raw); err != nil {
		s.end(errUndecodable)
		return
	}
	switch req.Kind {
	case wire.WatchCreates:
		s.create(&req.Create, r.since)
	case wire.WatchCancels:
		s.cancel(req.CancelID, r.since)
	case wire.WatchAsksProgress:
		s.hub.RequestProgress(r.since)
	}
}

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

// create starts a watch, or refuses it. That it has been created is announced by Created, which the hub calls.
func (s *watchStream) create(r *wire.WatchCreate, since coalesce.Arrival) {
	if len(r.Key) == 0 {
		r.Key = []byte{0} // the smallest key
	}
	s.namespace.enclose(&r.Key, &r.End)
	w, reason := s.newWatch(r)
	if reason == "" {
		o := coalesce.Watch{
			Key: r.Key, End: r.End, Start: r.StartRevision,
			PrevKV: r.PrevKV, ProgressNotify: r.ProgressNotify, NoPut: r.NoPut, NoDelete: r.NoDelete,
		}
		ctx := s.grpc.Context()
		err := s.hub.Watch(ctx, w, o, since)
		if err == nil {
			if o.ProgressNotify {
				s.startTicking()
			}
			return
		}
		s.mu.Lock()
		s.forget(w.ID)
		if r.WatchID == 0 {
			s.nextID = w.ID // a refused watch has no id
		}
		s.mu.Unlock()
		if ctx.Err() != nil {
			return
		}
		reason = err.Error()
	}
	s.refuse(reason, since)
}

// refuse answers the request for a watch that is not created.
func (s *watchStream) refuse(reason string, since coalesce.Arrival) {
	h := s.headerSince(since)
	s.session.Told(s.era, h.Revision)
	head := wire.AppendWatchCreated(wire.AppendWatchHead(nil, h, noWatchID))
	s.post(wire.AppendWatchCanceled(head, 0, reason))
}

// newWatch gives a watch its id, or says why it cannot be, in etcd's order of precedence.
func (s *watchStream) newWatch(r *wire.WatchCreate) (w *coalesce.Watcher, reason string) {
	if r.StartRevision < 0 {
		return nil, rpctypes.ErrCompacted.Error()
	}
	user, reason := s.permit(r)
	if reason != "" {
		return nil, reason
	}
	if isEmptyRange(r.Key, r.End) {
		return nil, reasonEmptyRange
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, rpctypes.ErrGRPCWatchCanceled.Error() // which nobody is told any more
	}
	size := watchBytes + 2*(len(r.Key)+len(r.End)) // the request is there while the watch is made of it
	if s.watchBytes+size > maxStreamWatchBytes || s.service.watchBytes.Load()+int64(size) > maxWatchBytes {
		return nil, rpctypes.ErrTooManyRequests.Error()
	}
	id := r.WatchID
	if id == 0 {
		for s.watches.get(s.nextID).watcher != nil {
			s.nextID++
		}
		id = s.nextID
		s.nextID++
	} else if s.watches.get(id).watcher != nil {
		return nil, reasonDuplicateID
	}
	if s.visit != nil {
		if err := s.visit.Watch(); err != nil {
			if r.WatchID == 0 {
				s.nextID = id // a refused watch has no id
			}
			return nil, status.Convert(toStatus(err)).Message()
		}
	}
	w = &coalesce.Watcher{ID: id, Fragment: r.Fragment}
	if user != "" {
		s.user, w.Range = user, rangeOf(r)
	}
	e := watchEntry{watcher: w, bytes: size}
	if s.service.cfg.era != nil {
		e.era = s.service.cfg.era() // before the hub is asked for the watch
	}
	s.watches.add(e)
	s.watchBytes += size
	s.service.watchBytes.Add(int64(size))
	return w, ""
}

func isEmptyRange(key, end []byte) bool {
	return len(end) > 0 && !bytes.Equal(end, []byte{0}) && bytes.Compare(key, end) >= 0
}

// cancel ends a watch at the client's wish. An unknown id has no answer. One that was compacted away is known until
// the client cancels it, as at etcd. One that ends by itself while a revision to state is awaited has had its answer.
//
// The answer is on its way before the hub knows: when a watch has left the hub, the stream may be told a progress that
// the watch was not sent up to.
func (s *watchStream) cancel(id int64, since coalesce.Arrival) {
	s.mu.Lock()
	known := s.watches.get(id).watcher != nil
	s.mu.Unlock()
	if !known {
		return
	}
	h := s.headerSince(since)
	s.mu.Lock()
	e := s.forget(id)
	if e.watcher == nil {
		s.mu.Unlock()
		return
	}
	s.session.Told(e.era, h.Revision)
	o := s.response(h, id)
	o.head = wire.AppendWatchCanceled(o.head, 0, "")
	s.enqueue(o.add(nil, 0))
	s.send()
	s.hub.Cancel(e.watcher)
}

// startTicking begins the periodic progress notifications of the stream.
func (s *watchStream) startTicking() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopTicking == nil && !s.closed {
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
