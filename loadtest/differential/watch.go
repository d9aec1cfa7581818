package differential

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

const (
	maxStreams = 4
	maxWatches = 12 // of one stream
)

// streamPair is one stream of watches on each side.
type streamPair struct {
	sides   [2]*watchStream
	watches []*watchPair // that are live
}

// watchPair is one watch on each side.
type watchPair struct {
	id      int64
	start   int64
	request string
	sides   [2]*watch
}

func (p *streamPair) close() {
	for _, s := range p.sides {
		s.cancel()
	}
}

// watchStream is a stream of watches on one side, with a goroutine that receives.
type watchStream struct {
	stream pb.Watch_WatchClient
	cancel context.CancelFunc

	mu       sync.Mutex          // guards all below
	live     map[int64]*watch    // by id
	controls []*pb.WatchResponse // created and canceled, not yet taken
	progress int64               // the newest revision of a progress for the whole stream
	err      error               // of Recv
	changed  chan struct{}       // closed and renewed at each response
}

// watch is one watch on one side.
type watch struct {
	events    []*mvccpb.Event
	canceled  *pb.WatchResponse // by the server, not asked for
	fragments bool              // the response before this was a fragment
	problem   string            // the first breach of the protocol
}

func (s *side) openWatchStream(ctx context.Context, who *identity) (*watchStream, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := s.watch.Watch(s.as(ctx, who))
	if err != nil {
		cancel()
		return nil, fmt.Errorf("open a watch stream of %s: %w", s.name, err)
	}
	w := &watchStream{stream: stream, cancel: cancel, live: map[int64]*watch{}, changed: make(chan struct{})}
	go w.receive()
	return w, nil
}

func (w *watchStream) receive() {
	for {
		resp, err := w.stream.Recv()
		w.mu.Lock()
		if err != nil {
			w.err = err
		} else {
			w.take(resp)
		}
		close(w.changed)
		w.changed = make(chan struct{})
		w.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// take puts a response where it belongs. The lock is held.
func (w *watchStream) take(resp *pb.WatchResponse) {
	current := w.live[resp.WatchId]
	switch {
	case resp.Created:
		if !resp.Canceled {
			w.live[resp.WatchId] = &watch{}
		}
		w.controls = append(w.controls, resp)
	case resp.Canceled && resp.CompactRevision != 0:
		if current != nil {
			current.canceled = resp
		}
	case resp.Canceled:
		// The answer to the cancel of a watch that the server had cancelled already is left to it.
		if current != nil && current.canceled == nil {
			w.controls = append(w.controls, resp)
		}
		delete(w.live, resp.WatchId)
	case len(resp.Events) == 0:
		if resp.WatchId == -1 {
			w.progress = max(w.progress, resp.Header.GetRevision())
		}
	case current != nil:
		current.take(resp)
	}
}

func (w *watch) take(resp *pb.WatchResponse) {
	last := int64(0)
	if len(w.events) > 0 {
		last = w.events[len(w.events)-1].Kv.ModRevision
	}
	if first := resp.Events[0].Kv.ModRevision; first == last && !w.fragments {
		w.breach("revision %d is split between responses", first)
	} else if first < last {
		w.breach("revision %d after %d", first, last)
	}
	newest := resp.Events[len(resp.Events)-1].Kv.ModRevision
	if resp.Header.GetRevision() < newest {
		w.breach("revision %d in a response of revision %d", newest, resp.Header.GetRevision())
	}
	w.events = append(w.events, resp.Events...)
	w.fragments = resp.Fragment
}

func (w *watch) breach(format string, args ...any) {
	if w.problem == "" {
		w.problem = fmt.Sprintf(format, args...)
	}
}

// wait waits until ready says so. It is called with the lock held.
func (w *watchStream) wait(ctx context.Context, ready func() bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for !ready() {
		if w.err != nil {
			return fmt.Errorf("watch stream ended: %w", w.err)
		}
		changed := w.changed
		w.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		w.mu.Lock()
		if ctx.Err() != nil && !ready() {
			return ctx.Err()
		}
	}
	return nil
}

// control sends a request to create or to cancel a watch, and returns the answer.
func (w *watchStream) control(ctx context.Context, req *pb.WatchRequest) answer {
	if err := w.stream.Send(req); err != nil {
		return answer{err: err}
	}
	var resp *pb.WatchResponse
	err := w.wait(ctx, func() bool {
		if len(w.controls) == 0 {
			return false
		}
		resp, w.controls = w.controls[0], w.controls[1:]
		return true
	})
	if err != nil {
		return answer{err: fmt.Errorf("no answer on the watch stream: %w", err)}
	}
	return answer{resp: resp}
}

// watchOf is the live watch of an id, as long as the request that follows has not changed it.
func (w *watchStream) watchOf(id int64) *watch {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.live[id]
}

func (r *runner) stepOpenStream(ctx context.Context) error {
	if len(r.streams) == maxStreams {
		return nil
	}
	_, err := r.openStream(ctx)
	return err
}

func (r *runner) openStream(ctx context.Context) (*streamPair, error) {
	p := &streamPair{}
	for i, s := range r.sides {
		w, err := s.openWatchStream(ctx, r.who)
		if err != nil {
			return nil, err
		}
		p.sides[i] = w
	}
	r.streams = append(r.streams, p)
	return p, nil
}

func (r *runner) stepCloseStream(ctx context.Context) error {
	if len(r.streams) == 0 {
		return nil
	}
	i := r.rng.IntN(len(r.streams))
	if err := r.barrier(ctx, r.streams[i]); err != nil {
		return err
	}
	r.streams[i].close()
	r.streams = slices.Delete(r.streams, i, i+1)
	return nil
}

// aStream is one of the streams, which it opens if there is none.
func (r *runner) aStream(ctx context.Context) (*streamPair, error) {
	if len(r.streams) == 0 {
		return r.openStream(ctx)
	}
	return pick(r, r.streams...), nil
}

func (r *runner) watchCreateRequest() *pb.WatchCreateRequest {
	req := &pb.WatchCreateRequest{
		Key:            r.badKey(),
		StartRevision:  r.revision(),
		ProgressNotify: r.chance(4),
		PrevKv:         r.chance(2),
		Fragment:       r.chance(4),
	}
	req.RangeEnd = r.rangeEnd(req.Key)
	if req.StartRevision == r.compact {
		req.PrevKv = false // a proxy may have in memory what was before the compact revision
	}
	if req.StartRevision > r.rev+10 {
		// etcd answers no request for progress on a stream with a watch from the future, so it must come soon.
		req.StartRevision = r.rev + 10
	}
	if r.chance(3) {
		req.WatchId = pick[int64](r, 1, 2, 3, 4, 5, 6, -4, 1<<40)
	}
	if r.chance(4) {
		req.Filters = append(req.Filters, pb.WatchCreateRequest_FilterType(r.rng.IntN(3)))
	}
	if r.chance(12) {
		req.Filters = append(req.Filters, pb.WatchCreateRequest_FilterType(r.rng.IntN(2)))
	}
	return req
}

func (r *runner) stepWatch(ctx context.Context) error {
	p, err := r.aStream(ctx)
	if err != nil || len(p.watches) >= maxWatches {
		return err
	}
	return r.watch(ctx, p, r.watchCreateRequest())
}

// watch creates a watch on both sides of a stream.
func (r *runner) watch(ctx context.Context, p *streamPair, req *pb.WatchCreateRequest) error {
	answers, err := r.exchange(ctx, nameOf(req), show(req), func(ctx context.Context, s *side) answer {
		return p.sides[s.index].control(ctx, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: req}})
	})
	if err != nil {
		return err
	}
	if answers[0].err != nil {
		return answers[0].err // watches are refused by an answer, not by an error
	}
	created := answers[0].resp.(*pb.WatchResponse)
	if created.Canceled {
		return nil
	}
	pair := &watchPair{id: created.WatchId, start: req.StartRevision, request: show(req)}
	for i, w := range p.sides {
		pair.sides[i] = w.watchOf(created.WatchId)
	}
	p.watches = append(p.watches, pair)
	return nil
}

// stepCancelWatch waits for all events first: etcd may give those that are on their way before or after the answer.
func (r *runner) stepCancelWatch(ctx context.Context) error {
	p, err := r.aStream(ctx)
	if err != nil {
		return err
	}
	if err := r.barrier(ctx, p); err != nil {
		return err
	}
	if len(p.watches) == 0 || r.chance(10) {
		return r.send(p, cancelRequest(77)) // nobody's: no answer
	}
	i := r.rng.IntN(len(p.watches))
	req := cancelRequest(p.watches[i].id)
	p.watches = slices.Delete(p.watches, i, i+1)
	_, err = r.exchange(ctx, nameOf(req), show(req), func(ctx context.Context, s *side) answer { return p.sides[s.index].control(ctx, req) })
	return err
}

func cancelRequest(id int64) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: id}}}
}

// send sends to both sides what has no answer.
func (r *runner) send(p *streamPair, req *pb.WatchRequest) error {
	for i, w := range p.sides {
		if err := w.stream.Send(req); err != nil {
			return fmt.Errorf("send to %s: %w", r.sides[i].name, err)
		}
	}
	return nil
}

func (r *runner) stepProgress(ctx context.Context) error {
	p, err := r.aStream(ctx)
	if err != nil {
		return err
	}
	return r.barrier(ctx, p)
}

// endStreams ends all streams, once what they have to deliver is compared, and all that wait for something.
func (r *runner) endStreams(ctx context.Context) error {
	if err := r.barrier(ctx, r.streams...); err != nil {
		return err
	}
	for _, p := range r.streams {
		p.close()
	}
	r.streams = nil
	return r.endWaiters(ctx)
}

// barrier waits until streams have delivered all events, and compares them.
func (r *runner) barrier(ctx context.Context, streams ...*streamPair) error {
	defer r.asRoot()()
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	if len(streams) == 0 {
		return nil
	}
	// A revision of the barrier's own tells its progress from one that an earlier barrier asked for.
	until := r.rev + 1
	for _, p := range streams {
		for _, w := range p.watches {
			until = max(until, w.start) // see watchCreateRequest
		}
	}
	for r.rev < until {
		if err := r.write(ctx, &pb.PutRequest{Key: []byte(keys[0]), Value: []byte("barrier")}); err != nil {
			return err
		}
	}
	for _, p := range streams {
		for i, w := range p.sides {
			if err := w.catchUp(ctx, p.watches, i, r.rev); err != nil {
				return fmt.Errorf("%s does not say that its watches have reached revision %d: %w%s", r.sides[i].name, r.rev, err, p.describe(i))
			}
		}
		if err := r.compareEvents(p); err != nil {
			return err
		}
	}
	return nil
}

// catchUp waits until all events of a stream up to a revision have come. A watch that has been cancelled because of a
// compaction has none to come; etcd keeps it in its books nevertheless, and then answers no request for progress, so it
// is cancelled here too.
func (w *watchStream) catchUp(ctx context.Context, watches []*watchPair, side int, rev int64) error {
	buried := map[*watch]bool{}
	for {
		live := 0
		for _, pair := range watches {
			own := pair.sides[side]
			w.mu.Lock()
			canceled := own.canceled != nil
			w.mu.Unlock()
			if !canceled {
				live++
			} else if !buried[own] {
				buried[own] = true
				if err := w.stream.Send(cancelRequest(pair.id)); err != nil {
					return err
				}
			}
		}
		if live == 0 {
			return nil // etcd does not answer for a stream without watches
		}
		progress := &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}}
		if err := w.stream.Send(progress); err != nil {
			return err
		}
		// etcd drops the request while a watch is still reading history, so it must be repeated.
		again, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		err := w.wait(again, func() bool { return w.progress >= rev })
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
}

func (p *streamPair) describe(side int) string {
	s := ""
	for _, w := range p.watches {
		own := w.sides[side]
		s += fmt.Sprintf("\nwatch %d: %d events, cancelled: %v; %s", w.id, len(own.events), own.canceled, w.request)
	}
	return s
}

// compareEvents compares what came since the last barrier, and forgets it and the watches that the server cancelled.
func (r *runner) compareEvents(p *streamPair) error {
	for _, w := range p.sides {
		w.mu.Lock()
		defer w.mu.Unlock()
	}
	for _, pair := range p.watches {
		if err := r.compareWatch(pair); err != nil {
			return fmt.Errorf("watch %d: %w\nrequest:\n%s", pair.id, err, pair.request)
		}
	}
	p.watches = slices.DeleteFunc(p.watches, func(pair *watchPair) bool { return pair.sides[0].canceled != nil })
	for _, pair := range p.watches {
		for _, own := range pair.sides {
			own.events = nil
		}
	}
	return nil
}

// compareWatch compares what one watch got since the last barrier.
func (r *runner) compareWatch(pair *watchPair) error {
	var got [2][]string
	for i, own := range pair.sides {
		for _, ev := range own.events {
			r.report["events of "+r.sides[i].name]++
			got[i] = append(got[i], show(ev))
		}
		if own.canceled != nil {
			r.report["watches cancelled by "+r.sides[i].name]++
			resp := proto.Clone(own.canceled)
			r.sides[i].normalize(resp)
			got[i] = append(got[i], show(resp))
		}
		if own.problem != "" {
			return fmt.Errorf("%s: %s", r.sides[i].name, own.problem)
		}
	}
	for i := range max(len(got[0]), len(got[1])) {
		texts := [2]string{"nothing more\n", "nothing more\n"}
		for j := range got {
			if i < len(got[j]) {
				texts[j] = got[j][i]
			}
		}
		if texts[0] != texts[1] {
			return fmt.Errorf("event %d since the last barrier differs\n%s gives:\n%s\n%s gives:\n%s",
				i+1, r.sides[0].name, texts[0], r.sides[1].name, texts[1])
		}
	}
	return nil
}
