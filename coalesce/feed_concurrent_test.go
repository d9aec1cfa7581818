package coalesce

import (
	"context"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
)

// TestConcurrentFeedsMovesAndCloses lets everything run at once, for the race detector: feeds that lag differently,
// watchers that are moved between them and created while feeds close.
func TestConcurrentFeedsMovesAndCloses(t *testing.T) {
	const streams, watchers, revisions, open = 6, 20, 2000, 4
	l := &log{}
	s := &switchboard{log: l}
	s.hub = NewHub(s)
	for range open {
		s.open()
	}
	stop := make(chan struct{})
	var owners, clients, all sync.WaitGroup
	owners.Go(func() {
		rnd := rand.New(rand.NewPCG(1, 2))
		for {
			select {
			case <-stop:
				return
			default:
				s.change(rnd)
			}
		}
	})
	var sinks []*collector
	for i := range streams {
		c := newCollector(s.hub, &all)
		c.last, c.room, c.progress = revisions, 3, make(chan int64, 1<<20)
		sinks = append(sinks, c)
		all.Add(watchers)
		clients.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(i), 3))
			for range watchers {
				c.watch(t, Watch{Key: []byte("k"), End: []byte("l"), Start: 1 + rnd.Int64N(revisions/2)})
				other := c.watch(t, Watch{Key: []byte("k")})
				c.stream.RequestProgress(s.Arrive())
				c.stream.NotifyProgress()
				c.stream.Cancel(other)
			}
			for {
				select {
				case <-stop:
					return
				default:
					c.drain(1 + rnd.IntN(4))
					runtime.Gosched()
				}
			}
		})
	}
	for range revisions {
		l.append("k")
	}
	all.Wait()
	close(stop)
	owners.Wait()
	clients.Wait()
	for _, c := range sinks {
		c.stream.Close()
		for w, got := range c.got {
			if w.ID == 0 {
				continue
			}
			for i, rev := range got {
				if rev != w.ID+int64(i) {
					t.Fatalf("a watcher from %d got %d as number %d", w.ID, rev, i)
				}
			}
		}
	}
	s.hub.Close()
}

// switchboard is a Feeder of feeds over everything, which it publishes to, exchanges and closes.
type switchboard struct {
	hub *Hub
	log *log

	mu    sync.Mutex
	feeds []*Feed
}

func (s *switchboard) open() {
	f := s.hub.NewFeed(FeedConfig{Source: s.log, Revision: s.log.revision(), RingBytes: 3000, MergeHistory: true})
	s.feeds = append(s.feeds, f)
}

func (s *switchboard) change(rnd *rand.Rand) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := rnd.IntN(len(s.feeds))
	f, other := s.feeds[i], s.feeds[rnd.IntN(len(s.feeds))]
	switch rnd.IntN(12) {
	case 0:
		f.Move(everything, other)
	case 1:
		if f.CloseIdle() {
			s.feeds = slices.Delete(s.feeds, i, i+1)
			s.open()
		}
	case 2:
		f.SetRingBytes(rnd.IntN(5000))
		f.Stats()
		f.Ranges()
	default:
		s.publish(f, 1+rnd.Int64N(20))
	}
	runtime.Gosched()
}

// publish is called with s.mu held.
func (s *switchboard) publish(f *Feed, revisions int64) {
	s.log.mu.Lock()
	all := s.log.batches
	s.log.mu.Unlock()
	at := f.Revision()
	f.Publish(all[at:min(at+revisions, int64(len(all)))]...)
}

func (s *switchboard) Arrive() Arrival { return Arrival(s.log.revision()) }

func (s *switchboard) Find(context.Context, Watch, Arrival) (*Feed, int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.feeds[rand.IntN(len(s.feeds))], s.log.revision(), nil
}

func (s *switchboard) Now(context.Context, Arrival) int64 { return s.log.revision() }

func (s *switchboard) Sync(ctx context.Context, f *Feed, since Arrival, rev int64) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.Closed() {
		return 0, errFeedClosed
	}
	if since != Known {
		rev = max(rev, int64(since))
	}
	s.publish(f, rev)
	return rev, ctx.Err()
}
