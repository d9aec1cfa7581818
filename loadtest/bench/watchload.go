package bench

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
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
	*clients
	scenario Scenario
	writer   *grpc.ClientConn
	latency  []*hdrhistogram.Histogram // of each connection, in microseconds; its reader's
	next     int                       // put that comes next
	epoch    time.Time                 // what stamps count from

	created counter // watches that the server has confirmed
	events  counter
}

// watchHandler counts what comes on one connection. The watches are to go on, so it is an error that one is ended.
type watchHandler struct {
	load    *watchLoad
	latency *hdrhistogram.Histogram
}

func (h watchHandler) message(_ uint32, m []byte) error { return h.load.receive(m, h.latency) }

func (h watchHandler) end(_ uint32, err error) error {
	return cmp.Or(err, errors.New("the server ended an RPC"))
}

func newWatchLoad(ctx context.Context, tg *target.Target, s Scenario, connections int) (*watchLoad, error) {
	l := &watchLoad{clients: newClients(ctx, tg), scenario: s, epoch: time.Now()}
	for range connections {
		l.latency = append(l.latency, newHistogram())
	}
	var err error
	if l.writer, err = tg.Dial(); err == nil {
		err = l.connect(connections, "/etcdserverpb.Watch/Watch", func(i int) handler { return watchHandler{load: l, latency: l.latency[i]} })
	}
	if err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

func (l *watchLoad) close() error {
	err := l.clients.close()
	if l.writer != nil {
		err = errors.Join(err, l.writer.Close())
	}
	return err
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
	if err := eachField(m, func(num protowire.Number, _ protowire.Type, field []byte) error {
		switch num {
		case responseCreated:
			if err := l.created.add(1); err != nil {
				return fmt.Errorf("watches created: %w", err)
			}
		case responseCanceled:
			return errors.New("the server canceled a watch")
		case responseEvents:
			at, err := stamp(field)
			if err != nil {
				return err
			}
			events++
			if err := latency.RecordValue(max(1, (time.Since(l.epoch) - at).Microseconds())); err != nil {
				return fmt.Errorf("record a latency: %w", err)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	if events == 0 {
		return nil
	}
	if err := l.events.add(events); err != nil {
		return fmt.Errorf("events: %w", err)
	}
	return nil
}

// stamp is the time after epoch at which what a WatchResponse's field tells of was to be written.
func stamp(field []byte) (time.Duration, error) {
	event, _ := protowire.ConsumeBytes(field)
	kv, err := bytesField(event, eventKV)
	if err != nil {
		return 0, err
	}
	value, err := bytesField(kv, kvValue)
	if err == nil && len(value) < stampSize {
		err = errors.New("an event has no value that was written here")
	}
	if err != nil {
		return 0, err
	}
	return time.Duration(binary.BigEndian.Uint64(value)), nil
}
