package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"weir/loadtest/client"
)

// Leases is who keeps which leases alive. Each client has a connection with one stream of pings, and the same number
// of leases.
type Leases struct {
	Clients int
	Leases  int   // of all clients together, a multiple of Clients
	TTL     int64 // in seconds
	// InFlight is how many pings of a client are under way at a time: another is sent when one is answered, each lease in its
	// turn. 0 is that each lease is pinged when a third of its TTL has passed, whatever has been answered, as clients do.
	InFlight int
}

// interval is how often a lease is pinged that is pinged by the clock.
func (l Leases) interval() time.Duration { return time.Duration(l.TTL) * time.Second / 3 }

// Keepers are the clients who keep leases alive. A lease that is gone, or a ping that has no answer until the lease is to
// be pinged again, is an error. A server may end a stream, if clients ping by the clock: they open another.
//
// Its methods are called one after the other, but for Ended.
type Keepers struct {
	leases  Leases
	group   *client.Group
	keepers []*keeper
	granter *grpc.ClientConn

	stopping atomic.Bool // nobody pings again
	pinging  sync.WaitGroup
	answered *tally // pings
}

// NewKeepers connects to a place. The answers to the i-th client's pings go to the i-th track. Whatever goes wrong later, ctx's end
// too, is an error of the method under way, and ends Failed; Close must be called.
func NewKeepers(ctx context.Context, p Place, leases Leases, track func(i int) Track) (*Keepers, error) {
	l := &Keepers{leases: leases, group: client.NewGroup(ctx), answered: newTally()}
	each := leases.Leases / leases.Clients
	first := 1 + rand.Int64N(1<<62) // others may have leases there
	for i := range leases.Clients {
		l.keepers = append(l.keepers, &keeper{load: l, track: track(i), first: first + int64(i*each), leases: make([]kept, each)})
	}
	var err error
	if l.granter, err = p.Dial(); err == nil {
		err = l.connect(p)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Keepers) connect(p Place) error {
	conns, err := l.group.Connect(len(l.keepers), p.Endpoint, p.Client, func(i int) client.Handler { return l.keepers[i] })
	if err != nil {
		return err
	}
	for i, k := range l.keepers {
		k.conn = conns[i]
		if k.rpc, err = k.conn.Open(client.LeaseKeepAlive); err != nil {
			return err
		}
	}
	return nil
}

// Grant grants all leases, at the store: what is measured are pings. Those that are pinged by the clock are so from when they
// are granted.
func (l *Keepers) Grant() error {
	if l.leases.InFlight == 0 {
		l.pinging.Go(l.pingByTheClock)
	}
	begun := time.Now()
	if err := l.forAll(l.group.Failed(), func(ctx context.Context, k *keeper, i int) error { return k.grant(ctx, i) }); err != nil {
		return fmt.Errorf("grant leases: %w", err)
	}
	if took, ttl := time.Since(begun), time.Duration(l.leases.TTL)*time.Second; l.leases.InFlight > 0 && took > ttl/2 {
		return fmt.Errorf("it took %v to grant %d leases, which is too long for a TTL of %v", took.Round(time.Second), l.leases.Leases, ttl)
	}
	return nil
}

// granters is how many leases are granted, or revoked, at a time.
const granters = 256

// forAll does something with each lease, granters at a time, until one fails.
func (l *Keepers) forAll(ctx context.Context, do func(ctx context.Context, k *keeper, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		doing sync.WaitGroup
		next  atomic.Int64
		all   = len(l.keepers) * len(l.keepers[0].leases)
	)
	for range granters {
		doing.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= all {
					return
				}
				// By turns, so that all clients begin at the same time.
				if err := do(ctx, l.keepers[i%len(l.keepers)], i/len(l.keepers)); err != nil {
					cancel(err)
				}
			}
		})
	}
	doing.Wait()
	return context.Cause(ctx)
}

// Ping sends the first pings of clients who then send one for each answer. Nothing if they ping by the clock.
func (l *Keepers) Ping() error {
	for _, k := range l.keepers {
		if err := k.begin(l.leases.InFlight); err != nil {
			return fmt.Errorf("ping leases: %w", err)
		}
	}
	return nil
}

// Failed ends when something went wrong, which is its cause.
func (l *Keepers) Failed() context.Context { return l.group.Failed() }

// Stop lets nobody ping any more, and waits for the answers that are under way, unless they ping by the clock.
func (l *Keepers) Stop() error {
	l.stopping.Store(true)
	l.pinging.Wait()
	if l.leases.InFlight == 0 {
		return context.Cause(l.group.Failed())
	}
	var sent int64
	for _, k := range l.keepers {
		k.mu.Lock() // whoever has it now may be sending the last ping
		sent += k.sent
		k.mu.Unlock()
	}
	return l.answered.await(l.group.Failed(), sent, "answers to pings")
}

// Revoke revokes all leases that were granted, at the store, also after something went wrong.
func (l *Keepers) Revoke(ctx context.Context) error {
	if err := l.forAll(ctx, func(ctx context.Context, k *keeper, i int) error { return k.revoke(ctx, i) }); err != nil {
		return fmt.Errorf("revoke leases: %w", err)
	}
	return nil
}

// Ended is how many of the clients' streams the server has ended so far: a ping was not answered in time, and they had to
// come again.
func (l *Keepers) Ended() (n int) {
	for _, k := range l.keepers {
		k.mu.Lock()
		n += k.ended
		k.mu.Unlock()
	}
	return n
}

// Close ends the connections. The leases go on until they expire, unless Revoke was called before.
func (l *Keepers) Close() error {
	l.stopping.Store(true)
	err := l.group.Close()
	l.pinging.Wait()
	if l.granter != nil {
		err = errors.Join(err, l.granter.Close())
	}
	return err
}

// beat is how far apart the times are at which leases are pinged by the clock.
const beat = 10 * time.Millisecond

// pingByTheClock pings each lease once in an interval, all at different times, as far as there are so many.
func (l *Keepers) pingByTheClock() {
	beats := int(l.leases.interval() / beat)
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for n := 0; !l.stopping.Load(); n++ {
		for c, k := range l.keepers {
			if err := k.pingEach((n+c)%beats, beats); err != nil {
				l.group.Fail(fmt.Errorf("ping leases: %w", err))
				return
			}
		}
		select {
		case <-tick.C:
		case <-l.group.Failed().Done():
			return
		}
	}
}
