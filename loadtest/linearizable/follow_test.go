package linearizable

import (
	"context"
	"fmt"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// follower learns the truth with a watch from the first revision on.
type follower struct {
	mu    sync.Mutex // guards all below
	truth *Truth
	seen  int64
	err   error         // why there is no more to come
	more  chan struct{} // closed and replaced with every change
}

// follow watches straight at members: those at the endpoints, or all if none are given.
func (s *site) follow(endpoints ...string) *follower {
	s.Helper()
	if len(endpoints) == 0 {
		endpoints = s.Cluster.Endpoints()
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop()})
	s.Must(err)
	f := &follower{truth: NewTruth(), more: make(chan struct{})}
	ctx, cancel := context.WithCancel(s.Ctx)
	events := client.Watch(ctx, "", clientv3.WithFromKey(), clientv3.WithRev(1))
	var watching sync.WaitGroup
	watching.Go(func() { f.learn(events) })
	s.Cleanup(func() {
		cancel()
		watching.Wait()
		_ = client.Close() // with the error of the context
	})
	return f
}

func (f *follower) learn(events clientv3.WatchChan) {
	for r := range events {
		f.change(func() {
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

func (f *follower) change(how func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	how()
	close(f.more)
	f.more = make(chan struct{})
}

// newest is the newest revision that has been learnt.
func (f *follower) newest() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return max(1, f.seen)
}

// upTo waits for the truth up to a revision that changed something. Nobody may write any more.
func (f *follower) upTo(ctx context.Context, rev int64) (*Truth, error) {
	for {
		f.mu.Lock()
		seen, err, more := f.seen, f.err, f.more
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
