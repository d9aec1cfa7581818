package proxy

import (
	"context"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"

	"weir/cache"
	"weir/coalesce"
	"weir/grpcapi/wire"
)

// pings keeps the leases of all clients alive through few upstream streams.
//
// Upstream checks each ping for whom the stream is of. So clients share one exactly if upstream takes them for the same
// principal: whoever shows nothing, whoever shows the same token, and those whom the proxy vouches for, whose pings it checks
// itself. That has not to do with whether authentication is on: when it is switched, the pings of a principal just begin to
// fail, or to succeed, as they would without the proxy. (So a token is a principal even while it means nothing. But clients
// get none then.)
//
// All keepers together keep at most maxPings and maxLeases, which is 100 MiB. Beside that
//
//   - each client that pings takes 4 KiB, and 1 KiB for each of its streams. Who shows a token is one with each stream;
//   - each principal takes 5 KiB. There are at most maxPrincipals.
//
// A ping that has been answered is no longer theirs: what clients do not take grpcapi bounds, over all streams.
type pings struct {
	upstream   *upstream
	leader     *leaderFinder
	identities identities
	// vouched says that upstream takes whoever shows nothing for the proxy, because of the certificate that the proxy shows.
	vouched bool
	budget  *coalesce.KeepaliveBudget // of all keepers

	mu      sync.Mutex // guards the fields below
	keepers map[principal]*keeper
	tokens  int                     // bytes of the tokens of principals
	past    coalesce.KeepaliveStats // of keepers that are no more
	closed  bool
	closing sync.WaitGroup // keepers that are being closed
}

// identities knows how upstream is to take the proxy itself, and what those may do for whom it vouches. access.Guard does.
type identities interface {
	// Own is ctx for a call in the proxy's own name.
	Own(ctx context.Context) (context.Context, error)
	// Renew tells whether err says that Own's token is not good any more, and then calling with a new one may help.
	Renew(ctx context.Context, err error) bool
	// Judge refuses one message of a client's stream.
	Judge(ctx context.Context, method string, req wire.Raw) (context.Context, error)
	// Lends tells whether what Judge has returned may go upstream in the proxy's own name.
	Lends(judged context.Context) bool
}

// principal is whom upstream takes a client for. The zero value is nobody.
type principal struct {
	kind  principalKind
	token string
}

type principalKind int

const (
	nobody principalKind = iota
	tokenHolder
	ownSelf // the proxy
)

// keeper keeps alive the leases of a principal's clients.
type keeper struct {
	*coalesce.Keepalives
	of      principal
	streams int         // of clients, and grants that are being noted
	idle    *time.Timer // closes the keeper, if it has no streams
}

const (
	maxPings  = 1 << 18
	maxLeases = 1 << 20
	// maxPrincipals bounds the tokens with a keeper, and maxTokenBytes the memory of their names. The streams of further ones
	// are forwarded one by one. A JWT has some hundred bytes.
	maxPrincipals = 10_000
	maxTokenBytes = 16 << 20
	// keeperIdle is how long a token's keeper stays when its last client has gone, who may be about to come again.
	keeperIdle = 10 * time.Second
)

func newPings(u *upstream, i identities, vouched bool) *pings {
	return &pings{
		upstream: u, leader: newLeaderFinder(u), identities: i, vouched: vouched,
		budget: coalesce.NewKeepaliveBudget(maxPings, maxLeases), keepers: map[principal]*keeper{},
	}
}

// close fails all pings and waits for the end of all streams.
func (p *pings) close() {
	p.mu.Lock()
	p.closed = true
	keepers := p.keepers
	p.keepers = nil
	p.mu.Unlock()
	for _, k := range keepers {
		if k.idle != nil {
			k.idle.Stop()
		}
		k.Close()
	}
	p.closing.Wait()
	p.leader.close()
}

// Pings tells what becomes of a client's stream of pings; see grpcapi.Pings.
func (p *Proxy) Pings(ctx context.Context) (coalesce.PingRoute, error) {
	route := p.pings.routeOf(ctx)
	if !wire.CredentialsOf(ctx).HasToken { // those of a token have Keepalives of their own
		route.Client, _ = p.tenants.Identify(ctx)
	}
	return route, nil
}

func (p *pings) routeOf(ctx context.Context) coalesce.PingRoute {
	var rights wire.PingRights
	who := p.principalOf(ctx)
	if who.kind == ownSelf {
		rights = judgedPings{p.identities, ctx}
	}
	k := p.enter(who)
	if k == nil {
		return coalesce.PingRoute{}
	}
	return coalesce.PingRoute{Keepalives: k.Keepalives, Rights: rights, Done: func() { p.leave(k) }}
}

// principalOf is whom upstream is to take the client of ctx for.
func (p *pings) principalOf(ctx context.Context) principal {
	switch c := wire.CredentialsOf(ctx); {
	case c.HasToken:
		return principal{tokenHolder, c.Token}
	case p.vouched || c.HasCertificate:
		return principal{kind: ownSelf}
	}
	return principal{}
}

// forwardGrant forwards a LeaseGrant. Its lease is known to live when the client pings it.
func (p *Proxy) forwardGrant(ctx context.Context, req wire.Raw, s *cache.Session) (wire.Raw, error) {
	sent := time.Now()
	resp, err := p.forward(ctx, pb.Lease_LeaseGrant_FullMethodName, req, s)
	if err == nil {
		p.pings.granted(ctx, resp, sent)
	}
	return resp, err
}

// granted notes the lease of an answer to the client of ctx.
func (p *pings) granted(ctx context.Context, resp wire.Raw, sent time.Time) {
	var r pb.LeaseGrantResponse
	if proto.Unmarshal(resp, &r) != nil {
		return // the client will see
	}
	if k := p.enter(p.principalOf(ctx)); k != nil {
		k.Granted(r.ID, r.TTL, sent)
		p.leave(k)
	}
}

// judgedPings are the rights of a client for whom the proxy vouches.
type judgedPings struct {
	identities identities
	client     context.Context
}

// Allows is part of wire.PingRights. While authentication is off anybody may be given the proxy's own name.
func (j judgedPings) Allows(int64) bool { return j.identities.Lends(j.client) }

// Check is part of wire.PingRights. ctx is below that of the client.
func (j judgedPings) Check(ctx context.Context, id int64) error {
	judged, err := j.identities.Judge(ctx, pb.Lease_LeaseKeepAlive_FullMethodName, wire.AppendPing(nil, id))
	if err == nil && !j.identities.Lends(judged) { // upstream would refuse it, were it not on a stream of the proxy's own
		return rpctypes.ErrGRPCUserEmpty
	}
	return err
}

// enter returns the keeper for one more stream of a client; nil if there are too many, or no more.
func (p *pings) enter(who principal) *keeper {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := p.keepers[who]
	switch {
	case p.closed:
		return nil
	case k == nil:
		if who.kind == tokenHolder && (len(p.keepers) >= maxPrincipals || p.tokens+len(who.token) > maxTokenBytes) {
			return nil
		}
		k = &keeper{of: who, Keepalives: coalesce.NewKeepalives(coalesce.KeepaliveConfig{
			Upstream: &pingUpstream{pings: p, of: who}, Budget: p.budget,
		})}
		p.keepers[who] = k
		p.tokens += len(who.token)
	case k.idle != nil:
		k.idle.Stop()
		k.idle = nil
	}
	k.streams++
	return k
}

// leave says that a client's stream has ended. The keepers that are not of a token stay: there are two.
func (p *pings) leave(k *keeper) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k.streams--; k.streams > 0 || p.closed || k.of.kind != tokenHolder {
		return
	}
	var t *time.Timer
	t = time.AfterFunc(keeperIdle, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.closed || k.idle != t {
			return
		}
		delete(p.keepers, k.of)
		p.tokens -= len(k.of.token)
		p.closing.Go(func() {
			k.Close()
			p.mu.Lock()
			defer p.mu.Unlock()
			p.past = plus(p.past, k.Stats())
		})
	})
	k.idle = t
}

// stats counts what all keepers have done.
func (p *pings) stats() coalesce.KeepaliveStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	sum := p.past
	for _, k := range p.keepers {
		sum = plus(sum, k.Stats())
	}
	return sum
}

func plus(a, b coalesce.KeepaliveStats) coalesce.KeepaliveStats {
	return coalesce.KeepaliveStats{
		Pings: a.Pings + b.Pings, Shared: a.Shared + b.Shared, Failed: a.Failed + b.Failed,
		Sent: a.Sent + b.Sent, Batches: a.Batches + b.Batches, Silent: a.Silent + b.Silent, Lookups: a.Lookups + b.Lookups,
		Opened: a.Opened + b.Opened, Streams: a.Streams + b.Streams, Waiting: a.Waiting + b.Waiting, Leases: a.Leases + b.Leases,
	}
}
