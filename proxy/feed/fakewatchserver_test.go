package feed

import (
	"bytes"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

// fakeWatchServer is a member's side of a Watch RPC.
//
// Answers to requests and everything else come to the client by two queues, in any order, but for a watch's own events:
// these wait until its creation has been announced.
type fakeWatchServer struct {
	member  *fakeMember
	all     *fakeWatchers
	stream  *fakeStream
	answers chan *pb.WatchResponse
	events  chan fakeResponse

	// Guarded by cluster.mu.
	watches          map[int64]*fakeWatch // a compacted one stays until the client cancels it
	nextID           int64
	prevKV, fragment map[int64]bool
	progress         map[int64]bool // wants progress notifications: is due one
}

const noWatch = -1

// progressPeriod is how often etcd sends progress notifications.
const progressPeriod = 10 * time.Minute

func (m *fakeMember) serveWatch(stream *fakeStream, all *fakeWatchers) {
	s := &fakeWatchServer{
		member: m, all: all, stream: stream,
		answers: make(chan *pb.WatchResponse, 16), events: make(chan fakeResponse, m.cluster.limits.buffer),
		watches: map[int64]*fakeWatch{}, prevKV: map[int64]bool{}, fragment: map[int64]bool{}, progress: map[int64]bool{},
	}
	m.cluster.tasks.Go(s.receive)
	s.sendAll()

	m.cluster.mu.Lock()
	defer m.cluster.mu.Unlock()
	for _, w := range s.watches {
		s.all.remove(w)
	}
}

// receive serves the client's requests.
func (s *fakeWatchServer) receive() {
	c := s.member.cluster
	for {
		var b []byte
		select {
		case b = <-s.stream.up:
		case <-s.stream.ended:
			return
		}
		c.pause()
		var req pb.WatchRequest
		if err := proto.Unmarshal(b, &req); err != nil {
			c.mu.Lock()
			s.stream.end(err)
			c.mu.Unlock()
			return
		}
		var answer *pb.WatchResponse
		switch r := req.RequestUnion.(type) {
		case *pb.WatchRequest_CreateRequest:
			answer = s.create(r.CreateRequest)
		case *pb.WatchRequest_CancelRequest:
			answer = s.cancel(r.CancelRequest.WatchId)
		case *pb.WatchRequest_ProgressRequest:
			s.requestProgress()
		}
		if answer == nil {
			continue
		}
		c.pause() // meanwhile there may be events
		c.mu.Lock()
		answer.Header = s.member.header(s.member.rev)
		c.mu.Unlock()
		select {
		case s.answers <- answer:
		case <-s.stream.ended:
			return
		}
	}
}

func (s *fakeWatchServer) create(r *pb.WatchCreateRequest) *pb.WatchResponse {
	m := s.member
	m.cluster.mu.Lock()
	defer m.cluster.mu.Unlock()
	w := &fakeWatch{server: s, id: r.WatchId, key: r.Key, end: fakeRangeEnd(r.RangeEnd), start: r.StartRevision}
	if len(w.key) == 0 {
		w.key = []byte{0}
	}
	reason := ""
	switch {
	case w.start < 0:
		reason = rpctypes.ErrCompacted.Error()
	case m.auth && !m.cluster.known:
		reason = rpctypes.ErrGRPCUserEmpty.Error()
	case len(w.end) > 0 && bytes.Compare(w.key, w.end) >= 0:
		reason = "mvcc: watcher range is empty"
	case s.watches[w.id] != nil && w.id != 0:
		reason = "mvcc: duplicate watch ID provided on the WatchStream"
	}
	if reason != "" {
		return &pb.WatchResponse{WatchId: noWatch, Created: true, Canceled: true, CancelReason: reason}
	}
	if w.id == 0 {
		for s.watches[s.nextID] != nil {
			s.nextID++
		}
		w.id = s.nextID
		s.nextID++
	}
	s.watches[w.id] = w
	if r.PrevKv {
		s.prevKV[w.id] = true
	}
	if r.Fragment {
		s.fragment[w.id] = true
	}
	if r.ProgressNotify {
		s.progress[w.id] = true
	}
	select {
	case <-s.stream.ended: // then nobody would take it away
	default:
		s.all.add(w)
	}
	return &pb.WatchResponse{WatchId: w.id, Created: true}
}

func (s *fakeWatchServer) cancel(id int64) *pb.WatchResponse {
	m := s.member
	m.cluster.mu.Lock()
	defer m.cluster.mu.Unlock()
	w := s.watches[id]
	if w == nil {
		return nil
	}
	s.all.remove(w)
	delete(s.watches, id)
	delete(s.prevKV, id)
	delete(s.fragment, id)
	delete(s.progress, id)
	return &pb.WatchResponse{WatchId: id, Canceled: true}
}

// requestProgress answers only if every watch of the stream is in sync and past its start, and there is room.
func (s *fakeWatchServer) requestProgress() {
	s.member.cluster.mu.Lock()
	defer s.member.cluster.mu.Unlock()
	s.progressOf(noWatch, s.watches)
}

// progressOf is called with cluster.mu held.
func (s *fakeWatchServer) progressOf(id int64, watches map[int64]*fakeWatch) {
	m := s.member
	for _, w := range watches {
		if _, ok := s.all.synced[w]; !ok || m.rev < w.start {
			return
		}
	}
	if len(watches) == 0 {
		return
	}
	select {
	case s.events <- fakeResponse{id: id, rev: m.rev}:
	default:
	}
}

// sendAll sends until the stream ends.
func (s *fakeWatchServer) sendAll() {
	announced := map[int64]bool{}
	pending := map[int64][]*pb.WatchResponse{}
	tick := time.NewTicker(progressPeriod)
	defer tick.Stop()
	for {
		select {
		case r := <-s.events:
			resp := s.response(r)
			if r.id != noWatch && !announced[r.id] {
				pending[r.id] = append(pending[r.id], resp)
				continue
			}
			if !s.sendFragments(resp) {
				return
			}
		case answer := <-s.answers:
			if !s.send(answer) {
				return
			}
			switch id := answer.WatchId; {
			case answer.Canceled && id != noWatch:
				delete(announced, id)
			case answer.Created:
				announced[id] = true
				for _, resp := range pending[id] { // whole, even if the client asked for fragments
					if !s.send(resp) {
						return
					}
				}
				delete(pending, id)
			}
		case <-tick.C:
			s.member.cluster.mu.Lock()
			for id, due := range s.progress {
				if due {
					s.progressOf(id, map[int64]*fakeWatch{id: s.watches[id]})
				}
				s.progress[id] = true
			}
			s.member.cluster.mu.Unlock()
		case <-s.stream.ended:
			return
		}
	}
}

// response looks up previous values, which may have been compacted meanwhile.
func (s *fakeWatchServer) response(r fakeResponse) *pb.WatchResponse {
	m := s.member
	m.cluster.mu.Lock()
	defer m.cluster.mu.Unlock()
	resp := &pb.WatchResponse{
		Header: m.header(r.rev), WatchId: r.id, CompactRevision: r.compact, Canceled: r.compact != 0,
	}
	for _, e := range r.events {
		e := &mvccpb.Event{Type: e.Type, Kv: e.Kv}
		if rev := e.Kv.ModRevision; s.prevKV[r.id] && rev-1 >= m.compacted && e.Kv.CreateRevision != rev {
			e.PrevKv = m.cluster.past.get(e.Kv.Key, rev-1)
		}
		resp.Events = append(resp.Events, e)
	}
	if _, notify := s.progress[r.id]; notify && len(r.events) > 0 {
		s.progress[r.id] = false
	}
	return resp
}

func (s *fakeWatchServer) sendFragments(r *pb.WatchResponse) bool {
	s.member.cluster.mu.Lock()
	limit := math.MaxInt
	if s.fragment[r.WatchId] {
		limit = s.member.cluster.limits.fragment
	}
	s.member.cluster.mu.Unlock()
	if len(r.Events) < 2 || proto.Size(r) < limit {
		return s.send(r)
	}
	for events := r.Events; len(events) > 0; {
		part := &pb.WatchResponse{Header: r.Header, WatchId: r.WatchId, Fragment: true}
		for len(events) > 0 {
			part.Events = append(part.Events, events[0])
			if len(part.Events) > 1 && proto.Size(part) >= limit {
				part.Events = part.Events[:len(part.Events)-1]
				break
			}
			events = events[1:]
		}
		part.Fragment = len(events) > 0
		if !s.send(part) {
			return false
		}
	}
	return true
}

// send gives a response to the network, and waits until that takes it.
func (s *fakeWatchServer) send(r *pb.WatchResponse) bool {
	b, err := proto.Marshal(r)
	if err != nil {
		panic(err)
	}
	s.member.cluster.pause()
	select {
	case s.stream.down <- b:
		return true
	case <-s.stream.ended:
		return false
	}
}
