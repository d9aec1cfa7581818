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

// watcher watches the whole store and keeps what it sees.
type watcher struct {
	mu      sync.Mutex // guards all below
	events  []string
	seen    int64         // the newest revision whose events have all come
	resumed int           // how often it began
	changed chan struct{} // closed and renewed when seen grows
	failed  error         // why it does not go on
}

func newWatcher() *watcher { return &watcher{changed: make(chan struct{})} }

// follow watches over raw streams until ctx ends, and after a loss resumes at the revision after the last one seen.
func (w *watcher) follow(ctx context.Context, conn *grpc.ClientConn) {
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

// began is how often the watch began.
func (w *watcher) began() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.resumed
}

// followOnce watches until the stream is lost, which is no error.
func (w *watcher) followOnce(ctx context.Context, conn *grpc.ClientConn, start int64) error {
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

// followWithClient watches with etcd's client, which resumes by itself.
func (w *watcher) followWithClient(ctx context.Context, c *clientv3.Client) {
	w.mu.Lock()
	w.resumed++
	w.mu.Unlock()
	for r := range c.Watch(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(1)) {
		if err := r.Err(); err != nil {
			w.fail(err)
			return
		}
		w.saw(r.Events)
	}
}

func (w *watcher) saw(events []*clientv3.Event) {
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

func (w *watcher) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed = err
	w.wake()
}

// wake wakes up reach. The lock is held.
func (w *watcher) wake() {
	close(w.changed)
	w.changed = make(chan struct{})
}

func text(ev *mvccpb.Event) string {
	return fmt.Sprintf("%d %v %s=%s", ev.Kv.ModRevision, ev.Type, ev.Kv.Key, ev.Kv.Value)
}

// reach waits until the events up to a revision have come, and returns all of them.
func (w *watcher) reach(ctx context.Context, rev int64) ([]string, error) {
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
	switch {
	case w.failed != nil:
		return w.events, w.failed
	case w.seen < rev:
		return w.events, fmt.Errorf("reached only revision %d of %d: %w", w.seen, rev, ctx.Err())
	default:
		return w.events, nil
	}
}
