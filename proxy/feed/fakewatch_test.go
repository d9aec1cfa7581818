package feed

import (
	"bytes"
	"context"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

// fakeWatchers is all watches of a member: what etcd calls the watchable store. It is guarded by cluster.mu.
type fakeWatchers struct {
	member   *fakeMember
	synced   map[*fakeWatch]struct{} // are sent what happens when it happens
	unsynced map[*fakeWatch]struct{} // lack history, which syncLoop sends
	victims  map[*fakeWatch]fakeBatch
	blocked  chan struct{} // has an element when there may be victims
	lacking  chan struct{} // has an element when there may be unsynced ones
}

// fakeWatch is one watch.
type fakeWatch struct {
	id       int64
	key, end []byte // in etcd's inner form
	start    int64  // as requested
	min      int64  // the next revision that it is to be sent
	server   *fakeWatchServer
	ended    bool
}

// fakeBatch is a response that found no room in its stream.
type fakeBatch struct {
	events []*mvccpb.Event
	more   int64 // the revision that the batch had no room for, if any
}

// fakeResponse waits in a stream's buffer.
type fakeResponse struct {
	id      int64
	rev     int64 // for the header
	compact int64
	events  []*mvccpb.Event
}

func newFakeWatchers(m *fakeMember) *fakeWatchers {
	return &fakeWatchers{
		member: m, synced: map[*fakeWatch]struct{}{}, unsynced: map[*fakeWatch]struct{}{},
		victims: map[*fakeWatch]fakeBatch{}, blocked: make(chan struct{}, 1), lacking: make(chan struct{}, 1),
	}
}

// add starts a watch.
func (f *fakeWatchers) add(w *fakeWatch) {
	w.min = w.start
	if w.start != 0 && w.start <= f.member.rev {
		f.addUnsynced(w)
		return
	}
	w.min = max(w.start, f.member.rev+1)
	f.synced[w] = struct{}{}
}

func (f *fakeWatchers) remove(w *fakeWatch) {
	w.ended = true
	delete(f.synced, w)
	delete(f.unsynced, w)
	delete(f.victims, w)
}

// send puts a response into the watch's stream, unless that is full.
func (w *fakeWatch) send(r fakeResponse) bool {
	r.id = w.id
	select {
	case w.server.events <- r:
		return true
	default:
		return false
	}
}

func (f *fakeWatchers) addVictim(w *fakeWatch, b fakeBatch) {
	f.victims[w] = b
	select {
	case f.blocked <- struct{}{}:
	default:
	}
}

func (f *fakeWatchers) addUnsynced(w *fakeWatch) {
	f.unsynced[w] = struct{}{}
	select {
	case f.lacking <- struct{}{}:
	default:
	}
}

// notify sends a new revision to those who are in sync.
func (f *fakeWatchers) notify(rev int64, events []*mvccpb.Event) {
	for w := range f.synced {
		var wanted []*mvccpb.Event
		for _, e := range events {
			if rev >= w.min && fakeContains(w.key, w.end, e.Kv.Key) {
				wanted = append(wanted, e)
			}
		}
		if wanted == nil {
			continue
		}
		if !w.send(fakeResponse{rev: rev, events: wanted}) {
			delete(f.synced, w)
			f.addVictim(w, fakeBatch{events: wanted})
		}
		w.min = rev + 1
	}
}

// restore is what happens to the watches when the member installs a snapshot.
func (f *fakeWatchers) restore() {
	for w := range f.synced {
		f.addUnsynced(w)
	}
	clear(f.synced)
}

// syncPeriod is etcd's watchResyncPeriod.
const syncPeriod = 100 * time.Millisecond

// syncLoop sends history every syncPeriod. While nobody lacks any it does not run, for the test's sake.
func (f *fakeWatchers) syncLoop(ctx context.Context) {
	c := f.member.cluster
	phase := time.Duration(c.roll(int(syncPeriod)))
	for {
		select {
		case <-f.lacking:
		case <-ctx.Done():
			return
		}
		wait := syncPeriod - (time.Duration(time.Now().UnixNano())+phase)%syncPeriod
		for left := 1; left > 0; {
			if !fakeSleep(ctx, wait) {
				return
			}
			c.mu.Lock()
			before := len(f.unsynced)
			f.sync()
			left = len(f.unsynced)
			c.mu.Unlock()
			wait = syncPeriod
			if left < before {
				wait = time.Millisecond
			}
		}
	}
}

// fakeSleep returns false when ctx ended first.
func fakeSleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// sync sends each watch that lacks history one batch of it, of a few revisions. The header states what is current, not
// how far the batch goes.
func (f *fakeWatchers) sync() {
	m := f.member
	for w := range f.unsynced {
		if w.min < m.compacted {
			if w.send(fakeResponse{compact: m.compacted}) {
				delete(f.unsynced, w)
			}
			continue
		}
		var b fakeBatch
		revisions := 0
		for rev := max(w.min, firstRevision+1); rev <= m.rev && b.more == 0; rev++ {
			first := true
			for _, e := range m.cluster.past.at(rev) {
				if !fakeContains(w.key, w.end, e.Kv.Key) {
					continue
				}
				if first && revisions == m.cluster.limits.batchRevisions {
					b.more = rev
					break
				}
				if first {
					first = false
					revisions++
				}
				b.events = append(b.events, e)
			}
		}
		w.min = max(m.rev+1, w.min)
		if b.more != 0 {
			w.min = b.more
		}
		switch {
		case b.events != nil && !w.send(fakeResponse{rev: m.rev, events: b.events}):
			f.addVictim(w, b)
		case b.more != 0:
			continue
		default:
			f.synced[w] = struct{}{}
		}
		delete(f.unsynced, w)
	}
}

// victimsLoop tries to send again what found no room.
func (f *fakeWatchers) victimsLoop(ctx context.Context) {
	for {
		f.member.cluster.mu.Lock()
		for w, b := range f.victims {
			if !w.send(fakeResponse{rev: w.min - 1, events: b.events}) {
				continue
			}
			delete(f.victims, w)
			if w.min <= f.member.rev {
				f.addUnsynced(w)
			} else {
				f.synced[w] = struct{}{}
			}
		}
		left := len(f.victims)
		f.member.cluster.mu.Unlock()
		if left > 0 {
			if !fakeSleep(ctx, 10*time.Millisecond) {
				return
			}
			continue
		}
		select {
		case <-f.blocked:
		case <-ctx.Done():
			return
		}
	}
}

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
	case m.auth:
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
