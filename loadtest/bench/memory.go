package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"weir/loadtest/client"
	"weir/loadtest/load"
	"weir/loadtest/proc"
	"weir/loadtest/target"
)

// MemoryOptions are what RunMemory has a proxy keep and answer. Keys must be positive, and Reads a multiple of
// MemorySamples.
type MemoryOptions struct {
	Keys  int
	Reads int64 // each different from all others
}

// MemorySamples is how many times memory is measured while a proxy answers.
const MemorySamples = 10

// MemoryResult is the memory of a proxy over an etcd.
type MemoryResult struct {
	Keys  int
	Bytes int64 // of keys and values
	// Heap is the live heap and the stacks, and RSS the physical memory, by which a proxy that keeps all keys exceeds one
	// that keeps none and has answered nothing, before it has answered anything. In bytes.
	Heap, RSS int64
	LoadTook  time.Duration // from the start of the process until all keys were in memory

	Reads     int64
	ReadsTook time.Duration
	HitRatio  float64 // from 0 to 1: the part of the reads that was answered from memory
	// RSSDuring is RSS when each tenth of the reads was answered, and HeapAfter Heap when all were.
	RSSDuring []int64
	HeapAfter int64
}

// What is kept.
const (
	memoryPrefix    = "memory/"
	memoryValueSize = 256 // bytes
)

func memoryKey(i int) []byte { return fmt.Appendf(nil, memoryPrefix+"%08d", i) }

// memoryTimeout is how long a proxy may take to load what it shall keep.
const memoryTimeout = 5 * time.Minute

// RunMemory measures the memory of a proxy that keeps many keys, then answers many different reads: half are lists
// of what it keeps, half are gets of keys that do not exist, each below a prefix of its own. progress is told what is
// going on. The data is below a temporary directory, which is removed.
func RunMemory(ctx context.Context, bin *proc.Bin, o MemoryOptions, progress func(string)) (r *MemoryResult, err error) {
	dir, err := os.MkdirTemp("", "weir-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the targets: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if _, err := bin.Build(ctx, proc.Proxy); err != nil {
		return nil, err
	}
	progress(fmt.Sprintf("memory: put %d keys", o.Keys))
	etcd, err := startFull(ctx, bin, dir, o.Keys)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, etcd.Close()) }()

	progress("memory: a proxy that keeps nothing")
	nothing, err := memoryWith(ctx, bin, etcd, []string{"--cache-bytes=0"}, func(*target.Server) error { return nil })
	if err != nil {
		return nil, err
	}
	progress("memory: a proxy that keeps all")
	r = &MemoryResult{Keys: o.Keys, Bytes: int64(o.Keys) * int64(len(memoryKey(0))+memoryValueSize), Reads: o.Reads}
	// Enough for what is kept, and not for a second copy: so the whole key space does not become hot by the gets.
	keep := []string{"--cache-prefix=" + memoryPrefix, fmt.Sprintf("--cache-bytes=%d", r.Bytes*8/5+64<<20)}
	start := time.Now()
	all, err := memoryWith(ctx, bin, etcd, keep,
		func(s *target.Server) error {
			err := waitCached(ctx, s, o.Keys)
			r.LoadTook = time.Since(start)
			return err
		},
		func(s *target.Server) error { return r.read(ctx, s, progress) })
	if err != nil {
		return nil, err
	}
	r.Heap, r.HeapAfter, r.RSS = all[0].heap-nothing[0].heap, all[1].heap-nothing[0].heap, all[0].rss-nothing[0].rss
	for i := range r.RSSDuring {
		r.RSSDuring[i] -= nothing[0].rss
	}
	return r, nil
}

// startFull starts an etcd and puts keys, many in each transaction: one by one would take minutes.
func startFull(ctx context.Context, bin *proc.Bin, dir string, keys int) (*target.Cluster, error) {
	const inTxn = 1000
	etcd, err := target.StartCluster(ctx, bin, proc.Etcd37, dir, target.ClusterOptions{
		Args: []string{fmt.Sprintf("--max-txn-ops=%d", inTxn), fmt.Sprintf("--quota-backend-bytes=%d", 8<<30)}})
	if err != nil {
		return nil, err
	}
	conn, err := target.Dial(etcd.Members[0].Addr)
	if err == nil {
		err = errors.Join(load.Fill(ctx, conn, keys, inTxn, memoryKey, slices.Repeat([]byte("v"), memoryValueSize)), conn.Close())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fill etcd: %w", err), etcd.Close())
	}
	return etcd, nil
}

// waitCached waits until a proxy has so many keys in memory.
func waitCached(ctx context.Context, s *target.Server, keys int) error {
	ctx, cancel := context.WithTimeout(ctx, memoryTimeout)
	defer cancel()
	return s.WaitReady(ctx, func(ctx context.Context) error {
		status, err := cacheStatusOf(ctx, s)
		if err == nil && *status.Keys < keys {
			err = fmt.Errorf("%d keys in memory of %d", *status.Keys, keys)
		}
		return err
	})
}

// memory is what a process takes, in bytes.
type memory struct{ heap, rss int64 }

// memoryWith is the memory of a proxy after each of the steps, and after the garbage collections that tell the live heap:
// what loading has left behind is not what keeping takes.
func memoryWith(ctx context.Context, bin *proc.Bin, etcd *target.Cluster, args []string, steps ...func(*target.Server) error) (all []memory, err error) {
	s, err := target.StartProxy(ctx, bin, etcd.Endpoints(), append(args, "--enable-pprof")...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Stop()) }()
	for _, step := range steps {
		if err := step(s); err != nil {
			return nil, err
		}
		var m memory
		if m.heap, err = liveMemory(ctx, s); err != nil {
			return nil, err
		}
		if m.rss, err = s.Memory(); err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

// read has a proxy answer r.Reads different reads.
func (r *MemoryResult) read(ctx context.Context, s *target.Server, progress func(string)) error {
	requests := &distinctRequests{keys: r.Keys}
	before, err := cacheStatusOf(ctx, s)
	if err != nil {
		return err
	}
	start := time.Now()
	for i := range MemorySamples {
		requests.end = r.Reads * int64(i+1) / MemorySamples
		if err := readAll(ctx, s, requests); err != nil {
			return err
		}
		rss, err := s.Memory()
		if err != nil {
			return err
		}
		r.RSSDuring = append(r.RSSDuring, rss)
		progress(fmt.Sprintf("memory: %d different reads, RSS %d MiB", requests.end, rss>>20))
	}
	r.ReadsTook = time.Since(start)
	after, err := cacheStatusOf(ctx, s)
	if err != nil {
		return err
	}
	r.HitRatio = (after.hits() - before.hits()) / float64(r.Reads)
	return nil
}

// The clients who read.
const (
	memoryConns = 8
	memoryUnder = 16 // way on each connection
)

// readAll sends requests until there are no more.
func readAll(ctx context.Context, s *target.Server, requests *distinctRequests) (err error) {
	l := load.NewClosedLoop(load.Place{Endpoint: func(int) string { return s.Addr }}, load.Clients{Connections: memoryConns, PerConn: memoryUnder,
		Client: func(int) load.Requester { return &distinctReader{all: requests} }}, func(int) load.Track { return untracked{} })
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := l.Connect(ctx); err != nil {
		return err
	}
	return l.Run(ctx, nil)
}

// untracked is the track of reads whose latency is of no interest.
type untracked struct{}

// Done counts nothing.
func (untracked) Done(time.Time, int) {}

// distinctRequests are those of RunMemory, in order.
type distinctRequests struct {
	keys int // that the proxy keeps
	sent atomic.Int64
	end  int64 // how many there are; set while nobody asks
}

// next is an encoded RangeRequest and how many keys are in its answer. The error is io.EOF when there are no more.
func (d *distinctRequests) next() (request []byte, keys int, err error) {
	i := d.sent.Add(1) - 1
	if i >= d.end {
		d.sent.Add(-1)
		return nil, 0, io.EOF
	}
	return d.request(i)
}

// distinctReader is one client.
type distinctReader struct {
	all  *distinctRequests
	keys int // that the next answer must have
}

// Next is one of all requests.
func (r *distinctReader) Next() (client.Method, []byte, error) {
	request, keys, err := r.all.next()
	r.keys = keys
	return client.KVRange, request, err
}

// Check counts the keys of a RangeResponse.
func (r *distinctReader) Check(answer []byte) (int, error) {
	keys := 0
	if err := client.EachField(answer, func(num protowire.Number, _ protowire.Type, _ []byte) error {
		if num == rangeKVs {
			keys++
		}
		return nil
	}); err != nil {
		return 0, err
	}
	if keys != r.keys {
		return 0, fmt.Errorf("an answer has %d keys, want %d", keys, r.keys)
	}
	return keys * memoryValueSize, nil
}

// listed is how many keys there are in a list of distinctRequests, but for the last ones.
const listed = 10

// request is the i-th request.
func (d *distinctRequests) request(i int64) (request []byte, keys int, err error) {
	n := i / 2
	r := &pb.RangeRequest{Key: fmt.Appendf(nil, "%d/nothing", n), Serializable: n%2 == 0}
	if i%2 == 0 {
		// The limit makes those different that begin with the same key.
		from := int(n % int64(d.keys))
		keys = min(listed, d.keys-from)
		r.Key, r.RangeEnd, r.Limit = memoryKey(from), memoryKey(from+listed), listed+n/int64(d.keys)
	}
	if request, err = proto.Marshal(r); err != nil {
		return nil, 0, fmt.Errorf("encode a request: %w", err)
	}
	return request, keys, nil
}
