package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"weir/loadtest/load"
	"weir/loadtest/target"
)

// Crowd is how often the clients ask that do not flood: for puts of their own keys and linearizable gets, in turns.
type Crowd struct {
	Name  string
	paced bool // at a fixed rate; else each keeps its share of the slots taken
}

// Crowds is every crowd.
func Crowds() []Crowd { return []Crowd{{"paced", true}, {"busy", false}} }

// FindCrowds finds crowds by their names.
func FindCrowds(names []string) ([]Crowd, error) {
	return find(names, "crowd", Crowds(), func(c Crowd) string { return c.Name })
}

// What is read: enough that it is not all in memory at once.
const (
	floodedKeys      = 50_000
	floodedValueSize = 1 << 10 // bytes
)

func floodedKey(i int) []byte { return fmt.Appendf(nil, "flooded/%06d", i) }

func fillFlooded(ctx context.Context, tg *target.Target) error {
	conn, err := target.Dial(tg.StoreAddr())
	if err != nil {
		return err
	}
	defer conn.Close()
	return load.Fill(ctx, conn, floodedKeys, 100, floodedKey, slices.Repeat([]byte("v"), floodedValueSize))
}

// dialFrom is a connection of one client, which has an address of the loopback to itself.
func dialFrom(client int, endpoint string) (*grpc.ClientConn, error) {
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(client+1))}}
	return target.Dial(endpoint, grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", addr)
	}))
}

// crowd is all its clients, in one turn.
type crowd struct {
	ctx       context.Context // ends with what went wrong
	fail      context.CancelCauseFunc
	conns     []*grpc.ClientConn
	working   sync.WaitGroup
	measuring atomic.Bool

	mu      sync.Mutex // guards latency
	latency *hdrhistogram.Histogram
}

// maxTurns is how many times as long a turn is at most, if nothing is heard of its flood.
const maxTurns = 20

// crowdTurn has a crowd ask for one turn, beside a flood if there is one.
func crowdTurn(ctx context.Context, tg *target.Target, kind Crowd, flood *Flood, o *FairnessOptions) (t floodTurn, err error) {
	c := &crowd{latency: load.NewHistogram()}
	c.ctx, c.fail = context.WithCancelCause(ctx)
	defer func() {
		c.fail(nil)
		c.working.Wait()
		for _, conn := range c.conns {
			_ = conn.Close()
		}
		t.flooded = c.latency
	}()
	if err := c.start(tg, kind, o); err != nil {
		return t, err
	}
	var counts atomic.Pointer[floodCounts]
	counts.Store(&floodCounts{})
	if flood != nil {
		c.working.Go(func() {
			if err := flood.start(c.ctx, tg.Endpoint, o, &counts); err != nil && c.ctx.Err() == nil {
				c.fail(err)
			}
		})
	}
	if err := wait(c.ctx, o.WarmUp); err != nil {
		return t, err
	}
	before, start := counts.Load(), time.Now()
	c.measuring.Store(true)
	err = wait(c.ctx, o.Turn)
	// A turn of a flood of which nothing was heard says nothing: on a busy machine it takes a while to get going.
	for flood != nil && err == nil && *counts.Load() == *before && time.Since(start) < maxTurns*o.Turn {
		err = wait(c.ctx, o.Turn/10)
	}
	c.measuring.Store(false)
	after := counts.Load()
	t.took = time.Since(start)
	t.flood = floodCounts{answered: after.answered - before.answered, refused: after.refused - before.refused}
	return t, err
}

func (c *crowd) start(tg *target.Target, kind Crowd, o *FairnessOptions) error {
	inFlight, interval := o.share(), time.Duration(0)
	if kind.paced {
		inFlight, interval = 1, time.Duration(float64(time.Second)/o.Rate)
	}
	for i := range crowdSize {
		conn, err := dialFrom(i, tg.Endpoint)
		if err != nil {
			return err
		}
		c.conns = append(c.conns, conn)
		for j := range inFlight {
			c.working.Go(func() {
				if err := c.ask(pb.NewKVClient(conn), fmt.Appendf(nil, "crowd/%d/%d", i, j), interval); err != nil && c.ctx.Err() == nil {
					c.fail(fmt.Errorf("client %d of the crowd: %w", i, err))
				}
			})
		}
	}
	return nil
}

// ask asks for one thing after the other, once in each interval if there is one. The latency of a request whose time came
// before the last one was answered counts from its time.
func (c *crowd) ask(kv pb.KVClient, key []byte, interval time.Duration) error {
	latency := load.NewHistogram()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.latency.Merge(latency)
	}()
	value := slices.Repeat([]byte("v"), 256)
	due := time.Now().Add(time.Duration(rand.Float64() * float64(interval)))
	for i := 0; ; i++ {
		if interval == 0 {
			due = time.Now()
		} else if err := wait(c.ctx, time.Until(due)); err != nil {
			return err
		}
		var err error
		if i%2 == 0 {
			_, err = kv.Put(c.ctx, &pb.PutRequest{Key: key, Value: value})
		} else {
			_, err = kv.Range(c.ctx, &pb.RangeRequest{Key: floodedKey(rand.IntN(floodedKeys))})
		}
		if err != nil {
			return err
		}
		if c.measuring.Load() {
			load.Record(latency, time.Since(due))
		}
		due = due.Add(interval)
	}
}
