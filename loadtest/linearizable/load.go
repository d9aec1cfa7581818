package linearizable

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anishathalye/porcupine"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"weir/loadtest/target"
)

// Load is clients who make histories at servers, and what porcupine says of each. Its fields must not be changed once it
// runs. Add and Leave may be called then, Close must not.
type Load struct {
	Padding  int   // added to the length of values
	NoStream bool  // no reads are streamed, which etcd does since 3.7
	Most     int64 // how many histories end a run before its time; 0 for any number

	rng   *rand.Rand
	begun time.Time
	conns conns
	told  atomic.Int64 // the newest revision that a client was told
	made  atomic.Int64 // how many histories were begun

	mu        sync.Mutex // guards all below
	servers   []*server
	histories []*History
	undecided int // histories that took too long to check
	wrong     []*History
}

// server is where clients go.
type server struct {
	name  string
	addr  string
	proxy bool
	links []*link
	left  atomic.Bool
}

// link is a connection to a server, made again whenever it breaks.
type link struct {
	server *server
	conn   *grpc.ClientConn
	kv     pb.KVClient
}

const (
	lanes     = 6 // how many histories are made at the same time
	linksEach = 4 // how many connections there are to each server; clients share them
)

// NewLoad has no servers yet, and takes its random choices from rng from now on.
func NewLoad(rng *rand.Rand) *Load { return &Load{rng: rng, begun: time.Now()} }

// Add lets clients go to a server.
func (l *Load) Add(name, addr string, proxy bool) error {
	_, err := l.add(&server{name: name, addr: addr, proxy: proxy})
	return err
}

func (l *Load) add(at *server) (*server, error) {
	for range linksEach {
		conn, err := target.Dial(at.addr, grpc.WithContextDialer(l.conns.dial))
		if err != nil {
			return nil, err
		}
		at.links = append(at.links, &link{at, conn, pb.NewKVClient(conn)})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.servers = append(l.servers, at)
	return at, nil
}

// Leave lets clients go to a server no more. Those who wait there give up.
func (l *Load) Leave(name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.servers, func(s *server) bool { return s.name == name })
	s := l.servers[i]
	l.servers = slices.Delete(slices.Clone(l.servers), i, i+1)
	s.left.Store(true)
	return s.close()
}

func (s *server) close() error {
	var errs []error
	for _, k := range s.links {
		errs = append(errs, k.conn.Close())
	}
	return errors.Join(errs...)
}

// server is a random one.
func (l *Load) server(rng *rand.Rand) *server {
	l.mu.Lock()
	defer l.mu.Unlock()
	return pick(rng, l.servers)
}

// Close closes the connections.
func (l *Load) Close() error {
	var errs []error
	for _, s := range l.servers {
		errs = append(errs, s.close())
	}
	return errors.Join(errs...)
}

// Now is the time since NewLoad, which is what the times of operations and of compactions are.
func (l *Load) Now() time.Duration { return time.Since(l.begun) }

// do sends a request, waiting for the server if it is away, and notes how it ended.
func (l *Load) do(ctx context.Context, r Request, client int, on *link) *Op {
	o := &Op{Request: r, Server: on.server.name, Proxy: on.server.proxy, Client: client, Call: l.Now()}
	var by peer.Peer
	o.Response, o.Err = r.Send(ctx, on.kv, grpc.Peer(&by), grpc.WaitForReady(true))
	o.Return = l.Now()
	if id, ok := by.LocalAddr.(connID); ok {
		o.Conn = int64(id)
	} else if o.Err == nil {
		o.Response, o.Err = nil, fmt.Errorf("the answer came over %v, not over a connection of ours", by.LocalAddr)
	}
	return o
}

// Run makes histories until ctx ends, or one is wrong. Histories that have begun are finished. It may be called again.
func (l *Load) Run(ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	for range lanes {
		rng := rand.New(rand.NewPCG(l.rng.Uint64(), 0))
		wg.Go(func() {
			for ctx.Err() == nil {
				id := l.made.Add(1)
				if l.Most > 0 && id > l.Most {
					return
				}
				h := l.history(rng, int(id))
				if l.check(h) == porcupine.Illegal {
					stop()
				}
			}
		})
	}
	wg.Wait()
}

// check notes a history and what porcupine says of it.
func (l *Load) check(h *History) porcupine.CheckResult {
	result := h.Check()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.histories = append(l.histories, h)
	switch result {
	case porcupine.Illegal:
		l.wrong = append(l.wrong, h)
	case porcupine.Unknown:
		l.undecided++
	}
	return result
}

// history lets a few clients send requests at the same time, each one after another.
func (l *Load) history(rng *rand.Rand, id int) *History {
	spanning := chance(rng, 60)
	keys, clients, each := 6, 5, 10
	if spanning {
		keys, clients, each = 5, 5, 6
	}
	next := newRequests(id, keys, spanning, l.told.Load)
	next.padding, next.streams = l.Padding, !l.NoStream
	ops := make([][]*Op, clients)
	var wg sync.WaitGroup
	for client := range clients {
		own := rand.New(rand.NewPCG(rng.Uint64(), 0))
		wg.Go(func() { ops[client] = l.client(own, next, client, each) })
	}
	wg.Wait()
	for _, own := range ops {
		next.Ops = append(next.Ops, own...)
	}
	return next.History
}

// client sends n requests at the same server, over any of its connections. It gives up when it does not know what became of
// a write: each of those has to be tried at every place in the order, so one for each client is enough. The requests' time
// is up after two seconds, whatever has happened to the server.
func (l *Load) client(rng *rand.Rand, next *requests, client, n int) []*Op {
	var ops []*Op
	server := l.server(rng)
	for range n {
		if chance(rng, 10) || server.left.Load() {
			server = l.server(rng)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond+time.Duration(rng.Int64N(int64(2*time.Second))))
		o := l.do(ctx, next.next(rng), client, pick(rng, server.links))
		cancel()
		ops = append(ops, o)
		if o.Response == nil {
			if o.writes() {
				break
			}
			continue
		}
		for told := l.told.Load(); told < o.Revision && !l.told.CompareAndSwap(told, o.Revision); {
			told = l.told.Load()
		}
	}
	return ops
}

func pick[T any](rng *rand.Rand, all []T) T { return all[rng.IntN(len(all))] }

// ops are those of all histories.
func (l *Load) ops() []*Op {
	var all []*Op
	for _, h := range l.histories {
		all = append(all, h.Ops...)
	}
	return all
}

// end waits for the truth, when nobody runs any more. last is a write that marks its end.
func (l *Load) end(ctx context.Context, f *Follower) (truth *Truth, last *Op, err error) {
	last = l.do(ctx, plain(Step{Kind: Put, Key: "/end", Value: fmt.Sprintf("end after %v", l.Now())}), 0, l.servers[0].links[0])
	if last.Err != nil {
		return nil, nil, fmt.Errorf("mark the end of all histories: %w", last.Err)
	}
	truth, err = f.UpTo(ctx, last.Revision)
	return truth, last, err
}
