package crash

import (
	"context"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// Watcher watches the whole store and keeps what it sees. Its methods may be called concurrently.
type Watcher struct {
	mu      sync.Mutex    // guards all below
	events  []string      // since the last Take
	seen    int64         // the newest revision whose events have all come
	resumed int           // how often it began
	changed chan struct{} // closed and renewed when seen grows
	failed  error         // why it does not go on
}

// NewWatcher will see what happens after a revision; 0 is the beginning.
func NewWatcher(after int64) *Watcher { return &Watcher{seen: after, changed: make(chan struct{})} }

// Follow watches over raw streams until ctx ends, and after a loss resumes at the revision after the last one seen.
func (w *Watcher) Follow(ctx context.Context, conn *grpc.ClientConn) {
	// A proxy refuses at once while its upstream is down: do not ask faster than this.
	pace := time.NewTicker(10 * time.Millisecond)
	defer pace.Stop()
	for ctx.Err() == nil {
		w.mu.Lock()
		start := w.seen + 1
		w.resumed++
		w.mu.Unlock()
		if err := w.followOnce(ctx, conn, start); err != nil {
			w.fail(err)
			return
		}
		<-pace.C
	}
}

// Began is how often the watch began.
func (w *Watcher) Began() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.resumed
}

// followOnce watches until the stream is lost, which is no error.
func (w *Watcher) followOnce(ctx context.Context, conn *grpc.ClientConn, start int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := pb.NewWatchClient(conn).Watch(ctx, grpc.WaitForReady(true))
	if err != nil {
		return nil
	}
	if err := s.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
		Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: start}}}); err != nil {
		return nil
	}
	for {
		r, err := s.Recv()
		if err != nil {
			return nil
		}
		if r.Canceled {
			return fmt.Errorf("watch from %d was cancelled: %v", start, r)
		}
		w.saw(r.Events)
	}
}

// FollowWithClient watches with etcd's client, which resumes by itself.
func (w *Watcher) FollowWithClient(ctx context.Context, c *clientv3.Client) {
	w.mu.Lock()
	w.resumed++
	start := w.seen + 1
	w.mu.Unlock()
	for r := range c.Watch(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(start)) {
		if err := r.Err(); err != nil {
			w.fail(err)
			return
		}
		w.saw(r.Events)
	}
}

func (w *Watcher) saw(events []*clientv3.Event) {
	if len(events) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, ev := range events {
		w.events = append(w.events, text(ev))
	}
	w.seen = events[len(events)-1].Kv.ModRevision // responses hold whole revisions
	w.wake()
}

func (w *Watcher) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = err
	w.wake()
}

// wake wakes up Take. The lock is held.
func (w *Watcher) wake() {
	close(w.changed)
	w.changed = make(chan struct{})
}

func text(ev *mvccpb.Event) string {
	return fmt.Sprintf("%d %v %s=%s", ev.Kv.ModRevision, ev.Type, ev.Kv.Key, ev.Kv.Value)
}

// Take waits until the events up to a revision have come, and returns all that were not taken before.
func (w *Watcher) Take(ctx context.Context, rev int64) ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.seen < rev && w.failed == nil && ctx.Err() == nil {
		changed := w.changed
		w.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
		}
		w.mu.Lock()
	}
	events := w.events
	w.events = nil
	switch {
	case w.failed != nil:
		return events, w.failed
	case w.seen < rev:
		return events, fmt.Errorf("reached only revision %d of %d: %w", w.seen, rev, ctx.Err())
	default:
		return events, nil
	}
}
