package linearizable

import (
	"context"
	"fmt"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// first is the first of all keys that histories are about.
const first = "/"

// Follower learns the truth with a watch from the first revision on. Its methods may be called concurrently.
type Follower struct {
	client   *clientv3.Client
	cancel   func()
	watching sync.WaitGroup

	mu    sync.Mutex // guards all below
	truth *Truth
	seen  int64
	told  bool          // the truth was told, and does not change any more
	err   error         // why there is no more to come
	more  chan struct{} // closed and replaced with every change
}

// Follow watches straight at members. What happens to keys below first is of no concern. Close ends it.
func Follow(endpoints []string) (*Follower, error) {
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
	if err != nil {
		return nil, fmt.Errorf("make a client for the truth: %w", err)
	}
	f := &Follower{truth: NewTruth(), more: make(chan struct{}), client: client}
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel = cancel
	events := client.Watch(ctx, first, clientv3.WithFromKey(), clientv3.WithRev(1))
	f.watching.Go(func() { f.learn(events) })
	return f, nil
}

// Close ends the watch.
func (f *Follower) Close() {
	f.cancel()
	f.watching.Wait()
	_ = f.client.Close() // with the error of the context
}

func (f *Follower) learn(events clientv3.WatchChan) {
	for r := range events {
		f.change(func() {
			if f.told {
				return // it is being read
			}
			for _, e := range r.Events {
				f.truth.Add(kvOf(e.Kv))
			}
			f.seen = f.truth.Newest()
			if err := r.Err(); err != nil {
				f.err = fmt.Errorf("the watch for the truth: %w", err)
			}
		})
	}
	f.change(func() {
		if f.err == nil {
			f.err = fmt.Errorf("the watch for the truth has ended")
		}
	})
}

func (f *Follower) change(how func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	how()
	close(f.more)
	f.more = make(chan struct{})
}

// Newest is the newest revision that has been learnt.
func (f *Follower) Newest() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return max(1, f.seen)
}

// UpTo waits for the truth up to a revision that changed something, at least. What happens later is no part of it: nobody
// writes any more, but what was given up may still be on its way.
func (f *Follower) UpTo(ctx context.Context, rev int64) (*Truth, error) {
	for {
		f.mu.Lock()
		seen, err, more := f.seen, f.err, f.more
		f.told = seen >= rev
		f.mu.Unlock()
		if seen >= rev {
			return f.truth, nil
		}
		if err != nil {
			return nil, err
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, fmt.Errorf("the truth is known up to revision %d of %d: %w", seen, rev, ctx.Err())
		}
	}
}
