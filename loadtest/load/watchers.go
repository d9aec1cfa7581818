package load

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"weir/loadtest/client"
)

// Watches is who watches what, and what is written. All numbers must be positive.
type Watches struct {
	Prefix      string // of all keys
	Watchers    int
	Connections int     // that they share
	SingleKey   bool    // every watcher has a key of its own; else all watch all keys
	OwnStream   bool    // every watcher has a stream of its own; else those of a connection share one
	ValueSize   int     // in bytes, 16 or more
	Puts        int     // of different keys in each write, which is one transaction
	Rate        float64 // writes a second
}

// EventsPerWrite is how many events one write is to all watchers.
func (w Watches) EventsPerWrite() int64 {
	if w.SingleKey {
		return int64(w.Puts)
	}
	return int64(w.Puts) * int64(w.Watchers)
}

func (w Watches) key(i int64) []byte {
	return fmt.Appendf(nil, "%s%08d", w.Prefix, i%int64(w.Watchers))
}

// request is the encoded request of the i-th watcher.
func (w Watches) request(i int) ([]byte, error) {
	r := &pb.WatchCreateRequest{Key: []byte(w.Prefix), RangeEnd: PrefixEnd(w.Prefix)}
	if w.SingleKey {
		r.Key, r.RangeEnd = w.key(int64(i)), nil
	}
	b, err := proto.Marshal(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}})
	if err != nil {
		return nil, fmt.Errorf("encode a request: %w", err)
	}
	return b, nil
}

// Watchers are those who watch, and one who writes. Each put carries its number in its value, and each watcher must be given
// those that it watches one by one, so that what is lost, comes twice or out of order is found when it comes, at whom; what
// never comes is found by Await.
//
// A put also carries the moment at which it was due, and the latency of an event is the time from then on. So a server that
// is slow to take a write does not make the latencies of the next ones look good. A write waits for the answer to the one
// before, so that their order is known.
//
// Its methods are called one after the other.
type Watchers struct {
	watches Watches
	group   *client.Group
	conns   []*client.Conn
	writer  *grpc.ClientConn

	epoch   time.Time // what moments in values count from
	begun   time.Time // when the first write of the last Write or WriteUntil was due
	next    int64     // number of the put that comes next
	first   int64     // of those that are watched
	taken   []bool    // by key: somebody was given the first event; the key's connection's reader's
	created *tally
	arrived *tally // events
}

// NewWatchers connects to a place. The i-th connection's events go to the i-th track. Whatever goes wrong later, ctx's end too, is
// an error of the method under way; Close must be called.
func NewWatchers(ctx context.Context, p Place, w Watches, track func(i int) Track) (*Watchers, error) {
	l := &Watchers{watches: w, group: client.NewGroup(ctx), epoch: time.Now(), taken: make([]bool, w.Watchers),
		created: newTally(), arrived: newTally()}
	var err error
	if l.writer, err = p.Dial(); err == nil {
		l.conns, err = l.group.Connect(w.Connections, p.Endpoint, p.Client, func(i int) client.Handler {
			return &watchConn{load: l, index: i, track: track(i), watchers: map[watchID]*position{}}
		})
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// Watch creates all watchers, and returns when the server has confirmed all of them. They come by turns from all
// connections, as they do in life: what a server has made next to each other belongs to different clients.
func (l *Watchers) Watch() error {
	l.first = l.next
	rpcs := make([]uint32, len(l.conns))
	for i := range l.watches.Watchers {
		c := i % len(l.conns)
		r, err := l.watches.request(i)
		if err == nil && (l.watches.OwnStream || i < len(l.conns)) {
			rpcs[c], err = l.conns[c].Open(client.Watch)
		}
		if err == nil {
			err = l.conns[c].Send(rpcs[c], r)
		}
		if err != nil {
			return fmt.Errorf("create a watch: %w", cmp.Or(context.Cause(l.group.Failed()), err))
		}
	}
	return l.created.await(l.group.Failed(), int64(l.watches.Watchers), "watches")
}

// Write writes n times at the rate. It returns when the last write is acknowledged.
func (l *Watchers) Write(n int) error {
	return l.write(nil, n)
}

// WriteUntil writes at the rate until stop ends, and returns when the last write is acknowledged.
func (l *Watchers) WriteUntil(stop <-chan struct{}) error {
	return l.write(stop, -1)
}

func (l *Watchers) write(stop <-chan struct{}, n int) error {
	l.begun = time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := 0; i != n; i++ {
		due := l.begun.Add(time.Duration(float64(i) * float64(time.Second) / l.watches.Rate))
		timer.Reset(time.Until(due))
		select {
		case <-timer.C:
		case <-stop:
			return nil
		case <-l.group.Failed().Done():
			return context.Cause(l.group.Failed())
		}
		txn := &pb.TxnRequest{}
		for range l.watches.Puts {
			put := &pb.PutRequest{Key: l.watches.key(l.next), Value: stamp{due: due.Sub(l.epoch), put: l.next}.value(l.watches.ValueSize)}
			l.next++
			txn.Success = append(txn.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}})
		}
		if err := l.put(txn); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	return nil
}

func (l *Watchers) put(txn *pb.TxnRequest) error {
	ctx, cancel := context.WithTimeout(l.group.Failed(), Patience)
	defer cancel()
	_, err := pb.NewKVClient(l.writer).Txn(ctx, txn)
	return cmp.Or(context.Cause(l.group.Failed()), err)
}

// Due is how many writes were due from one moment until another, by the rate and the begin of the last Write or WriteUntil.
func (l *Watchers) Due(from, until time.Time) int64 {
	before := func(t time.Time) int64 { return int64(math.Ceil(max(0, t.Sub(l.begun).Seconds()) * l.watches.Rate)) }
	return before(until) - before(from)
}

// Await returns when every watcher was given every event of what has been written since Watch.
func (l *Watchers) Await() error {
	events := (l.next - l.first) / int64(l.watches.Puts) * l.watches.EventsPerWrite()
	return l.arrived.await(l.group.Failed(), events, "events")
}

// Events is how many have arrived so far.
func (l *Watchers) Events() int64 { return l.arrived.came.Load() }

// Close ends the connections, and with them the watches.
func (l *Watchers) Close() error {
	err := l.group.Close()
	if l.writer != nil {
		err = errors.Join(err, l.writer.Close())
	}
	return err
}

// stamp is what a value begins with.
type stamp struct {
	due time.Duration // after epoch
	put int64
}

const stampSize = 16

// value is the stamp, big-endian, in so many bytes.
func (s stamp) value(size int) []byte {
	v := make([]byte, size)
	binary.BigEndian.PutUint64(v, uint64(s.due))
	binary.BigEndian.PutUint64(v[8:], uint64(s.put))
	return v
}

func stampOf(value []byte) (stamp, error) {
	if len(value) < stampSize {
		return stamp{}, errors.New("an event of what was not written here")
	}
	return stamp{due: time.Duration(binary.BigEndian.Uint64(value)), put: int64(binary.BigEndian.Uint64(value[8:]))}, nil
}
