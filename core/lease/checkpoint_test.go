package lease

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func checkpointed(l *Lessor) string { return fmt.Sprint(l.Checkpoints(100)) }

// mustCheckpoint applies a checkpoint, of a lease that was granted by grant, and returns the record.
func mustCheckpoint(t *testing.T, l *Lessor, id, remaining int64) Record {
	t.Helper()
	r, err := l.Checkpoint(Checkpoint{id, remaining, 1})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestLongLeaseIsCheckpointedEachFiveMinutes(t *testing.T) {
	l, clock := newPrimary()
	grant(t, l, 1, 300) // ends as early as its first checkpoint would come
	grant(t, l, 2, 1000)
	clock.advance(checkpointInterval - time.Millisecond)
	if got := checkpointed(l); got != "[]" {
		t.Errorf("too early: %s", got)
	}
	clock.advance(time.Millisecond)
	if got := checkpointed(l); got != "[{2 700 1}]" {
		t.Errorf("after five minutes: %s", got)
	}
	l.Withdraw([]Checkpoint{{2, 700, 1}})
	if got := checkpointed(l); got != "[]" {
		t.Errorf("just withdrawn: %s", got)
	}
	clock.advance(retryInterval)
	if got := checkpointed(l); got != "[{2 697 1}]" {
		t.Errorf("withdrawn before, and not tried again: %s", got)
	}
	if r := mustCheckpoint(t, l, 2, 697); r != (Record{ID: 2, TTL: 1000, RemainingTTL: 697, Granted: 1}) {
		t.Errorf("record %v", r)
	}
	wantStatus(t, l, 2, 1000, 697)
	clock.advance(checkpointInterval)
	if got := checkpointed(l); got != "[{2 397 1}]" {
		t.Errorf("after ten minutes: %s", got)
	}
	mustCheckpoint(t, l, 2, 397)
	clock.advance(checkpointInterval)
	if got := checkpointed(l); got != "[{2 97 1}]" {
		t.Errorf("after a quarter of an hour: %s", got)
	}
	mustCheckpoint(t, l, 2, 97)
	clock.advance(time.Hour)
	if got := checkpointed(l); got != "[]" {
		t.Errorf("expired: %s", got)
	}
	checkQueues(t, l)
}

func TestLeaseThatIsPingedIsNotCheckpointed(t *testing.T) {
	l, clock := newPrimary()
	grant(t, l, 1, 800)
	for range 20 {
		clock.advance(checkpointInterval - time.Second)
		if got := checkpointed(l); got != "[]" {
			t.Fatal(got)
		}
		if _, err := l.Renew(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPromoteGivesWhatWasLeftAtTheCheckpoint(t *testing.T) {
	l, clock := newPrimary()
	grant(t, l, 1, 1000)
	grant(t, l, 2, 1000)
	mustCheckpoint(t, l, 1, 500)
	wantStatus(t, l, 1, 1000, 1000) // here it is known better
	l.Demote()
	clock.advance(time.Hour)
	l.Promote(2 * time.Second)
	wantStatus(t, l, 1, 1000, 502)
	wantStatus(t, l, 2, 1000, 1002)

	clock.advance(2*time.Second + checkpointInterval)
	if got := checkpointed(l); got != "[{1 200 1} {2 700 1}]" && got != "[{2 700 1} {1 200 1}]" {
		t.Errorf("five minutes after the change of the leader: %s", got)
	}
}

func TestCheckpointOfNothingSensible(t *testing.T) {
	l, _ := newPrimary()
	if _, err := l.Checkpoint(Checkpoint{1, 10, 1}); err == nil {
		t.Error("of a lease that is not there")
	}
	grant(t, l, 1, 1000)
	for _, remaining := range []int64{-5, 0, 1000, 5000} {
		if r := mustCheckpoint(t, l, 1, remaining); r.RemainingTTL != 0 {
			t.Errorf("checkpoint of %d s: %v", remaining, r)
		}
	}
}

func TestCheckpointOfALeaseWhoseIDWasGrantedAgainIsNotTheNewOnes(t *testing.T) {
	l, clock := newPrimary()
	grant(t, l, 1, 1000)
	clock.advance(checkpointInterval)
	given := l.Checkpoints(1)
	if err := l.Revoke(1); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Grant(1, 1000, 2); err != nil {
		t.Fatal(err)
	}
	if ttl, again, err := l.tryRenew(1); ttl != 1000 || again != nil || err != nil { // it waits for nothing of the first one's
		t.Errorf("ping of the new lease: %d, %v", ttl, err)
	}
	if r, err := l.Checkpoint(given[0]); !errors.Is(err, ErrNotFound) {
		t.Errorf("the checkpoint %v was applied to it: %v, %v", given[0], r, err)
	}
	l.Withdraw(given)
	clock.advance(checkpointInterval)
	if got := checkpointed(l); got != "[{1 700 2}]" {
		t.Errorf("five minutes later: %s", got)
	}
	l.Withdraw(given)
	clock.advance(retryInterval)
	if got := checkpointed(l); got != "[]" {
		t.Errorf("its checkpoint is under way, and was withdrawn with the first one's: %s", got)
	}
	l.Demote()
	l.Promote(0)
	wantStatus(t, l, 1, 1000, 1000)
}

func TestPingWaitsUntilTheCheckpointIsTakenBack(t *testing.T) {
	l, clock := newPrimary()
	grant(t, l, 1, 1000)
	clock.advance(checkpointInterval)
	if got := checkpointed(l); got != "[{1 700 1}]" {
		t.Fatal(got)
	}
	// It is under way, and must not take away what the ping gives.
	ttls := []int64{-1}
	if l.RenewNow([]int64{1}, ttls); ttls[0] != 0 {
		t.Error("RenewNow has renewed it")
	}
	_, again, err := l.tryRenew(1)
	if again == nil || err != nil {
		t.Fatalf("the ping was answered: %v", err)
	}
	if got := checkpointed(l); got != "[{1 0 1}]" {
		t.Fatalf("to be taken back: %s", got)
	}
	mustCheckpoint(t, l, 1, 700)
	if _, other, err := l.tryRenew(1); other != again || err != nil {
		t.Error("the ping was let go on before the checkpoint was taken back")
	}
	if got := checkpointed(l); got != "[]" {
		t.Fatalf("that which takes it back is on its way, and named again: %s", got)
	}
	mustCheckpoint(t, l, 1, 0)
	<-again
	if ttl, err := l.Renew(t.Context(), 1); ttl != 1000 || err != nil {
		t.Errorf("ping: %d, %v", ttl, err)
	}
	wantStatus(t, l, 1, 1000, 1000)
	clock.advance(checkpointInterval)
	if got := checkpointed(l); got != "[{1 700 1}]" {
		t.Errorf("five minutes after the ping: %s", got)
	}
}

func TestWhoWaitsForACheckpointToBeTakenBackIsAnsweredAtTheEnd(t *testing.T) {
	for name, end := range map[string]func(*Lessor){
		"revoked": func(l *Lessor) { _ = l.Revoke(1) },
		"demoted": (*Lessor).Demote,
		"reset":   func(l *Lessor) { l.Reset(NewSet()) },
	} {
		t.Run(name, func(t *testing.T) {
			l, _ := newPrimary()
			grant(t, l, 1, 1000)
			mustCheckpoint(t, l, 1, 500)
			_, again, err := l.tryRenew(1)
			if again == nil || err != nil {
				t.Fatal(err)
			}
			end(l)
			<-again
			checkQueues(t, l)
		})
	}
}

func TestWaitCheckpointsWakes(t *testing.T) {
	l, clock := newPrimary()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	waited := make(chan error, 1)
	wait := func() { go func() { waited <- l.WaitCheckpoints(ctx) }() }

	wait()
	grant(t, l, 1, MaxTTL) // so that it does not expire, however late the goroutine runs
	clock.advance(checkpointInterval)
	if err := <-waited; err != nil {
		t.Fatal(err)
	}
	l.Checkpoints(1)
	mustCheckpoint(t, l, 1, 100)
	wait()
	if _, again, err := l.tryRenew(1); again == nil || err != nil {
		t.Fatal(err)
	}
	if err := <-waited; err != nil { // of the ping
		t.Fatal(err)
	}
	mustCheckpoint(t, l, 1, 0)
	l.Checkpoints(1)
	wait()
	cancel()
	if err := <-waited; err == nil {
		t.Error("it has not ended with its context")
	}
}

// promises is a primary, the log that its checkpoints go through, and what its clients were told.
type promises struct {
	l      *Lessor
	clock  *fakeClock
	now    time.Duration
	log    []Checkpoint
	index  int64 // of the last grant
	leases map[int64]*promised
}

type promised struct {
	granted int64
	ttl     int64         // seconds
	claim   int64         // what every member knows to be left, in seconds
	expiry  time.Duration // as the client was told
	ends    time.Duration // as the primary has it
}

// TestNoLeaderChangeShortensALease has leases granted and pinged, their checkpoints applied late or withdrawn, and the primary
// changed, at random. Whoever becomes the primary, whenever it does, must give each lease at least as long as its client was
// told, and when the log has caught up, hardly more than five minutes too much.
func TestNoLeaderChangeShortensALease(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for round := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, round))
		p := &promises{leases: map[int64]*promised{}}
		p.l, p.clock = newPrimary()
		for range 1500 {
			p.step(t, rnd)
			p.check(t)
		}
	}
}

func (p *promises) advance(d time.Duration) {
	p.clock.advance(d)
	p.now += d
}

func (p *promises) step(t *testing.T, rnd *rand.Rand) {
	switch op := rnd.IntN(100); {
	case op < 15:
		id, ttl := 1+rnd.Int64N(10), 200+rnd.Int64N(3000)
		if p.leases[id] != nil {
			break
		}
		p.index++
		if _, err := p.l.Grant(id, ttl, p.index); err != nil {
			t.Fatal(err)
		}
		ends := p.now + time.Duration(ttl)*time.Second
		p.leases[id] = &promised{granted: p.index, ttl: ttl, claim: ttl, expiry: ends, ends: ends}
	case op < 18:
		id := 1 + rnd.Int64N(10)
		if p.l.Revoke(id) == nil {
			delete(p.leases, id)
		}
	case op < 35 && len(p.leases) > 0:
		ids := slices.Sorted(maps.Keys(p.leases))
		id := ids[rnd.IntN(len(ids))]
		if ttl, again, err := p.l.tryRenew(id); again == nil && err == nil {
			ends := p.now + time.Duration(ttl)*time.Second
			p.leases[id].expiry, p.leases[id].ends = ends, ends
		}
	case op < 55:
		p.advance(time.Duration(rnd.IntN(int(200 * time.Second))))
	case op < 60:
		p.advance(time.Duration(rnd.IntN(int(4 * time.Second))))
	case op < 80:
		if due := p.l.Checkpoints(1 + rnd.IntN(5)); rnd.IntN(5) > 0 {
			p.log = append(p.log, due...)
		} else {
			p.l.Withdraw(due)
		}
	case op < 96:
		p.apply(t)
	case op < 98: // what of the log is not known to another is lost
		for range rnd.IntN(len(p.log) + 1) {
			p.apply(t)
		}
		p.log = nil
		p.change(t)
	default:
		p.settle(t)
	}
	for _, id := range expired(p.l, 100) {
		if err := p.l.Revoke(id); err != nil {
			t.Fatal(err)
		}
		delete(p.leases, id)
	}
}

// change makes another lessor the primary, who knows what is stored.
func (p *promises) change(t *testing.T) {
	s := NewSet()
	for id, lease := range p.leases {
		r := Record{ID: id, TTL: lease.ttl, RemainingTTL: lease.claim % lease.ttl, Granted: lease.granted}
		if err := s.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	p.l = New(p.clock, 1)
	p.l.Reset(s)
	p.l.Promote(0)
	for _, lease := range p.leases {
		lease.ends = p.now + time.Duration(lease.claim)*time.Second
	}
}

// apply applies the first checkpoint of the log.
func (p *promises) apply(t *testing.T) {
	if len(p.log) == 0 {
		return
	}
	c := p.log[0]
	p.log = p.log[1:]
	_, err := p.l.Checkpoint(c)
	switch lease := p.leases[c.ID]; {
	case lease == nil || lease.granted != c.Granted:
		if !errors.Is(err, ErrNotFound) {
			t.Fatalf("a checkpoint of a lease that has ended: %v", err)
		}
	case err != nil:
		t.Fatal(err)
	default:
		lease.claim = cmp.Or(c.Remaining, lease.ttl)
	}
}

// settle has the log catch up, and checks that no lease would live much longer after a change of the leader. It takes three rounds:
// what was withdrawn is tried again; of a lease whose client asked for a renewal and went away, the checkpoint is taken
// back, and then made again.
func (p *promises) settle(t *testing.T) {
	for range 3 {
		p.advance(retryInterval)
		p.log = append(p.log, p.l.Checkpoints(100)...)
		for len(p.log) > 0 {
			p.apply(t)
		}
	}
	for id, lease := range p.leases {
		tooMuch := p.now + time.Duration(lease.claim)*time.Second - lease.ends
		if lease.ends > p.now && tooMuch >= checkpointInterval+retryInterval {
			t.Fatalf("lease %d would live %v too long, and has no checkpoint under way", id, tooMuch)
		}
	}
}

// check promotes, in thought, after each entry of the log.
func (p *promises) check(t *testing.T) {
	t.Helper()
	checkQueues(t, p.l)
	for id, lease := range p.leases {
		least := lease.claim
		for _, c := range p.log {
			if c.ID == id && c.Granted == lease.granted {
				least = min(least, cmp.Or(c.Remaining, lease.ttl))
			}
		}
		if ends := p.now + time.Duration(least)*time.Second; ends < lease.expiry {
			t.Fatalf("lease %d was promised until %v, and another primary would end it at %v", id, lease.expiry, ends)
		}
	}
}
