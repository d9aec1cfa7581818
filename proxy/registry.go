package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"weir/coalesce"
	"weir/grpcapi/wire"
	"weir/proxy/access"
)

// Registration has a proxy write down where it is, where etcd's proxies and its clients' naming package look for it
// (https://etcd.io/docs/v3.6/op-guide/grpc_proxy/#client-endpoint-synchronization-and-name-resolution).
type Registration struct {
	// Prefix is that of the keys, which all proxies that belong together share. "" registers nothing. With a namespace it
	// is below that.
	Prefix string
	// TTL is that of the lease under which it stands, in seconds, positive.
	TTL int64
	// URL is how clients reach the proxy. It need not be a URL; etcd's default is host:port.
	URL string
}

// registry is the proxies that are registered, and the registration of this one: the key <prefix>/<URL>, with a value in the
// format of client/v3/naming/endpoints, under a lease. When the lease is lost there is another one, for as long as the proxy
// runs. All of it is done under the proxy's own rights.
//
// The others are read when somebody asks for them, at most once in listInterval for all who ask. Rejected: etcd's way, which is to
// watch them. It costs a watch for as long as the proxy runs, to save a read of hardly anybody.
type registry struct {
	cfg      Registration
	prefix   string // of keys, with the namespace
	name     string // of this host
	upstream ownUpstream
	log      *slog.Logger

	cancel  context.CancelFunc
	running sync.WaitGroup

	lease atomic.Int64 // 0 is that there is no registration now
	told  toldCount    // of Balance, which alone uses it

	reading *coalesce.Flight[[]*pb.Member]
	mu      sync.Mutex   // guards the fields below
	known   []*pb.Member // those that were read last
	asked   time.Time    // when the last attempt to read them ended
}

const (
	// registerInterval is between two attempts to register; it doubles up to registerIntervalMax.
	registerInterval    = time.Second
	registerIntervalMax = 8 * time.Second
	// registryTimeout bounds each call, so that a member that hangs is not waited for until the lease has ended.
	registryTimeout = 2 * time.Second

	// listInterval is the least time from one read of the list of proxies to the next.
	listInterval = time.Second
	// listMax bounds the proxies that are listed. They are read a page at a time, and up to so many bytes: whoever may write below the
	// prefix could make one answer of all keys as large as gigabytes.
	listMax   = 4096
	listPage  = 16
	listBytes = 4 << 20
)

// registered is the value of a key. It is the JSON of etcd's client/v3/naming/endpoints.
type registered struct {
	Op       uint8 // 0 is that it is there
	Addr     string
	Metadata any // of proxies a string, the JSON of registeredBy
}

type registeredBy struct {
	Name        string `json:"name"`                  // of the host
	Connections *int   `json:"connections,omitempty"` // of clients; nil if the proxy does not tell
}

// newRegistry begins to register the proxy, without waiting for it.
func newRegistry(r Registration, namespace string, u *upstream, guard *access.Guard, log *slog.Logger) *registry {
	name, err := os.Hostname()
	if err != nil {
		name = r.URL // clients do not take a member without a name for one
	}
	g := &registry{
		cfg: r, prefix: namespace + r.Prefix + "/", name: name, upstream: ownUpstream{guardUpstream{u}, guard}, log: log,
		reading: coalesce.NewFlight[[]*pb.Member](registryTimeout),
	}
	ctx, cancel := context.WithCancel(context.Background())
	g.cancel = cancel
	g.running.Go(func() { g.run(ctx) })
	return g
}

// withdraw takes the registration back and waits for that. It may be called more than once.
func (g *registry) withdraw() {
	g.cancel()
	g.running.Wait()
}

func (g *registry) close() {
	g.withdraw()
	g.reading.Close()
}

// run keeps the proxy registered until ctx ends.
func (g *registry) run(ctx context.Context) {
	interval, reported := registerInterval, ""
	for {
		lease, ttl, err := g.register(ctx)
		if err == nil {
			interval, reported = registerInterval, ""
			g.log.Info("registered", "key", g.prefix+g.cfg.URL, "lease-ttl", ttl.String())
			g.lease.Store(lease)
			err = g.keep(ctx, lease, ttl)
			g.lease.Store(0)
		}
		if lease != 0 {
			g.revoke(lease)
		}
		if ctx.Err() != nil {
			return
		}
		if err.Error() != reported {
			reported = err.Error()
			g.log.Warn("not registered", "key", g.prefix+g.cfg.URL, "error", err)
		}
		if !pause(ctx, interval) {
			return
		}
		interval = min(2*interval, registerIntervalMax)
	}
}

// register writes the key under a new lease, which it returns, if there is one, with an error too.
func (g *registry) register(ctx context.Context) (lease int64, ttl time.Duration, err error) {
	var granted pb.LeaseGrantResponse
	if err := g.call(ctx, pb.Lease_LeaseGrant_FullMethodName, &pb.LeaseGrantRequest{TTL: g.cfg.TTL}, &granted); err != nil {
		return 0, 0, fmt.Errorf("grant a lease: %w", err)
	}
	lease, ttl = granted.ID, time.Duration(granted.TTL)*time.Second
	return lease, ttl, g.put(ctx, lease, registeredBy{Name: g.name})
}

// put writes the key. After its lease has been revoked that fails, so that it never outlives that.
func (g *registry) put(ctx context.Context, lease int64, by registeredBy) error {
	metadata, err := json.Marshal(by)
	if err != nil {
		return fmt.Errorf("encode the name: %w", err)
	}
	value, err := json.Marshal(registered{Addr: g.cfg.URL, Metadata: string(metadata)})
	if err != nil {
		return fmt.Errorf("encode the registration: %w", err)
	}
	put := &pb.PutRequest{Key: []byte(g.prefix + g.cfg.URL), Value: value, Lease: lease}
	if err := g.call(ctx, pb.KV_Put_FullMethodName, put, &pb.PutResponse{}); err != nil {
		return fmt.Errorf("write the key: %w", err)
	}
	return nil
}

// errLeaseLost is that upstream has no such lease any more.
var errLeaseLost = errors.New("the lease has ended")

// keep pings the lease until it is lost or ctx ends.
func (g *registry) keep(ctx context.Context, lease int64, ttl time.Duration) error {
	lastsUntil, wait := time.Now().Add(ttl), ttl/3
	for pause(ctx, wait) {
		sent := time.Now()
		left, err := g.ping(ctx, lease)
		switch {
		case err == nil && left <= 0:
			return errLeaseLost
		case err == nil:
			lastsUntil, wait = sent.Add(left), left/3
		case time.Now().After(lastsUntil):
			return fmt.Errorf("keep the lease alive: %w", err)
		default:
			wait = min(wait, registerInterval)
		}
	}
	return ctx.Err()
}

// ping renews the lease and returns for how long it lasts now; 0 if there is no such lease. A stream for each ping is more
// than it needs, and nothing to what clients do; there is no state between one and the next.
func (g *registry) ping(ctx context.Context, lease int64) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel() // and with it the stream
	req, err := proto.Marshal(&pb.LeaseKeepAliveRequest{ID: lease})
	if err != nil {
		return 0, fmt.Errorf("encode a ping: %w", err)
	}
	raw, err := access.AsOwn(ctx, g.upstream.guard, func(ctx context.Context) (resp wire.Raw, err error) {
		err = g.upstream.try(ctx, func(t *tenure) (sent bool, err error) {
			s, err := t.member.conn.NewStream(ctx, &anyStream, pb.Lease_LeaseKeepAlive_FullMethodName)
			if err != nil {
				return false, err
			}
			if err := s.SendMsg(wire.Raw(req)); err != nil {
				return true, s.RecvMsg(&resp) // which has the reason
			}
			return true, s.RecvMsg(&resp)
		})
		return resp, err
	})
	if err != nil {
		return 0, err
	}
	var r pb.LeaseKeepAliveResponse
	if err := proto.Unmarshal(raw, &r); err != nil {
		return 0, fmt.Errorf("decode the answer to a ping: %w", err)
	}
	return time.Duration(r.TTL) * time.Second, nil
}

// revoke ends the lease, and the key with it, unless somebody else has registered the same URL since.
func (g *registry) revoke(lease int64) {
	ctx := context.Background() // that of who registers has ended
	err := g.call(ctx, pb.Lease_LeaseRevoke_FullMethodName, &pb.LeaseRevokeRequest{ID: lease}, &pb.LeaseRevokeResponse{})
	if err != nil {
		g.log.Debug("lease of the registration is left to expire", "error", err)
	}
}

func (g *registry) call(ctx context.Context, method string, req, resp proto.Message) error {
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	b, err := proto.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	raw, err := g.upstream.Call(ctx, method, b)
	if err != nil {
		return err
	}
	if err := proto.Unmarshal(raw, resp); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	return nil
}

// proxies returns those that are registered, each as a member of a cluster; what was known last if they cannot be read; and this
// one if that is none. They must not be changed.
func (g *registry) proxies(ctx context.Context) []*pb.Member {
	known, fresh := g.list()
	if !fresh {
		read, err := g.reading.Do(ctx, "", g.read)
		if err == nil {
			known = read
		} else {
			g.log.Debug("registered proxies cannot be read", "error", err)
		}
	}
	if len(known) == 0 {
		return []*pb.Member{{Name: g.name, ClientURLs: []string{g.cfg.URL}}}
	}
	return known
}

// list returns what is known, and whether it is too early to ask again.
func (g *registry) list() (known []*pb.Member, fresh bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.known, !g.asked.IsZero() && time.Since(g.asked) < listInterval
}

func (g *registry) read(ctx context.Context) ([]*pb.Member, error) {
	if known, fresh := g.list(); fresh { // somebody has asked while this waited
		return known, nil
	}
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.asked = time.Now()
	}()
	entries, err := g.entries(ctx)
	if err != nil {
		return nil, err
	}
	var found []*pb.Member
	for _, e := range entries {
		name := e.by.Name
		if name == "" {
			name = e.Addr // clients do not take a member without a name for one
		}
		found = append(found, &pb.Member{Name: name, ClientURLs: []string{e.Addr}})
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.known = found
	return found, nil
}

// entry is a proxy that is registered.
type entry struct {
	registered
	by    registeredBy // what it says of itself, as far as it can be read
	key   string
	lease int64
}

// entries reads all that are registered.
func (g *registry) entries(ctx context.Context) (all []entry, err error) {
	req := &pb.RangeRequest{Key: []byte(g.prefix), RangeEnd: wire.Namespace(g.prefix).End(), Limit: listPage, Serializable: true}
	for keys, size := 0, 0; ; {
		var page pb.RangeResponse
		if err := g.call(ctx, pb.KV_Range_FullMethodName, req, &page); err != nil {
			return nil, fmt.Errorf("read %s: %w", g.prefix, err)
		}
		keys, size = keys+len(page.Kvs), size+proto.Size(&page)
		if size > listBytes {
			return nil, fmt.Errorf("read %s: there are more than %d bytes", g.prefix, listBytes)
		}
		for _, kv := range page.Kvs {
			if e, ok := g.entry(kv); ok {
				all = append(all, e)
			}
		}
		if !page.More || len(page.Kvs) == 0 || keys >= listMax {
			return all, nil
		}
		req.Key = append(page.Kvs[len(page.Kvs)-1].Key, 0)
	}
}

// entry tells what a key says, if that is a registration.
func (g *registry) entry(kv *mvccpb.KeyValue) (e entry, ok bool) {
	e = entry{key: string(kv.Key), lease: kv.Lease}
	if err := json.Unmarshal(kv.Value, &e.registered); err != nil || e.Addr == "" {
		g.log.Debug("key is no registration of a proxy", "key", e.key)
		return e, false
	}
	if s, ok := e.Metadata.(string); !ok || json.Unmarshal([]byte(s), &e.by) != nil {
		e.by = registeredBy{}
	}
	return e, true
}

// Withdraw takes the registration of the proxy back, if there is one, so that clients go elsewhere before it ends.
func (p *Proxy) Withdraw() {
	if p.registry != nil {
		p.registry.withdraw()
	}
}

// Proxies are all that are registered; see grpcapi.Config. It is only for a proxy that is.
func (p *Proxy) Proxies(ctx context.Context) []*pb.Member { return p.registry.proxies(ctx) }
