package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"weir/loadtest/target"
)

// watchLoad is all clients of one target in one turn: the watchers, and one who writes what they watch. It counts every
// event and knows how many there must be, so a target that loses one, or sends one twice, does not get a result.
//
// A write carries, in its value, the moment for which it was scheduled, and the latency of an event is the time from
// then on. So a server that is slow to take a write does not make the latencies of the next ones look good.
type watchLoad struct {
	scenario Scenario
	target   *target.Target
	writer   *grpc.ClientConn
	conns    []*watchConn
	latency  []*hdrhistogram.Histogram // of each connection, in microseconds; its reader's
	next     int                       // put that comes next
	epoch    time.Time                 // what stamps count from

	created  counter // watches that the server has confirmed
	events   counter
	readers  sync.WaitGroup
	closing  atomic.Bool
	failed   context.Context // ends with what went wrong
	failWith context.CancelCauseFunc
}

func newWatchLoad(ctx context.Context, tg *target.Target, s Scenario, connections int) (*watchLoad, error) {
	l := &watchLoad{scenario: s, target: tg, epoch: time.Now()}
	l.failed, l.failWith = context.WithCancelCause(ctx)
	if err := l.connect(connections); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

// connect returns when all connections are up, so that they are no part of what watchers cost.
func (l *watchLoad) connect(n int) error {
	var err error
	if l.writer, err = l.target.Dial(); err != nil {
		return err
	}
	var started sync.WaitGroup
	for range n {
		latency := newHistogram()
		c, err := dialWatch(l.failed, l.target.Endpoint, l.target.ClientTLS(), func(m []byte) error { return l.receive(m, latency) })
		if err != nil {
			return err
		}
		l.conns = append(l.conns, c)
		l.latency = append(l.latency, latency)
		started.Add(1)
		l.readers.Go(func() {
			once := sync.OnceFunc(started.Done)
			defer once()
			if err := c.read(once); !l.closing.Load() {
				l.failWith(fmt.Errorf("watch %s: %w", l.target.Kind, err))
			}
		})
	}
	started.Wait()
	return context.Cause(l.failed)
}

// close ends the connections and waits for their readers.
func (l *watchLoad) close() error {
	l.closing.Store(true)
	var errs []error
	for _, c := range l.conns {
		errs = append(errs, c.close())
	}
	l.readers.Wait()
	l.failWith(nil)
	if l.writer != nil {
		errs = append(errs, l.writer.Close())
	}
	return errors.Join(errs...)
}

const watchPrefix = "watch/"

func watchKey(i int) []byte { return fmt.Appendf(nil, watchPrefix+"%08d", i) }

// request is the encoded request of the i-th watcher.
func (l *watchLoad) request(i int) ([]byte, error) {
	r := &pb.WatchCreateRequest{Key: []byte(watchPrefix), RangeEnd: []byte("watch0")}
	if l.scenario.SingleKey {
		r.Key, r.RangeEnd = watchKey(i), nil
	}
	b, err := proto.Marshal(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}})
	if err != nil {
		return nil, fmt.Errorf("encode a request: %w", err)
	}
	return b, nil
}

// watch creates all watchers, and returns when the server has confirmed all of them. They come by turns from all
// connections, as they do in life: what a server has made next to each other belongs to different clients.
func (l *watchLoad) watch() error {
	done := l.created.expect(int64(l.scenario.Watchers))
	rpcs := make([]uint32, len(l.conns))
	for i := range l.scenario.Watchers {
		c := i % len(l.conns)
		r, err := l.request(i)
		if err == nil && (l.scenario.OwnStream || i < len(l.conns)) {
			rpcs[c], err = l.conns[c].open()
		}
		if err == nil {
			err = l.conns[c].send(rpcs[c], r)
		}
		if err != nil {
			return fmt.Errorf("watch %s: %w", l.target.Kind, err)
		}
	}
	return l.await(done, &l.created, "watches created")
}

// eventsPerWrite is how many events one write is to all watchers.
func (l *watchLoad) eventsPerWrite() int64 {
	if l.scenario.SingleKey {
		return int64(l.scenario.Puts)
	}
	return int64(l.scenario.Puts) * int64(l.scenario.Watchers)
}

// write writes n times at the scenario's rate. It returns when the last write is acknowledged.
func (l *watchLoad) write(n int) error {
	kv := pb.NewKVClient(l.writer)
	start := time.Now()
	for i := range n {
		at := start.Add(time.Duration(float64(i) * float64(time.Second) / l.scenario.Rate))
		if err := wait(l.failed, time.Until(at)); err != nil {
			return err
		}
		value := make([]byte, l.scenario.ValueSize)
		binary.BigEndian.PutUint64(value, uint64(at.Sub(l.epoch)))
		txn := &pb.TxnRequest{}
		for range l.scenario.Puts {
			put := &pb.PutRequest{Key: watchKey(l.next % l.scenario.Watchers), Value: value}
			l.next++
			txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
		}
		if _, err := kv.Txn(l.failed, txn); err != nil {
			return fmt.Errorf("write to %s: %w", l.target.Kind, err)
		}
	}
	return nil
}

// deliver writes n times and returns when every watcher has every event of it, with the latencies.
func (l *watchLoad) deliver(n int) (*hdrhistogram.Histogram, error) {
	for _, h := range l.latency {
		h.Reset() // nothing comes now: all that was written has arrived
	}
	done := l.events.expect(int64(n) * l.eventsPerWrite())
	if err := l.write(n); err != nil {
		return nil, err
	}
	if err := l.await(done, &l.events, "events"); err != nil {
		return nil, err
	}
	all := newHistogram()
	for _, h := range l.latency {
		all.Merge(h)
	}
	return all, nil
}

// patience is how long a target may take for what it was asked for, after the last request.
const patience = 30 * time.Second

func (l *watchLoad) await(done <-chan struct{}, c *counter, what string) error {
	select {
	case <-done:
		return context.Cause(l.failed)
	case <-l.failed.Done():
		return context.Cause(l.failed)
	case <-time.After(patience):
		return fmt.Errorf("%s: %d %s are missing after %v", l.target.Kind, c.missing.Load(), what, patience)
	}
}

// stampSize is what of a value is the time at which it was to be written: nanoseconds after epoch, big-endian.
const stampSize = 8

// The numbers of fields in etcd's rpc.proto and kv.proto.
const (
	responseCreated, responseCanceled, responseEvents = 3, 4, 11
	eventKV, kvValue                                  = 2, 5
)

// receive counts what is in one WatchResponse. It is called by the reader of the connection that has latency.
func (l *watchLoad) receive(m []byte, latency *hdrhistogram.Histogram) error {
	var events int64
	for len(m) > 0 {
		num, typ, n := protowire.ConsumeTag(m)
		if n < 0 {
			return fmt.Errorf("decode a response: %w", protowire.ParseError(n))
		}
		size := protowire.ConsumeFieldValue(num, typ, m[n:])
		if size < 0 {
			return fmt.Errorf("decode a response: %w", protowire.ParseError(size))
		}
		field := m[n : n+size]
		m = m[n+size:]
		switch num {
		case responseCreated:
			if err := l.created.add(1); err != nil {
				return fmt.Errorf("watches created: %w", err)
			}
		case responseCanceled:
			return errors.New("the server canceled a watch")
		case responseEvents:
			event, _ := protowire.ConsumeBytes(field)
			value := bytesField(bytesField(event, eventKV), kvValue)
			if len(value) < stampSize {
				return errors.New("an event has no value that was written here")
			}
			events++
			took := time.Since(l.epoch) - time.Duration(binary.BigEndian.Uint64(value))
			if err := latency.RecordValue(max(1, took.Microseconds())); err != nil {
				return fmt.Errorf("record a latency: %w", err)
			}
		}
	}
	if events == 0 {
		return nil
	}
	if err := l.events.add(events); err != nil {
		return fmt.Errorf("events: %w", err)
	}
	return nil
}

// bytesField is the content of the field with number num in the message m, nil if there is none.
func bytesField(m []byte, num protowire.Number) []byte {
	for len(m) > 0 {
		got, typ, n := protowire.ConsumeTag(m)
		if n < 0 {
			return nil
		}
		size := protowire.ConsumeFieldValue(got, typ, m[n:])
		if size < 0 {
			return nil
		}
		if got == num && typ == protowire.BytesType {
			b, _ := protowire.ConsumeBytes(m[n:])
			return b
		}
		m = m[n+size:]
	}
	return nil
}

// counter counts to a number that is expected.
type counter struct {
	missing atomic.Int64
	done    chan struct{} // closed when nothing is missing
}

// expect expects n more, when nothing is missing, and returns a channel that is closed when they came.
func (c *counter) expect(n int64) <-chan struct{} {
	c.done = make(chan struct{})
	c.missing.Store(n)
	return c.done
}

// add counts n. More than are expected is an error.
func (c *counter) add(n int64) error {
	switch missing := c.missing.Add(-n); {
	case missing == 0:
		close(c.done)
	case missing < 0:
		return fmt.Errorf("%d more than there can be", -missing)
	}
	return nil
}
