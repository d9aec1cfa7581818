package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"weir/loadtest/target"
)

// Workload is one kind of request. The keys are those that were put before.
type Workload string

// The workloads. Gets are of single keys.
const (
	Put             Workload = "put"
	SerializableGet Workload = "get-serializable"
	LinearizableGet Workload = "get-linearizable"
)

// Workloads is every workload.
func Workloads() []Workload { return []Workload{Put, SerializableGet, LinearizableGet} }

func (w Workload) send(ctx context.Context, kv pb.KVClient, key, value []byte) error {
	var err error
	switch w {
	case Put:
		_, err = kv.Put(ctx, &pb.PutRequest{Key: key, Value: value})
	default:
		var r *pb.RangeResponse
		r, err = kv.Range(ctx, &pb.RangeRequest{Key: key, Serializable: w == SerializableGet})
		if err == nil && len(r.Kvs) != 1 {
			err = fmt.Errorf("key %s is not there", key)
		}
	}
	return err
}

// server is a target with the connections to it.
type server struct {
	*target.Target
	conns []*grpc.ClientConn
	value []byte
	keys  int
}

func connect(tg *target.Target, o Options) (*server, error) {
	s := &server{Target: tg, keys: o.Keys, value: slices.Repeat([]byte("v"), o.ValueSize)}
	for range o.Connections {
		conn, err := target.Dial(tg.Endpoint)
		if err != nil {
			s.disconnect()
			return nil, err
		}
		s.conns = append(s.conns, conn)
	}
	return s, nil
}

func (s *server) disconnect() {
	for _, c := range s.conns {
		_ = c.Close()
	}
}

func key(i int) []byte { return fmt.Appendf(nil, "bench/%08d", i) }

// fill puts all keys.
func (s *server) fill(ctx context.Context) error {
	if err := fill(ctx, s.conns[0], s.keys, 100, key, s.value); err != nil {
		return fmt.Errorf("fill %s: %w", s.Kind, err)
	}
	return nil
}

// fill puts n keys, the i-th of which is keyOf(i), so many in each transaction.
func fill(ctx context.Context, conn *grpc.ClientConn, n, inTxn int, keyOf func(i int) []byte, value []byte) error {
	kv := pb.NewKVClient(conn)
	for i := 0; i < n; i += inTxn {
		txn := &pb.TxnRequest{}
		for j := i; j < min(i+inTxn, n); j++ {
			txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{
				RequestPut: &pb.PutRequest{Key: keyOf(j), Value: value}}})
		}
		if _, err := kv.Txn(ctx, txn); err != nil {
			return err
		}
	}
	return nil
}

// cpu is the processor time that the server's processes have taken.
func (s *server) cpu() (time.Duration, error) {
	var sum time.Duration
	for _, p := range s.Processes() {
		d, err := p.CPU()
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}

// turn is what was measured in one turn.
type turn struct {
	ops       int64
	took, cpu time.Duration
	latency   *hdrhistogram.Histogram // in microseconds
}

// newHistogram takes latencies from a microsecond to a minute, with an error below 1 %.
func newHistogram() *hdrhistogram.Histogram {
	return hdrhistogram.New(1, time.Minute.Microseconds(), 2)
}

// load sends requests over all connections, inFlight at a time on each, and measures once the warm-up is over.
func (s *server) load(ctx context.Context, w Workload, o Options) (turn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		measuring atomic.Bool
		wg        sync.WaitGroup
		workers   = make([]*hdrhistogram.Histogram, 0, o.Connections*o.InFlight)
	)
	for c := range s.conns {
		kv := pb.NewKVClient(s.conns[c])
		for range o.InFlight {
			latency := newHistogram()
			workers = append(workers, latency)
			wg.Go(func() {
				if err := s.work(ctx, w, kv, &measuring, latency); err != nil {
					cancel(fmt.Errorf("%s of %s: %w", w, s.Kind, err))
				}
			})
		}
	}
	t, err := s.measure(ctx, &measuring, o)
	cancel(nil)
	wg.Wait()
	if err != nil {
		return t, err
	}
	t.latency = newHistogram()
	for _, h := range workers {
		t.latency.Merge(h)
	}
	t.ops = t.latency.TotalCount()
	return t, nil
}

// work sends one request after another until ctx ends.
func (s *server) work(ctx context.Context, w Workload, kv pb.KVClient, measuring *atomic.Bool, latency *hdrhistogram.Histogram) error {
	for {
		start := time.Now()
		err := w.send(ctx, kv, key(rand.IntN(s.keys)), s.value)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case measuring.Load():
			if err := latency.RecordValue(max(1, time.Since(start).Microseconds())); err != nil {
				return fmt.Errorf("record a latency: %w", err)
			}
		}
	}
}

// measure lets the load run for the warm-up and the turn.
func (s *server) measure(ctx context.Context, measuring *atomic.Bool, o Options) (turn, error) {
	if err := wait(ctx, o.WarmUp); err != nil {
		return turn{}, err
	}
	before, err := s.cpu()
	if err != nil {
		return turn{}, err
	}
	start := time.Now()
	measuring.Store(true)
	err = wait(ctx, o.Turn)
	measuring.Store(false)
	took := time.Since(start)
	if err != nil {
		return turn{}, err
	}
	after, err := s.cpu()
	return turn{took: took, cpu: after - before}, err
}

// wait waits for d, or less if ctx ends, which is an error.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
