package coalesce

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"weir/grpcapi/wire"
)

// Keepalives sends the pings of many clients upstream over few streams.
//
// Each ping is answered from an upstream ping that was sent after it came, and within PingLife of that, or it fails: a ping
// that was kept for longer could revive the lease of a client that is dead by then. Nothing is pinged that no client pings.
// Pings of one lease that wait together share one, and a lease has at most one upstream at a time, so that there is no
// doubt which ping a pong answers: the next waits behind it.
//
// etcd serves a stream one ping at a time. A ping of a lease that has expired and is not yet revoked holds up all that are
// behind it, until it is revoked, which may take as long as the cluster has no leader. And one that is refused ends the stream.
// Therefore
//
//   - pings go over three lanes, each with a stream of its own: one is for leases that cannot have expired, because a pong was
//     lately seen, or they were granted here, another for those of which nothing is known, or not for long, and one, a single
//     ping at a time, for those that were refused;
//   - few are upstream at a time, and those that wait here can still take another stream. Who pings for many leases has them
//     wait behind one another, not before those of others, on however many streams;
//   - a stream that is silent is set aside, and what was upstream on it is looked up: such a call is held up by nobody. So is one
//     of weir's, whose pings do not wait for one another, when it is full of those that wait for their leases to be revoked.
//     Who has time left then pings again, and for who has none it is looked up until he is gone, or his ping is too old;
//   - of a stream that has ended only the first ping can be to blame. The others go on, within their time.
//
// So one ping of a client may renew its lease twice, both times by a ping that was sent within PingLife of its arrival: what was
// upstream on a stream that was set aside, or has ended, may have been served all the same, and is sent again. A look-up does
// not tell. It rounds down to seconds, and a lease of 10 s that has 9 left may have been renewed by this ping, or by whoever
// came in the second before. Rejected: to fail what may have been served, which would end the streams of clients that have done
// nothing.
//
// A goroutine for each lane sends all that is there as soon as there is anything, so batches grow with the load. Rejected: a
// timer that collects pings, which all would wait for; a stream for each client, which upstream would pay for; clientv3's
// keepalives, which go on pinging when the client no longer does.
//
// All methods may be called concurrently.
type Keepalives struct {
	cfg     KeepaliveConfig
	epoch   time.Time       // instants are counted from it; all pings that are not too old came after it
	ctx     context.Context // of all calls, ended by cancel
	cancel  context.CancelFunc
	running sync.WaitGroup // goroutines, and the timer while it is armed

	mu        sync.Mutex // guards the fields below, and what they lead to
	closed    bool
	pings     map[int64]*ping // the oldest of each lease; the next one is behind it
	deadlines deadlines
	waiting   int // pings of clients that have no answer
	pingers   map[PingSink]*pinger
	clients   map[any]*pingClient // of pingers, by PingSink.Client
	leases    leaseTable
	lanes     [pingLanes]pingLane
	streams   int // that have not ended
	lookups   lookups
	used      instant     // when the last ping came, or lease was granted
	timer     *time.Timer // calls watch at due
	due       instant     // never, if it is not armed
	stats     KeepaliveStats

	sparePingers spares[pinger]
	spareClients spares[pingClient]
}

// KeepaliveConfig says how Keepalives behave. Only Upstream must be set.
type KeepaliveConfig struct {
	Upstream PingUpstream
	// Budget bounds the memory, also of others that have the same one. By default it is one of 2^18 pings and 2^20 leases, and
	// for these Keepalives alone.
	Budget *KeepaliveBudget
}

// PingUpstream is where pings go. Its methods may be called concurrently.
type PingUpstream interface {
	// Open opens a stream of pings to the leader. It ends with ctx, which lives as long as the stream.
	Open(ctx context.Context) (PingStream, error)
	// Remaining asks how many seconds a lease still has: -1 if it is not there, and 0 if it has less than one, or has expired
	// and is still there. The header is that of the answer. Errors are status errors.
	Remaining(ctx context.Context, id int64) (ttl int64, h wire.Header, err error)
}

// PingStream is one upstream stream. One goroutine sends while another one receives. It ends with the context of Open, and
// then both methods return soon.
type PingStream interface {
	// Send sends one ping for each id. It does not keep ids. Its error tells that the stream has ended, and Recv says why.
	Send(ids []int64) error
	// Recv returns the next pongs, which are valid until it is called again. Its error ends the stream: a status error, or
	// io.EOF.
	Recv() (pongs []Pong, err error)
	// Ordered tells that each ping is answered before the next one is looked at, as at etcd. Else pongs come in any order.
	Ordered() bool
}

// Pong answers a ping.
type Pong struct {
	ID, TTL int64       // TTL in seconds, 0 if the lease is not there
	Number  uint64      // that its sink has given to the ping
	Header  wire.Header // upstream's, from before the lease was looked at
	Err     error       // a status error: this ping alone has failed. TTL and Header mean nothing then
}

// PingSink is who has pinged: one client's stream. It is the key of a map.
type PingSink interface {
	// Client is whose turn its pings take, and is always the same: a key of a map, nil for nobody but the sink. What is given to a client
	// its sinks have in turn.
	Client() any
	// Pong is called once for each ping, by any goroutine, which may be in Ping. It must not wait. Those of different pings may
	// overtake each other, also if they are of one lease: Number tells which is whose. The Err of a ping that has failed is a
	// status error, or wraps one.
	Pong(p Pong)
}

// KeepaliveStats counts since the start.
type KeepaliveStats struct {
	Pings   uint64 `json:"pings"`   // of clients
	Shared  uint64 `json:"shared"`  // of them, those that joined another one's ping
	Failed  uint64 `json:"failed"`  // of them, those that were not answered
	Sent    uint64 `json:"sent"`    // upstream
	Batches uint64 `json:"batches"` // that they were sent in
	Silent  uint64 `json:"silent"`  // streams that were set aside, silent or clogged
	Lookups uint64 `json:"lookups"` // of leases whose pings had no answer
	Opened  uint64 `json:"opened"`  // streams
	Streams int    `json:"streams"` // open now
	Waiting int    `json:"waiting"` // pings of clients without an answer now
	Leases  int    `json:"leases"`  // remembered now
}

// ErrKeepalivesClosed is the error of pings that are cut short by Close, or come after it. As a status it is Unavailable, so that
// clients come again.
var ErrKeepalivesClosed = fmt.Errorf("keepalives are closed: %w", rpctypes.ErrGRPCStopped)

// PingLife is after how long a ping that came is not sent any more: it could revive the lease of a client that is dead by then.
const PingLife = time.Second

const (
	// silence is after how long without a pong a stream that owes some is set aside.
	silence = 200 * time.Millisecond
	// maxUpstream are the places for pings upstream on one stream, see pingQueue. What is there waits for what is before it, and
	// cannot be taken back.
	maxUpstream = 128
	// maxStreams bounds the streams that have not ended. Up to three are in use; others were set aside and have not noticed.
	maxStreams = 4
	// idleStreams is after how long without a ping streams are closed, and leases forgotten.
	idleStreams = time.Minute
)

// NewKeepalives makes Keepalives without a stream: the first ping opens one.
func NewKeepalives(cfg KeepaliveConfig) *Keepalives {
	if cfg.Budget == nil {
		cfg.Budget = NewKeepaliveBudget(1<<18, 1<<20)
	}
	k := &Keepalives{
		cfg:       cfg,
		epoch:     time.Now().Add(-PingLife),
		pings:     map[int64]*ping{},
		deadlines: newDeadlines(),
		pingers:   map[PingSink]*pinger{},
		clients:   map[any]*pingClient{},
		leases:    leaseTable{budget: cfg.Budget},
		due:       never,
	}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	for i := range k.lanes {
		l := &k.lanes[i]
		l.queue = pingQueue{index: i, places: pingPlaces{maxUpstream, maxUpstream, maxUpstream}}
		l.ready.L = &k.mu
	}
	k.lanes[doubtful].queue.places = pingPlaces{maxUpstream, maxDoubtful, maxDoubtfulOfSink}
	k.lanes[alone].queue.places = pingPlaces{1, 1, 1}
	k.lookups.queue = pingQueue{index: pingLanes, places: pingPlaces{maxLookups, maxLookupsOfClient, maxLookupsOfSink}}
	return k
}

// Ping sends a ping for a lease, or joins one that has not been sent. It arrived, which is when the client's message was read, at
// most PingLife ago: else it fails. The answer has the number.
func (k *Keepalives) Ping(id int64, arrived time.Time, s PingSink, number uint64) {
	if err := k.ping(id, arrived, s, number); err != nil {
		s.Pong(Pong{ID: id, Number: number, Err: err})
	}
}

func (k *Keepalives) ping(id int64, when time.Time, s PingSink, number uint64) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stats.Pings++
	now := k.now()
	arrived := min(k.instant(when), now).Truncate(deadlineGrain)
	if err := k.admit(arrived, now, s); err != nil {
		k.stats.Failed++
		return err
	}
	by := k.pinger(s)
	by.open++
	by.client.open++
	k.waiting++
	k.arm(min(arrived+PingLife, now+silence), now)
	first := k.pings[id]
	p := first
	if p != nil && p.asked {
		p = p.behind
	}
	if p != nil {
		k.share(p, asker{by, number, arrived})
		return nil
	}
	k.used = now
	p = newPing(id, asker{by, number, arrived})
	k.deadlines.add(p)
	if first != nil {
		first.behind = p
		return nil
	}
	k.pings[id] = p
	k.enqueue(p, now)
	return nil
}

// admit takes what a ping of s needs of the budget, or returns why there must not be one. k.mu is held.
func (k *Keepalives) admit(arrived, now instant, s PingSink) error {
	if k.closed {
		return ErrKeepalivesClosed
	}
	if isLate(arrived, now) {
		return rpctypes.ErrGRPCTimeout
	}
	var h pingHolder
	if c := k.client(s); c != nil {
		h.ofClient, h.sinks = c.open, c.sinks
	}
	if p := k.pingers[s]; p != nil {
		h.ofSink = p.open
	}
	if !k.cfg.Budget.takePing(h) {
		return rpctypes.ErrGRPCRequestTooManyRequests
	}
	return nil
}

// Granted says that a lease was granted to those who ping here, for ttl seconds, by a request that was sent at an instant. It
// cannot have expired when it is pinged soon.
func (k *Keepalives) Granted(id, ttl int64, sent time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed || ttl <= 0 {
		return
	}
	now := k.now()
	k.used = now
	k.arm(now+idleStreams, now)
	k.leases.renewed(id, ttl, min(k.instant(sent), now), now)
}

// enqueue puts p where it goes next. k.mu is held.
func (k *Keepalives) enqueue(p *ping, now instant) {
	p.alive = k.leases.alive(p.id)
	d := &k.lanes[doubtful]
	switch {
	case p.alone || p.alive == refused:
		k.queue(alone, p)
	case p.alive > now:
		k.queue(trusted, p)
	case p.cleared || now-d.hung >= PingLife || d.hung == 0:
		k.queue(doubtful, p)
	default:
		k.lookUp(p)
	}
}

// finish takes p away, which has been answered, or will not be any more. What was behind it goes on. k.mu is held.
func (k *Keepalives) finish(p *ping, now instant) {
	if p.behind == nil {
		delete(k.pings, p.id)
		return
	}
	k.pings[p.id] = p.behind
	k.enqueue(p.behind, now)
}

// Close fails all pings and ends all streams.
func (k *Keepalives) Close() {
	var out answers
	k.mu.Lock()
	k.closed = true
	k.cancel()
	if k.due != never && k.timer.Stop() {
		k.running.Done()
	}
	k.due = never
	for _, p := range k.pings {
		k.fail(&out, p, ErrKeepalivesClosed)
		if p.behind != nil {
			k.fail(&out, p.behind, ErrKeepalivesClosed)
		}
	}
	clear(k.pings)
	k.leases.clear()
	for i := range k.lanes {
		k.lanes[i].ready.Broadcast()
	}
	k.mu.Unlock()
	out.give()
	k.running.Wait()
}

// Stats returns the counters.
func (k *Keepalives) Stats() KeepaliveStats {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.stats
	s.Streams, s.Waiting, s.Leases = k.streams, k.waiting, k.leases.n()
	return s
}

func (k *Keepalives) now() instant { return time.Since(k.epoch) }

func (k *Keepalives) instant(t time.Time) instant { return t.Sub(k.epoch) }
