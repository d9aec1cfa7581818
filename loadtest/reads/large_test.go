package reads

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// mayGrow is how much more memory a proxy may take for a range of any size that it passes on or answers.
const mayGrow = 64 << 20

// A large range that is read as a stream is never held as a whole, neither when it is passed on nor when it is in memory
// already, also by clients that stop reading in the middle.
func TestStreamOfALargeRangeNeedsLittleMemory(t *testing.T) {
	t.Parallel()
	size := 64 << 20
	if *huge {
		size = 1 << 30
	}
	for _, kind := range []target.Kind{target.ProxyEtcd37, target.ProxyCore} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newSiteWith(t, kind, targettest.SiteOptions{NoProxies: true})
			s.member().putAll(targettest.Keys("/large/", size/largeValue), strings.Repeat("x", largeValue))
			for _, args := range [][]string{{"--cache-bytes=0"}, {"--cache-prefix=/large/", fmt.Sprintf("--cache-bytes=%d", 4*size)}} {
				s.ProxyArgs = args
				s.StartProxies(s.Cluster.Endpoints())
				streamLarge(s, size, len(args) > 1)
			}
		})
	}
}

const largeValue = 8 << 10

func streamLarge(s *site, size int, fromMemory bool) {
	s.Helper()
	r := below("/large/")
	if fromMemory {
		one := below("/large/")
		one.Limit = 1
		s.awaitCached(one)
		r.Serializable = true
	}
	s.dial().drain(r, size) // once, for what is allocated once
	hits := s.hits()
	m := watchMemory(s.Proxies[0])

	// Clients of gRPC's smallest windows stop after the first part: what they do not take must not be held for them.
	const stalled = 3
	ctx, cancel := context.WithCancel(s.Ctx)
	defer cancel()
	for range stalled {
		c := s.dialTo(s.Endpoint(), "a slow client", grpc.WithStaticStreamWindowSize(64<<10), grpc.WithStaticConnWindowSize(64<<10))
		stream, err := c.kv.RangeStream(ctx, r)
		s.Must(err)
		_, err = stream.Recv()
		s.Must(err)
	}
	s.dial().drain(r, size)
	grown, err := m.stop()
	s.Must(err)
	s.Logf("%s: the proxy grew by %d KiB", s.ProxyArgs, grown>>10)
	if grown > mayGrow {
		s.Errorf("%s: the proxy grew by %d MiB for streams of %d MiB", s.ProxyArgs, grown>>20, size>>20)
	}
	if fromMemory && s.hits() == hits {
		s.Error("the range was not streamed from memory")
	}
}

// drain reads a stream to its end and checks how much came.
func (c *client) drain(r *pb.RangeRequest, size int) {
	c.Helper()
	stream, err := c.kv.RangeStream(c.ctx, r)
	c.Must(err)
	n, last := 0, &pb.RangeResponse{}
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		c.Must(err)
		last = part.RangeResponse
		for _, kv := range last.Kvs {
			n += len(kv.Value)
		}
	}
	if n < size || n > size || last.Header == nil || last.More {
		c.Fatalf("%s: a stream of %d bytes of values instead of %d, header %v, more=%v", c.name, n, size, last.Header, last.More)
	}
}

// memoryWatch samples the memory of a process.
type memoryWatch struct {
	cancel  context.CancelFunc
	highest chan int64
	first   int64
	err     error
}

func watchMemory(p *target.Server) *memoryWatch {
	ctx, cancel := context.WithCancel(context.Background())
	m := &memoryWatch{cancel: cancel, highest: make(chan int64)}
	m.first, m.err = p.Memory()
	go func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		highest := int64(0)
		for {
			n, err := p.Memory()
			m.err = errors.Join(m.err, err)
			highest = max(highest, n)
			select {
			case <-ctx.Done():
				m.highest <- highest
				return
			case <-tick.C:
			}
		}
	}()
	return m
}

// stop returns by how much the process was ever larger than at first.
func (m *memoryWatch) stop() (int64, error) {
	m.cancel()
	return <-m.highest - m.first, m.err
}
