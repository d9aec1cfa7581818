package crash

import (
	"context"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
)

// Ledger is what writers know of the store: what they tried, and what they were told was done. Nothing is ever tried
// twice and no key but the counters is written twice, so a key of version 2 was applied twice. Its methods may be called
// concurrently. All its keys begin with a dot: whoever tests something else beside it takes others.
type Ledger struct {
	mu      sync.Mutex       // guards all below
	tried   map[string]int64 // by key: 0, or the revision in which it was acknowledged
	leases  map[int64]string // acknowledged, and the key that was put with it
	newest  int64            // the newest revision that anybody was told
	backed  []string         // times at which it went back
	counter map[int]counter  // of each writer
}

// counter is a key that is written again and again.
type counter struct{ tried, acknowledged int64 }

// NewLedger is that of an empty store.
func NewLedger() *Ledger {
	return &Ledger{tried: map[string]int64{}, leases: map[int64]string{}, counter: map[int]counter{}}
}

// saw notes the revision of a linearizable answer to a request that was sent when floor had been seen.
func (l *Ledger) saw(h *pb.ResponseHeader, floor int64) {
	if h.GetRevision() < floor {
		l.backed = append(l.backed, fmt.Sprintf("an answer has revision %d, after %d had been seen", h.GetRevision(), floor))
	}
	l.newest = max(l.newest, h.GetRevision())
}

// record sends a write of keys that have not been tried, and notes how it ended. Any error leaves it open whether the
// write was done.
func (l *Ledger) record(keys []string, send func() (*pb.ResponseHeader, error)) error {
	l.mu.Lock()
	floor := l.newest
	for _, k := range keys {
		l.tried[k] = 0
	}
	l.mu.Unlock()
	h, err := send()
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.saw(h, floor)
	for _, k := range keys {
		l.tried[k] = h.Revision
	}
	return nil
}

// callTimeout bounds one request, restarts of the server included.
const callTimeout = 30 * time.Second

// Write writes as writer number id, which nobody else ever is, until ctx ends or the connection is closed, and the last
// request has an answer. Every error is taken: the server is being killed.
func (l *Ledger) Write(ctx context.Context, conn *grpc.ClientConn, id int) {
	kv, lease := pb.NewKVClient(conn), pb.NewLeaseClient(conn)
	for n := int64(1); ctx.Err() == nil && conn.GetState() != connectivity.Shutdown; n++ {
		// A request that has begun is waited for, or the last one would be neither acknowledged nor failed.
		call, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		key := fmt.Sprintf(".w%d/%08d", id, n)
		switch n % 8 {
		case 0:
			l.txn(call, kv, key)
		case 1:
			l.leased(call, kv, lease, key, int64(id)<<32|n)
		case 2:
			l.count(call, kv, id, n)
		default:
			_ = l.record([]string{key}, func() (*pb.ResponseHeader, error) {
				r, err := kv.Put(call, &pb.PutRequest{Key: []byte(key), Value: valueOf(key)}, grpc.WaitForReady(true))
				return r.GetHeader(), err
			})
		}
		cancel()
	}
}

// valueOf is the only value that a key is ever given.
func valueOf(key string) []byte { return []byte("value of " + key) }

func putOp(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: valueOf(key)}}}
}

// txn puts two keys in one revision.
func (l *Ledger) txn(ctx context.Context, kv pb.KVClient, key string) {
	keys := []string{key + "/a", key + "/b"}
	_ = l.record(keys, func() (*pb.ResponseHeader, error) {
		r, err := kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{putOp(keys[0]), putOp(keys[1])}}, grpc.WaitForReady(true))
		return r.GetHeader(), err
	})
}

// leaseTTL is longer than any run.
const leaseTTL = 10_000

// leased grants a lease and puts a key with it.
func (l *Ledger) leased(ctx context.Context, kv pb.KVClient, lease pb.LeaseClient, key string, id int64) {
	if _, err := lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: leaseTTL}, grpc.WaitForReady(true)); err != nil {
		return
	}
	l.mu.Lock()
	l.leases[id] = ""
	l.mu.Unlock()
	err := l.record([]string{key}, func() (*pb.ResponseHeader, error) {
		r, err := kv.Put(ctx, &pb.PutRequest{Key: []byte(key), Value: valueOf(key), Lease: id}, grpc.WaitForReady(true))
		return r.GetHeader(), err
	})
	if err == nil {
		l.mu.Lock()
		l.leases[id] = key
		l.mu.Unlock()
	}
}

// count puts the number n into the writer's counter.
func (l *Ledger) count(ctx context.Context, kv pb.KVClient, id int, n int64) {
	l.mu.Lock()
	c := l.counter[id]
	c.tried = n
	l.counter[id] = c
	l.mu.Unlock()
	_, err := kv.Put(ctx, &pb.PutRequest{Key: counterKey(id), Value: fmt.Append(nil, n)}, grpc.WaitForReady(true))
	if err == nil {
		l.mu.Lock()
		c.acknowledged = n
		l.counter[id] = c
		l.mu.Unlock()
	}
}

func counterKey(id int) []byte { return fmt.Appendf(nil, ".counter/%d", id) }

// Check compares the store with what is known of it, while nobody writes. It returns what is wrong.
func (l *Ledger) Check(ctx context.Context, conn *grpc.ClientConn) ([]string, error) {
	kv := pb.NewKVClient(conn)
	all, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte(".w"), RangeEnd: []byte(".x")}, grpc.WaitForReady(true))
	if err != nil {
		return nil, fmt.Errorf("read the store: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.saw(all.Header, l.newest)
	wrong := l.backed
	found := map[string]*mvccpb.KeyValue{}
	for _, p := range all.Kvs {
		key := string(p.Key)
		found[key] = p
		acknowledged, tried := l.tried[key]
		switch {
		case !tried:
			wrong = append(wrong, fmt.Sprintf("%s is there, and nobody wrote it", key))
		case acknowledged != 0 && p.ModRevision != acknowledged:
			wrong = append(wrong, fmt.Sprintf("%s has revision %d, acknowledged was %d", key, p.ModRevision, acknowledged))
		case p.Version != 1 || p.CreateRevision != p.ModRevision:
			wrong = append(wrong, fmt.Sprintf("%s was written once and has version %d", key, p.Version))
		case string(p.Value) != string(valueOf(key)):
			wrong = append(wrong, fmt.Sprintf("%s has the value %q", key, p.Value))
		}
	}
	for key, acknowledged := range l.tried {
		if acknowledged != 0 && found[key] == nil {
			wrong = append(wrong, fmt.Sprintf("%s of revision %d was acknowledged and is lost", key, acknowledged))
		}
	}
	for id, c := range l.counter {
		r, err := kv.Range(ctx, &pb.RangeRequest{Key: counterKey(id)})
		if err != nil {
			return nil, fmt.Errorf("read a counter: %w", err)
		}
		var n int64
		if len(r.Kvs) > 0 {
			if _, err := fmt.Sscan(string(r.Kvs[0].Value), &n); err != nil {
				return nil, fmt.Errorf("read a counter: %w", err)
			}
		}
		if n < c.acknowledged || n > c.tried {
			wrong = append(wrong, fmt.Sprintf("counter %d is at %d, acknowledged was %d and tried %d", id, n, c.acknowledged, c.tried))
		}
	}
	lost, err := l.checkLeases(ctx, conn)
	return append(wrong, lost...), err
}

// checkLeases is the part of Check about leases.
func (l *Ledger) checkLeases(ctx context.Context, conn *grpc.ClientConn) (wrong []string, err error) {
	c := pb.NewLeaseClient(conn)
	r, err := c.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	if err != nil {
		return nil, fmt.Errorf("list the leases: %w", err)
	}
	there := map[int64]bool{}
	for _, s := range r.Leases {
		there[s.ID] = true
	}
	asked := 0
	for id, key := range l.leases {
		if !there[id] {
			wrong = append(wrong, fmt.Sprintf("lease %d was acknowledged and is lost", id))
			continue
		}
		if asked++; asked > 100 {
			continue // a sample, or the check would take longer than the run
		}
		ttl, err := c.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: id, Keys: true})
		if err != nil {
			return nil, fmt.Errorf("ask for a lease: %w", err)
		}
		if ttl.GrantedTTL != leaseTTL || ttl.TTL <= 0 || ttl.TTL > leaseTTL {
			wrong = append(wrong, fmt.Sprintf("lease %d has %d s of %d s", id, ttl.TTL, ttl.GrantedTTL))
		}
		if key != "" && (len(ttl.Keys) != 1 || string(ttl.Keys[0]) != key) {
			wrong = append(wrong, fmt.Sprintf("lease %d has the keys %q, not %s", id, ttl.Keys, key))
		}
	}
	return wrong, nil
}

// Size is how many keys were tried and how many of them acknowledged.
func (l *Ledger) Size() (tried, acknowledged int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, rev := range l.tried {
		if rev != 0 {
			acknowledged++
		}
	}
	return len(l.tried), acknowledged
}
