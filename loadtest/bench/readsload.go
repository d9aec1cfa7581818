package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/protowire"

	"weir/loadtest/client"
	"weir/loadtest/target"
)

// readLoad is all clients of one target in one turn. Each asks again as soon as it is answered, on the goroutine that
// reads its connection. Answers are looked at: a target that leaves out a key, or gives one of before a write that was
// acknowledged before the request of a linearizable read, does not get a result.
type readLoad struct {
	*clients
	requests     requests
	linearizable bool
	inFlight     int // of each client
	readers      []*reader

	written  atomic.Int64 // revision of the newest acknowledged write
	stopping atomic.Bool  // nobody asks again
	finished counter      // requests in flight that no other followed
}

// reader is the client that has one of the connections.
type reader struct {
	load *readLoad
	conn *client.Conn

	mu      sync.Mutex // guards the fields below: the first calls are not made by the connection's reader
	calls   map[uint32]*call
	latency *hdrhistogram.Histogram // in microseconds, of all answers since start
}

// call is a request in flight.
type call struct {
	sent     time.Time
	keys     int   // that must be in the answer
	revision int64 // that the answer must not be below
	answered bool
}

// newReadLoad connects the clients.
func newReadLoad(ctx context.Context, tg *target.Target, clients, inFlight int, r requests, linearizable bool) (*readLoad, error) {
	l := &readLoad{clients: newClients(ctx, tg), requests: r, linearizable: linearizable, inFlight: inFlight}
	for range clients {
		l.readers = append(l.readers, &reader{load: l, calls: map[uint32]*call{}, latency: newHistogram()})
	}
	conns, err := l.connect(clients, func(i int) client.Handler { return l.readers[i] })
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	for i, r := range l.readers {
		r.conn = conns[i]
	}
	return l, nil
}

// run has all clients ask for d. It returns when all that they asked for is answered, with the latencies.
func (l *readLoad) run(d time.Duration) (*hdrhistogram.Histogram, error) {
	l.stopping.Store(false)
	done, err := l.start()
	if err != nil {
		return nil, err
	}
	if err := wait(l.Failed(), d); err != nil {
		return nil, err
	}
	l.stopping.Store(true)
	if err := l.await(done, &l.finished, "answers"); err != nil {
		return nil, err
	}
	all := newHistogram()
	for _, r := range l.readers {
		all.Merge(r.latency)
	}
	return all, nil
}

// start sends the first requests. Nothing may be in flight. The channel is closed when nothing is in flight again.
func (l *readLoad) start() (<-chan struct{}, error) {
	done := l.finished.expect(int64(len(l.readers) * l.inFlight))
	for _, r := range l.readers {
		if err := r.start(); err != nil {
			return nil, fmt.Errorf("read from %s: %w", l.target.Kind, err)
		}
	}
	return done, nil
}

func (r *reader) start() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.latency.Reset()
	for range r.load.inFlight {
		if err := r.ask(&call{}); err != nil {
			return err
		}
	}
	return r.conn.Flush()
}

// ask sends the next request, if there is to be one, under the lock.
func (r *reader) ask(c *call) error {
	if r.load.stopping.Load() {
		return r.load.finished.add(1)
	}
	request, keys, err := r.load.requests.next()
	if errors.Is(err, io.EOF) {
		return r.load.finished.add(1)
	}
	if err != nil {
		return err
	}
	*c = call{sent: time.Now(), keys: keys}
	if r.load.linearizable {
		c.revision = r.load.written.Load()
	}
	rpc, err := r.conn.Call(client.KVRange, request)
	r.calls[rpc] = c
	return err
}

// The numbers of fields in etcd's rpc.proto.
const (
	rangeHeader, rangeKVs = 1, 2
	headerRevision        = 3
)

// Message is given a RangeResponse.
func (r *reader) Message(rpc uint32, m []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.calls[rpc]
	if c == nil || c.answered {
		return errors.New("an answer to nothing that was asked")
	}
	keys := 0
	if err := client.EachField(m, func(num protowire.Number, _ protowire.Type, field []byte) error {
		switch num {
		case rangeKVs:
			keys++
		case rangeHeader:
			header, _ := protowire.ConsumeBytes(field)
			switch at, err := client.VarintField(header, headerRevision); {
			case err != nil:
				return err
			case at < c.revision:
				return fmt.Errorf("an answer of revision %d to who asked after a write of revision %d was acknowledged", at, c.revision)
			}
		}
		return nil
	}); err != nil {
		return err
	}
	if keys != c.keys {
		return fmt.Errorf("an answer has %d keys, want %d", keys, c.keys)
	}
	c.answered = true
	return nil
}

// End takes the latency of a request, and sends the next.
func (r *reader) End(rpc uint32, err error) error {
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.calls[rpc]
	if c == nil || !c.answered {
		return errors.New("the server ended an RPC without an answer")
	}
	delete(r.calls, rpc)
	if err := r.latency.RecordValue(max(1, time.Since(c.sent).Microseconds())); err != nil {
		return fmt.Errorf("record a latency: %w", err)
	}
	return r.ask(c)
}

// write writes at a rate to keys that are read, until ctx ends, which is no error. It writes to the process that holds
// the data, so that writes cost the same whatever stands before it.
func (l *readLoad) write(ctx context.Context, rate float64) error {
	conn, err := target.Dial(l.target.StoreAddr())
	if err != nil {
		return err
	}
	defer conn.Close()
	kv := pb.NewKVClient(conn)
	value := slices.Repeat([]byte("w"), readValueSize)
	start := time.Now()
	for i := 0; ; i++ {
		at := start.Add(time.Duration(float64(i) * float64(time.Second) / rate))
		if wait(ctx, time.Until(at)) != nil {
			return nil
		}
		r, err := kv.Put(ctx, &pb.PutRequest{Key: readKey(rand.IntN(lists * keysInList)), Value: value})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("write to %s: %w", l.target.Kind, err)
		}
		l.written.Store(r.Header.Revision)
	}
}
