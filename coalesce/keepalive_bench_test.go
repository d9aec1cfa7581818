package coalesce

import (
	"context"
	"sync"
	"testing"
	"time"

	"weir/grpcapi/wire"
)

// BenchmarkPing is what a ping costs without a transport, with 256 at a time.
func BenchmarkPing(b *testing.B) {
	k := NewKeepalives(KeepaliveConfig{Upstream: promptPinger{}})
	defer k.Close()
	var s countingSink
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		s.open.Add(1)
		k.Ping(int64(i%100_000), time.Now(), &s, 0)
		if i%256 == 0 {
			s.open.Wait()
		}
	}
	s.open.Wait()
	stats := k.Stats()
	b.ReportMetric(float64(stats.Sent)/float64(stats.Batches), "pings/batch")
}

type countingSink struct{ open sync.WaitGroup }

func (s *countingSink) Client() any { return nil }
func (s *countingSink) Pong(Pong)   { s.open.Done() }

// promptPinger answers every ping at once.
type promptPinger struct{}

func (promptPinger) Open(ctx context.Context) (PingStream, error) {
	return &promptPings{ctx, make(chan []Pong, maxUpstream)}, nil
}

func (promptPinger) Remaining(context.Context, int64) (int64, wire.Header, error) {
	return 10, wire.Header{}, nil
}

type promptPings struct {
	ctx   context.Context
	pongs chan []Pong
}

func (s *promptPings) Ordered() bool { return true }

func (s *promptPings) Send(ids []int64) error {
	pongs := make([]Pong, len(ids))
	for i, id := range ids {
		pongs[i] = Pong{ID: id, TTL: 10}
	}
	s.pongs <- pongs
	return nil
}

func (s *promptPings) Recv() ([]Pong, error) {
	select {
	case pongs := <-s.pongs:
		return pongs, nil
	case <-s.ctx.Done():
		return nil, s.ctx.Err()
	}
}
