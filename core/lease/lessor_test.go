package lease

import (
	"context"
	"errors"
	"math"
	"slices"
	"testing"
	"time"
)

// newPrimary returns a promoted Lessor with a minimum TTL of 2 s, as a member with etcd's default timeouts has.
func newPrimary() (*Lessor, *fakeClock) {
	clock := newFakeClock()
	l := New(clock, 2)
	l.Promote(0)
	return l, clock
}

func grant(t *testing.T, l *Lessor, id, ttl int64) {
	t.Helper()
	if _, err := l.Grant(id, ttl, 1); err != nil {
		t.Fatalf("Grant(%d, %d): %v", id, ttl, err)
	}
}

func wantStatus(t *testing.T, l *Lessor, id, ttl, remaining int64) {
	t.Helper()
	s, err := l.TimeToLive(id, false)
	if err != nil || s.TTL != ttl || s.Remaining != remaining {
		t.Fatalf("TimeToLive(%d) = %+v, %v; want TTL %d, remaining %d", id, s, err, ttl, remaining)
	}
}

// expired returns what WaitExpired would return without waiting.
func expired(l *Lessor, limit int) []int64 {
	for {
		ids, _, again := l.sweep(limit)
		if len(ids) > 0 || !again {
			return ids
		}
	}
}

func TestGrantAnswersAsEtcd(t *testing.T) {
	l, _ := newPrimary()
	grant(t, l, 7, 10)
	for _, c := range []struct {
		name             string
		id, ttl, granted int64
		err              error
	}{
		{"as asked", 1, 60, 60, nil},
		{"raised to the minimum", 2, 1, 2, nil},
		{"zero is raised too", 3, 0, 2, nil},
		{"negative is raised too", 4, math.MinInt64, 2, nil},
		{"negative id", -5, 60, 60, nil},
		{"the longest", 6, MaxTTL, MaxTTL, nil},
		{"too long", 8, MaxTTL + 1, 0, ErrTTLTooLarge},
		{"too long comes before taken", 7, MaxTTL + 1, 0, ErrTTLTooLarge},
		{"taken", 7, 60, 0, ErrExists},
		{"no id", 0, 60, 0, ErrNotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := l.Grant(c.id, c.ttl, 5)
			want := Record{ID: c.id, TTL: c.granted, Granted: 5}
			if c.err != nil {
				want = Record{}
			}
			if r != want || !errors.Is(err, c.err) {
				t.Errorf("Grant(%d, %d, 5) = %v, %v; want %v, %v", c.id, c.ttl, r, err, want, c.err)
			}
		})
	}
	wantStatus(t, l, 7, 10, 10)
}

func TestRemainingSecondsAreRoundedDown(t *testing.T) {
	l, clock := newPrimary()
	grant(t, l, 1, 10)
	clock.advance(time.Nanosecond)
	wantStatus(t, l, 1, 10, 9)
	clock.advance(9*time.Second + 999*time.Millisecond)
	wantStatus(t, l, 1, 10, 0)
	clock.advance(time.Minute)
	wantStatus(t, l, 1, 10, 0)
}

func TestUnknownLeaseIsNotFound(t *testing.T) {
	l, _ := newPrimary()
	if err := l.Revoke(1); !errors.Is(err, ErrNotFound) {
		t.Errorf("Revoke: %v", err)
	}
	if _, err := l.Renew(t.Context(), 1); !errors.Is(err, ErrNotFound) {
		t.Errorf("Renew: %v", err)
	}
	if _, err := l.TimeToLive(1, true); !errors.Is(err, ErrNotFound) {
		t.Errorf("TimeToLive: %v", err)
	}
	if err := l.Attach(1, []byte("k")); !errors.Is(err, ErrNotFound) || l.LeaseOf([]byte("k")) != 0 {
		t.Errorf("Attach: %v, and the key hangs on %d", err, l.LeaseOf([]byte("k")))
	}
}

func TestPingedLeaseDoesNotExpire(t *testing.T) {
	l, clock := newPrimary()
	grant(t, l, 1, 6)
	grant(t, l, 2, 6)
	for range 100 {
		clock.advance(2 * time.Second)
		if ttl, err := l.Renew(t.Context(), 1); ttl != 6 || err != nil {
			t.Fatalf("Renew = %d, %v", ttl, err)
		}
		if slices.Contains(expired(l, 10), 1) {
			t.Fatal("a pinged lease has expired")
		}
	}
	wantStatus(t, l, 1, 6, 6)
	wantStatus(t, l, 2, 6, 0)
}

func TestLeasesAreOrderedByExpiry(t *testing.T) {
	l, clock := newPrimary()
	grant(t, l, 1, 30)
	grant(t, l, 3, 10)
	grant(t, l, 2, 10)
	clock.advance(5 * time.Second)
	grant(t, l, 4, 2)
	if got, want := l.Leases(), []int64{4, 2, 3, 1}; !slices.Equal(got, want) {
		t.Errorf("Leases() = %v, want %v", got, want)
	}
	if _, err := l.Renew(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	if got, want := l.Leases(), []int64{4, 3, 2, 1}; !slices.Equal(got, want) {
		t.Errorf("after a ping of 2: Leases() = %v, want %v", got, want)
	}
	l.Demote()
	if got, want := l.Leases(), []int64{1, 2, 3, 4}; !slices.Equal(got, want) {
		t.Errorf("without a primary: Leases() = %v, want %v", got, want)
	}
}

func TestNothingExpiresWithoutAPrimary(t *testing.T) {
	clock := newFakeClock()
	l := New(clock, 2)
	grant(t, l, 1, 2)
	check := func() {
		t.Helper()
		clock.advance(time.Hour)
		if ids := expired(l, 10); len(ids) > 0 {
			t.Errorf("expired: %v", ids)
		}
		if _, err := l.Renew(t.Context(), 1); !errors.Is(err, ErrNotPrimary) {
			t.Errorf("Renew: %v", err)
		}
		if _, err := l.TimeToLive(1, false); !errors.Is(err, ErrNotPrimary) {
			t.Errorf("TimeToLive: %v", err)
		}
	}
	check()
	l.Promote(0)
	l.Demote()
	check()
}

func TestPromoteGivesTheWholeTTLAgain(t *testing.T) {
	l, clock := newPrimary()
	grant(t, l, 1, 10)
	clock.advance(9 * time.Second)
	l.Promote(time.Second)
	wantStatus(t, l, 1, 10, 11)
	clock.advance(11*time.Second - 1)
	if ids := expired(l, 10); len(ids) > 0 {
		t.Errorf("expired early: %v", ids)
	}
	clock.advance(1)
	if ids := expired(l, 10); !slices.Equal(ids, []int64{1}) {
		t.Errorf("expired = %v, want [1]", ids)
	}
}

func TestHugeTTLDoesNotOverflow(t *testing.T) {
	l, clock := newPrimary()
	clock.advance(6 * 365 * 24 * time.Hour)
	grant(t, l, 1, MaxTTL)
	l.Promote(math.MaxInt64)
	if ids := expired(l, 10); len(ids) > 0 {
		t.Errorf("expired: %v", ids)
	}
	if s, err := l.TimeToLive(1, false); err != nil || s.Remaining < MaxTTL {
		t.Errorf("TimeToLive = %+v, %v", s, err)
	}
}

func TestKeysComeInOrderAndGoWithTheLease(t *testing.T) {
	l, _ := newPrimary()
	grant(t, l, 1, 10)
	for _, key := range []string{"c", "a", "b", "a", "d"} {
		if err := l.Attach(1, []byte(key)); err != nil {
			t.Fatal(err)
		}
	}
	l.Detach([]byte("b"))
	l.Detach([]byte("unknown"))
	if got := join(l.Keys(1)); got != "a c d" {
		t.Errorf("Keys = %q", got)
	}
	s, err := l.TimeToLive(1, true)
	if got := join(s.Keys); err != nil || got != "a c d" {
		t.Errorf("TimeToLive: keys %q, %v", got, err)
	}
	if err := l.Revoke(1); err != nil {
		t.Fatal(err)
	}
	if l.Exists(1) || l.LeaseOf([]byte("a")) != 0 || len(l.Keys(1)) > 0 {
		t.Error("the revoked lease is still there")
	}
}

func TestCheckOfKeysEndsWithTheFirstError(t *testing.T) {
	l, _ := newPrimary()
	grant(t, l, 1, 10)
	for _, key := range []string{"a", "bb", "c"} {
		if err := l.Attach(1, []byte(key)); err != nil {
			t.Fatal(err)
		}
	}
	var seen []string
	all := func(key []byte) error { seen = append(seen, string(key)); return nil }
	if err := l.CheckKeys(1, all); err != nil {
		t.Fatal(err)
	}
	if slices.Sort(seen); !slices.Equal(seen, []string{"a", "bb", "c"}) {
		t.Errorf("saw %q", seen)
	}
	calls, refused := 0, errors.New("refused")
	if err := l.CheckKeys(1, func([]byte) error { calls++; return refused }); !errors.Is(err, refused) || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
	if err := l.CheckKeys(2, func([]byte) error { return refused }); err != nil {
		t.Errorf("a lease that is not there: %v", err)
	}
}

func TestKeyHangsOnOneLease(t *testing.T) {
	l, _ := newPrimary()
	grant(t, l, 1, 10)
	grant(t, l, 2, 10)
	for _, key := range []string{"a", "b", "c"} {
		if err := l.Attach(1, []byte(key)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Attach(2, []byte("a")); err != nil {
		t.Fatal(err)
	}
	if err := l.Attach(3, []byte("b")); !errors.Is(err, ErrNotFound) || l.LeaseOf([]byte("b")) != 1 {
		t.Errorf("a refused Attach: %v, and moved the key to %d", err, l.LeaseOf([]byte("b")))
	}
	if got := join(l.Keys(1)); got != "b c" || l.LeaseOf([]byte("a")) != 2 {
		t.Errorf("Keys(1) = %q, and a hangs on %d", got, l.LeaseOf([]byte("a")))
	}
	if err := l.Revoke(1); err != nil || l.LeaseOf([]byte("a")) != 2 {
		t.Errorf("Revoke: %v, and a hangs on %d", err, l.LeaseOf([]byte("a")))
	}
}

func join(keys [][]byte) string {
	var s string
	for i, k := range keys {
		if i > 0 {
			s += " "
		}
		s += string(k)
	}
	return s
}

// expiry is a result of WaitExpired.
type expiry struct {
	ids []int64
	err error
}

func waitExpired(ctx context.Context, l *Lessor) <-chan expiry {
	c := make(chan expiry, 1)
	go func() {
		ids, err := l.WaitExpired(ctx, 10)
		c <- expiry{ids, err}
	}()
	return c
}

func TestWaitExpiredSleepsUntilTheNextExpiry(t *testing.T) {
	l, clock := newPrimary()
	grant(t, l, 1, 10)
	grant(t, l, 2, 30)
	clock.advance(5 * time.Second)
	if _, err := l.Renew(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	c := waitExpired(t.Context(), l)
	if d := <-clock.slept; d != 10*time.Second {
		t.Errorf("slept %v, want the 10s until lease 1 expires", d)
	}
	clock.advance(10 * time.Second)
	if got := <-c; got.err != nil || !slices.Equal(got.ids, []int64{1}) {
		t.Errorf("WaitExpired = %v, %v; want [1]", got.ids, got.err)
	}
}

func TestShorterLeaseWakesTheSleeper(t *testing.T) {
	l, clock := newPrimary()
	grant(t, l, 1, 60)
	c := waitExpired(t.Context(), l)
	if d := <-clock.slept; d != time.Minute {
		t.Errorf("slept %v, want a minute", d)
	}
	grant(t, l, 2, 5)
	if d := <-clock.slept; d != 5*time.Second {
		t.Errorf("woken, slept %v, want 5s", d)
	}
	clock.advance(5 * time.Second)
	if got := <-c; got.err != nil || !slices.Equal(got.ids, []int64{2}) {
		t.Errorf("WaitExpired = %v, %v; want [2]", got.ids, got.err)
	}
}

func TestPromoteWakesTheSleeper(t *testing.T) {
	clock := newFakeClock()
	l := New(clock, 2)
	grant(t, l, 1, 5)
	c := waitExpired(t.Context(), l)
	l.Promote(0)
	<-clock.slept
	clock.advance(5 * time.Second)
	if got := <-c; got.err != nil || !slices.Equal(got.ids, []int64{1}) {
		t.Errorf("WaitExpired = %v, %v; want [1]", got.ids, got.err)
	}
}

func TestWaitExpiredEndsWithItsContext(t *testing.T) {
	l, _ := newPrimary()
	ctx, cancel := context.WithCancel(t.Context())
	c := waitExpired(ctx, l)
	cancel()
	if got := <-c; !errors.Is(got.err, context.Canceled) {
		t.Errorf("WaitExpired = %v, %v", got.ids, got.err)
	}
}

func TestLostRevocationIsNamedAgain(t *testing.T) {
	l, clock := newPrimary()
	for id := int64(1); id <= 3; id++ {
		grant(t, l, id, 2)
		clock.advance(time.Millisecond)
	}
	clock.advance(2 * time.Second)
	if got := expired(l, 2); !slices.Equal(got, []int64{1, 2}) {
		t.Fatalf("first: %v", got)
	}
	if got := expired(l, 2); !slices.Equal(got, []int64{3}) {
		t.Fatalf("then the rest: %v", got)
	}
	if err := l.Revoke(2); err != nil {
		t.Fatal(err)
	}
	clock.advance(retryInterval - 1)
	if got := expired(l, 10); len(got) > 0 {
		t.Fatalf("too early: %v", got)
	}
	clock.advance(1)
	if got := expired(l, 10); !slices.Contains(got, 1) || !slices.Contains(got, 3) || len(got) != 2 {
		t.Fatalf("again: %v, want 1 and 3", got)
	}
}

func TestSweepOfManyRenewedLeasesFindsTheExpired(t *testing.T) {
	l, clock := newPrimary()
	const n = 5 * sweepLimit
	for id := int64(1); id <= n; id++ {
		grant(t, l, id, 10)
	}
	clock.advance(9 * time.Second)
	for id := int64(1); id < n; id++ {
		if _, err := l.Renew(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	clock.advance(time.Second)
	if got := expired(l, 10); !slices.Equal(got, []int64{n}) {
		t.Errorf("expired = %v, want [%d]", got, int64(n))
	}
}

// TestPingOfAnExpiredLeaseWaits: it is answered only when it is decided what becomes of the lease.
func TestPingOfAnExpiredLeaseWaits(t *testing.T) {
	for _, c := range []struct {
		name   string
		decide func(*Lessor, context.CancelFunc)
		ttl    int64
		err    error
	}{
		{"revoked", func(l *Lessor, _ context.CancelFunc) { _ = l.Revoke(1) }, 0, ErrNotFound},
		{"demoted", func(l *Lessor, _ context.CancelFunc) { l.Demote() }, 0, ErrNotPrimary},
		{"promoted again", func(l *Lessor, _ context.CancelFunc) { l.Promote(0) }, 5, nil},
		{"caller gone", func(_ *Lessor, cancel context.CancelFunc) { cancel() }, 0, context.Canceled},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, clock := newPrimary()
			grant(t, l, 1, 5)
			clock.advance(5 * time.Second)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if _, ended, _ := l.tryRenew(1); ended == nil {
				t.Fatal("an expired lease was renewed")
			}
			type answer struct {
				ttl int64
				err error
			}
			answers := make(chan answer)
			go func() {
				ttl, err := l.Renew(ctx, 1)
				answers <- answer{ttl, err}
			}()
			c.decide(l, cancel)
			if a := <-answers; a.ttl != c.ttl || !errors.Is(a.err, c.err) {
				t.Errorf("Renew = %d, %v; want %d, %v", a.ttl, a.err, c.ttl, c.err)
			}
		})
	}
}

func TestRenewNowWaitsForNothing(t *testing.T) {
	l, clock := newPrimary()
	for id := range int64(4) {
		grant(t, l, 1+id, 2+2*id)
	}
	clock.advance(2 * time.Second) // 1 has expired
	ids := []int64{4, 1, 99, 3, 4}
	ttls := slices.Repeat([]int64{-1}, len(ids))
	l.RenewNow(ids, ttls)
	if want := []int64{8, 0, 0, 6, 8}; !slices.Equal(ttls, want) {
		t.Errorf("TTLs of %d are %d, want %d", ids, ttls, want)
	}
	for id, remaining := range map[int64]int64{1: 0, 2: 2, 3: 6, 4: 8} {
		wantStatus(t, l, id, 2*id, remaining)
	}
	l.Demote()
	l.RenewNow(ids, ttls)
	if slices.Max(ttls) > 0 {
		t.Errorf("renewed by who does not lead: %d", ttls)
	}
}

func TestWhatHappensToALeaseIsToldToThoseWhoDoNotLead(t *testing.T) {
	for _, c := range []struct {
		name   string
		happen func(*Lessor)
	}{
		{"revoked", func(l *Lessor) { _ = l.Revoke(1) }},
		{"its checkpoint is taken back", func(l *Lessor) { _, _ = l.Checkpoint(Checkpoint{1, 0, 1}) }},
		{"promoted", func(l *Lessor) { l.Promote(0) }},
		{"replaced", func(l *Lessor) { l.Reset(NewSet()) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := New(newFakeClock(), 1)
			if _, exists := l.Changed(1); exists {
				t.Fatal("there is a lease")
			}
			grant(t, l, 1, 1000)
			mustCheckpoint(t, l, 1, 10)
			changed, _ := l.Changed(1)
			select {
			case <-changed:
				t.Fatal("told before it happened")
			default:
			}
			c.happen(l)
			<-changed
		})
	}
}

func TestRenewNowHasCheckpointsTakenBack(t *testing.T) {
	l, clock := newPrimary()
	grant(t, l, 1, 1000)
	clock.advance(400 * time.Second)
	checkpointed(l)
	mustCheckpoint(t, l, 1, 600)
	ttls := []int64{-1}
	if l.RenewNow([]int64{1}, ttls); ttls[0] != 0 {
		t.Fatalf("renewed for %d s beside a checkpoint", ttls[0])
	}
	if got := checkpointed(l); got != "[{1 0 1}]" {
		t.Fatalf("checkpoints %s", got)
	}
	mustCheckpoint(t, l, 1, 0)
	if l.RenewNow([]int64{1}, ttls); ttls[0] != 1000 {
		t.Errorf("renewed for %d s", ttls[0])
	}
}
