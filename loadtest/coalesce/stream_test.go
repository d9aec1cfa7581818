package coalesce

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

// stream is one gRPC stream of watches, with a goroutine that receives and checks what comes against the protocol. What
// is wrong is kept, and shown by stream.check. All methods may be called concurrently, except send and what sends.
type stream struct {
	*site
	grpc   pb.Watch_WatchClient
	cancel context.CancelFunc

	mu        sync.Mutex       // guards all below, and the watches
	creating  []*watch         // asked for and not yet answered, in their order
	watches   map[int64]*watch // by id: created, and not cancelled
	compacted map[int64]bool   // by id of those that were created and cancelled: because of a compaction
	progress  int64            // the newest revision stated for the whole stream
	answers   int              // to requests for progress
	problem   string           // the first breach of the protocol
	err       error            // with which the stream ended
	changed   chan struct{}    // closed and renewed at each response
}

// open opens a stream on conn. Metadata for it is in ctx, with which it ends.
func (s *site) open(ctx context.Context, conn *grpc.ClientConn) *stream {
	s.Helper()
	st, receive := s.openStalled(ctx, conn)
	receive()
	return st
}

// openStalled opens a stream on which nothing is received until receive is called, which does not wait.
func (s *site) openStalled(ctx context.Context, conn *grpc.ClientConn) (st *stream, receive func()) {
	s.Helper()
	ctx, cancel := context.WithCancel(ctx)
	s.Cleanup(cancel)
	g, err := pb.NewWatchClient(conn).Watch(ctx)
	s.Must(err)
	st = &stream{site: s, grpc: g, cancel: cancel, watches: map[int64]*watch{}, compacted: map[int64]bool{}, changed: make(chan struct{})}
	return st, func() {
		received := make(chan struct{})
		go func() {
			defer close(received)
			st.receive()
		}()
		s.Cleanup(func() {
			cancel()
			<-received
		})
	}
}

func (s *stream) receive() {
	for {
		resp, err := s.grpc.Recv()
		s.mu.Lock()
		if err != nil {
			s.err = err
		} else {
			s.take(resp)
		}
		close(s.changed)
		s.changed = make(chan struct{})
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// take puts a response where it belongs. The lock is held.
func (s *stream) take(resp *pb.WatchResponse) {
	if resp.Created {
		s.takeCreated(resp)
		return
	}
	if resp.WatchId == -1 && len(resp.Events) == 0 && !resp.Canceled {
		s.answers++
		s.progress = max(s.progress, resp.Header.GetRevision())
		for _, w := range s.watches {
			// At a member the answer to a request from before the create may come between created and the first events.
			if len(s.Proxies) == 0 && w.spec.start != 0 && len(w.events) == 0 {
				continue
			}
			w.reached(resp.Header.GetRevision())
		}
		return
	}
	w := s.watches[resp.WatchId]
	if w == nil && resp.Canceled && s.compacted[resp.WatchId] {
		return // its client had cancelled it too
	}
	if w == nil {
		s.breach("a response for watch %d, which is not there: %v", resp.WatchId, resp)
		return
	}
	switch {
	case resp.Canceled:
		w.canceled = resp
		s.compacted[resp.WatchId] = resp.CompactRevision > 0
		delete(s.watches, resp.WatchId)
	case len(resp.Events) == 0:
		w.progresses++
		w.reached(resp.Header.GetRevision())
	default:
		w.take(resp)
	}
	if w.problem != "" {
		s.breach("%v with id %d: %s", w.spec, w.id, w.problem)
	}
}

func (s *stream) takeCreated(resp *pb.WatchResponse) {
	if len(s.creating) == 0 {
		s.breach("created without a request: %v", resp)
		return
	}
	w := s.creating[0]
	s.creating = s.creating[1:]
	w.created = resp
	if resp.Canceled {
		w.canceled = resp
		return
	}
	w.id = resp.WatchId
	if w.spec.id != 0 && w.id != w.spec.id {
		s.breach("watch %d was to have the id %d", w.id, w.spec.id)
	}
	if s.watches[w.id] != nil {
		s.breach("id %d is given twice", w.id)
	}
	s.watches[w.id] = w
	w.next = w.spec.start
	if w.next == 0 {
		w.next = resp.Header.GetRevision() + 1 // which clients take to begin again after a loss
	}
}

func (s *stream) breach(format string, args ...any) {
	if s.problem == "" {
		s.problem = fmt.Sprintf(format, args...)
	}
}

// check fails the test if anything that came broke the protocol.
func (s *stream) check() {
	s.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.problem != "" {
		s.Error(s.problem)
	}
}

// wait waits until ready, which is called with the lock held, says so. It is an error if the stream ends before.
func (s *stream) wait(ctx context.Context, ready func() bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !ready() {
		if s.err != nil {
			return fmt.Errorf("the watch stream ended: %w", s.err)
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		s.mu.Lock()
		if ctx.Err() != nil && !ready() {
			return errors.Join(ctx.Err(), s.err)
		}
	}
	return nil
}

// await is wait for what has to happen.
func (s *stream) await(what string, ready func() bool) {
	s.Helper()
	if err := s.wait(s.Ctx, ready); err != nil {
		s.Fatalf("wait for %s: %v", what, err)
	}
}

// end waits until the stream ends, and returns with which error.
func (s *stream) end() error {
	s.Helper()
	_ = s.wait(s.Ctx, func() bool { return s.err != nil })
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.Fatal("the watch stream does not end")
	}
	return s.err
}

func (s *stream) send(r *pb.WatchRequest) {
	s.Helper()
	s.Must(s.grpc.Send(r))
}

// ask sends create requests, one after the other, without waiting for their answers.
func (s *stream) ask(specs ...spec) []*watch {
	s.Helper()
	var all []*watch
	for _, sp := range specs {
		w, err := s.tryAsk(sp)
		s.Must(err)
		all = append(all, w)
	}
	return all
}

// tryAsk sends one create request on a stream that may have ended.
func (s *stream) tryAsk(sp spec) (*watch, error) {
	w := &watch{stream: s, spec: sp}
	s.mu.Lock()
	s.creating = append(s.creating, w)
	s.mu.Unlock()
	if err := s.grpc.Send(sp.request()); err != nil {
		return nil, fmt.Errorf("send: %w", err)
	}
	return w, nil
}

// create creates watches, and returns when all of them are answered.
func (s *stream) create(specs ...spec) []*watch {
	s.Helper()
	all := s.ask(specs...)
	s.created(all)
	return all
}

// created waits until all of these watches of the stream are created.
func (s *stream) created(all []*watch) {
	s.Helper()
	for _, w := range all {
		s.await(fmt.Sprintf("created of %v", w.spec), func() bool { return w.created != nil })
	}
}

func (s *stream) cancelWatch(w *watch) {
	s.Helper()
	s.send(cancelRequest(w.id))
}

func cancelRequest(id int64) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}}
}

func (s *stream) requestProgress() {
	s.Helper()
	s.send(progressRequest)
}

var progressRequest = &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}

// seen is how many events have come on the stream.
func (s *stream) seen() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seenLocked()
}

func (s *stream) seenLocked() int {
	n := 0
	for _, w := range s.watches {
		n += len(w.events)
	}
	return n
}

// catchUp waits until the stream says that all its watches have reached a revision. A stream without watches has. A
// member drops a request for progress while a watch reads history, so it is repeated.
func (s *stream) catchUp(rev int64) {
	s.Helper()
	for {
		again, cancel := context.WithTimeout(s.Ctx, 100*time.Millisecond)
		s.requestProgress()
		err := s.wait(again, func() bool { return s.progress >= rev || len(s.watches) == 0 && len(s.creating) == 0 })
		cancel()
		if err == nil {
			return
		}
		if s.Ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.Fatalf("the stream reached revision %d of %d with %d watches: %v", s.progress, rev, len(s.watches), err)
		}
	}
}
