package access

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
)

// roster keeps the newest policy while somebody needs it. One goroutine, run, asks upstream and makes policies, in rounds of
// a second; everybody else reads the present one, and waits for a round if that does not do.
//
// A round sends an AuthStatus. If that shows another auth revision a policy which knows nobody is published at once: it is not
// settled. If it does, or users are missed, the round reads these users and their roles and sends an AuthStatus again: only if
// that shows the same revision did what was read exist together. To go without the second one was rejected: a user read before
// a change and a role read after it can add up to a right that nobody ever had.
type roster struct {
	ctx     context.Context                                                        // of run
	call    func(ctx context.Context, method string, req []byte) (wire.Raw, error) // in the proxy's own name
	status  Call                                                                   // without a token
	ownName string
	off     *atomic.Bool // as Guard.off
	watched func() bool  // there are open watches that have to be judged when something changes
	before  func()       // called before a policy of another generation is published
	changed func()       // called after it
	clock   clock
	log     *slog.Logger

	current atomic.Pointer[policy]
	used    atomic.Int64               // when somebody last used it, a time.Duration
	told    atomic.Pointer[generation] // the newest of which changed has been told
	lapsed  atomic.Bool                // nobody waits any more for a settled policy that counts, see Guard.Hold
	stirred atomic.Int64               // just before the regime last changed, a time.Duration
	wake    chan struct{}              // something is needed
	stats   rosterStats

	// What belongs to run.
	pace      pace             // of AuthStatus
	roles     map[string]*role // of the present generation
	last      *policy          // the last one that was settled
	lastRoles map[string]*role // of its generation

	mu       sync.Mutex // guards what follows
	wanted   nameSet
	watchers nameSet // users who have had open watches since the present policy was settled, or have them
	earlier  nameSet // those from before: of a watch that has not been announced yet nobody tells when something has changed
	round    *round  // the one under way, or the next
}

type rosterStats struct{ statuses, users, roles, changes atomic.Uint64 }

// round is one try to have a newer policy.
type round struct {
	begun   bool          // guarded by roster.mu
	waiting int           // who wait for its end; guarded by roster.mu
	done    chan struct{} // closed when it has ended
	err     error         // why there is no newer policy
}

const (
	// roundInterval is the least time between two rounds.
	roundInterval = time.Second
	// readerInterval is that between two of a proxy that cannot see users and roles, as long as nobody asks: there is nothing to
	// be known but whether it can by now.
	readerInterval = 10 * time.Second
	// maxNames and maxNameBytes bound the users that are to be read, for watches and for others each.
	maxNames     = 10_000
	maxNameBytes = 4 << 20
)

// nameSet is a bounded set of users. The zero value is empty.
type nameSet struct {
	names map[string]struct{}
	bytes int
}

func (s *nameSet) has(name string) bool {
	_, ok := s.names[name]
	return ok
}

// add returns false if there is no room.
func (s *nameSet) add(name string) bool {
	switch {
	case s.has(name):
		return true
	case len(s.names) >= maxNames || s.bytes+len(name) > maxNameBytes:
		return false
	case s.names == nil:
		s.names = map[string]struct{}{}
	}
	s.names[name] = struct{}{}
	s.bytes += len(name)
	return true
}

func newRound() *round { return &round{done: make(chan struct{})} }

// policy is the newest, of whatever age; nil before the first.
func (r *roster) policy() *policy { return r.current.Load() }

// recent is the newest if it still counts at now, else nil. It is then kept up.
func (r *roster) recent(now time.Duration) *policy {
	p := r.current.Load()
	if p == nil || now-p.status.sent > maxAge {
		return nil
	}
	r.use(now)
	return p
}

func (r *roster) use(now time.Duration) {
	if was := time.Duration(r.used.Load()); now-was > roundInterval/10 { // not for each of many
		r.used.Store(int64(now))
		if now-was > roundInterval {
			r.look()
		}
	}
}

// look has run look at what is needed.
func (r *roster) look() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// stir is called when the regime is about to change: what the proxy itself may do, as it is known, may not hold any more.
func (r *roster) stir() { r.stirred.Store(int64(r.clock.now() - 1)) }

// stirredAt is after when a policy must have been asked for to be of the present regime.
func (r *roster) stirredAt() time.Duration { return time.Duration(r.stirred.Load()) }

// want has a user read in the next round, and does not wait.
func (r *roster) want(name string) {
	if name == "" {
		return
	}
	r.mu.Lock()
	r.wanted.add(name) // else they will be wanted again
	r.mu.Unlock()
	r.use(r.clock.now())
	r.look()
}

// takeWanted returns those who are wanted now, as many as are read in a round, and how many reads that may take.
func (r *roster) takeWanted() (names []string, left int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name := range r.wanted.names {
		if len(names) == maxReads/2 { // each may have a role of their own
			break
		}
		names = append(names, name)
	}
	r.wanted = nameSet{}
	return names, maxReads + readsPerWatched*min(len(r.watchers.names)+len(r.earlier.names), maxWatched)
}

// watch has a user kept in the policy as long as there are open watches of theirs: it is called with each watch, and when a
// watch is looked at again.
func (r *roster) watch(name string) {
	if name == "" { // who has no name has no rights
		return
	}
	r.mu.Lock()
	was := r.hasWatches(name)
	r.watchers.add(name)
	r.mu.Unlock()
	if p := r.policy(); !was && p != nil && !p.knows(subject{name, true}) {
		r.want(name)
	}
}

// hasWatches tells whether watch has been called for a user lately. r.mu is held.
func (r *roster) hasWatches(name string) bool { return r.watchers.has(name) || r.earlier.has(name) }

// unwatch forgets for whom there were watches when it was called before.
func (r *roster) unwatch() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.earlier, r.watchers = r.watchers, nameSet{}
}

// unwatchAt0 does so if there are no streams of watches. They are counted here, because one that has begun since the last one
// ended may have called watch.
func (r *roster) unwatchAt0(streams *atomic.Int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if streams.Load() == 0 {
		r.earlier, r.watchers = nameSet{}, nameSet{}
	}
}

// need returns a policy that still counts, was asked for after `since`, and knows s. It waits for the next rounds. The
// error is one for a client.
func (r *roster) need(ctx context.Context, s subject, since time.Duration) (*policy, error) {
	const rounds = 4 // in which something changed each time, or more was missed than can be read in one
	for begun := 0; ; {
		now := r.clock.now()
		if p := r.recent(now); p != nil && p.status.sent > since && p.knows(s) {
			return p, nil
		}
		if begun == rounds {
			return nil, errUnsettled
		}
		own, failed, err := r.await(ctx, s)
		switch {
		case err != nil:
			return nil, err
		case own && failed != nil:
			return nil, toUnavailable("learn what users may do", failed)
		case own:
			begun++
		}
	}
}

// settled returns a policy by which it can be told whether what goes on may go on. One of who cannot see users and roles may be
// older: then nothing is to be told.
func (r *roster) settled(ctx context.Context) (*policy, error) {
	p, stirred := r.policy(), r.stirredAt()
	if p != nil && p.settled && p.status.sent > stirred && (p.enabled && p.own == someRights || r.clock.now()-p.status.sent <= eventAge) {
		return p, nil
	}
	return r.need(ctx, subject{}, stirred)
}

// await waits for the end of a round, which is to read s. It tells whether the round began only now, and why it has failed.
func (r *roster) await(ctx context.Context, s subject) (own bool, failed, err error) {
	own, t, err := r.join(s)
	if err != nil {
		return false, nil, err
	}
	defer r.leave(t)
	r.look()
	select {
	case <-t.done:
		return own, t.err, nil
	case <-ctx.Done():
		return own, nil, status.FromContextError(ctx.Err()).Err()
	case <-r.ctx.Done():
		return own, nil, errClosed
	}
}

// join returns the round to wait for, and whether it begins only now.
func (r *roster) join(s subject) (own bool, t *round, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.name != "" && !r.wanted.add(s.name) {
		return false, nil, errTooMany
	}
	r.round.waiting++
	return !r.round.begun, r.round, nil
}

func (r *roster) leave(t *round) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t.waiting--
}

// run is the roster's goroutine.
func (r *roster) run() {
	for r.ctx.Err() == nil {
		wait, needed := r.due()
		if needed && wait <= 0 {
			r.begin()
			err := r.refresh(r.ctx)
			r.end(err)
			continue
		}
		var timer *time.Timer
		var due <-chan time.Time
		if needed {
			timer = time.NewTimer(wait)
			due = timer.C
		}
		select {
		case <-due:
		case <-r.wake:
		case <-r.ctx.Done():
		}
		if timer != nil {
			timer.Stop()
		}
	}
}

// due tells whether there is to be a round, and when.
func (r *roster) due() (wait time.Duration, needed bool) {
	r.mu.Lock()
	waiting := r.round.waiting
	r.mu.Unlock()
	now := r.clock.now()
	p := r.policy()
	switch {
	case waiting > 0 && r.pace.spares(now):
		return 0, true
	case waiting > 0, now-time.Duration(r.used.Load()) <= roundInterval:
		return r.pace.sent + roundInterval - now, true
	case !r.watched():
		return 0, false
	case p != nil && p.enabled && p.own == someRights && p.status.sent > r.stirredAt():
		return r.pace.sent + readerInterval - now, true
	}
	return r.pace.sent + roundInterval - now, true
}

// pace is that of AuthStatus: one a second, and of those that were spared lately a few more for who would have to wait. So who is
// refused after some quiet is told at once.
type pace struct {
	sent   time.Duration // the last one
	spared float64
}

const maxSpared = 3

func (c *pace) at(now time.Duration) float64 {
	return min(maxSpared, c.spared+float64(now-c.sent)/float64(roundInterval))
}

// spares tells whether there is one more.
func (c *pace) spares(now time.Duration) bool { return c.at(now) >= 1 }

// took records one.
func (c *pace) took(now time.Duration) {
	c.spared = max(0, c.at(now)-1)
	c.sent = now
}

func (r *roster) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.round.begun = true
}

// end ends a round. Those who came meanwhile find that they have to wait for the next.
func (r *roster) end(err error) {
	r.mu.Lock()
	t := r.round
	r.round = newRound()
	t.err = err
	r.mu.Unlock()
	close(t.done)
}

// publish makes p the present policy. It tells of what has changed when that is settled.
func (r *roster) publish(p *policy) {
	was := r.policy()
	isNew := was == nil || was.generation != p.generation
	if isNew {
		r.stats.changes.Add(1)
		r.before()
	}
	r.current.Store(p)
	p.shown.Store(int64(p.status.sent))
	if !p.settled {
		return
	}
	r.last, r.lastRoles = p, r.roles
	r.lapsed.Store(false)
	if isNew || !was.settled {
		r.unwatch() // whose watches are looked at now have some
		r.changed()
		r.told.Store(p.generation)
	}
}
