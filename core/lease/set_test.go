package lease

import (
	"errors"
	"testing"
	"time"
)

func TestSetRefusesWhatGrantRefuses(t *testing.T) {
	s := NewSet()
	if err := s.Add(Record{ID: 1, TTL: 10}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		record Record
		want   error
	}{
		{Record{ID: 0, TTL: 10}, ErrNotFound},
		{Record{ID: 1, TTL: 20}, ErrExists},
		{Record{ID: 2, TTL: MaxTTL + 1}, ErrTTLTooLarge},
	} {
		if err := s.Add(c.record); !errors.Is(err, c.want) {
			t.Errorf("Add(%v): %v, want %v", c.record, err, c.want)
		}
	}
	if err := s.Attach(2, []byte("a")); !errors.Is(err, ErrNotFound) {
		t.Errorf("Attach to a lease that is not there: %v", err)
	}
}

func TestResetReplacesLeasesAndKeys(t *testing.T) {
	l, clock := newPrimary()
	grant(t, l, 1, 10)
	grant(t, l, 2, 10)
	for id, key := range map[int64]string{1: "old", 2: "moved"} {
		if err := l.Attach(id, []byte(key)); err != nil {
			t.Fatal(err)
		}
	}
	clock.advance(8 * time.Second)

	s := NewSet()
	for _, r := range []Record{{ID: 2, TTL: 10}, {ID: 3, TTL: 600, RemainingTTL: 20}, {ID: 4, TTL: -1}} {
		if err := s.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Attach(3, []byte("moved")); err != nil {
		t.Fatal(err)
	}
	l.Reset(s)
	if l.Exists(1) || l.LeaseOf([]byte("old")) != 0 || l.LeaseOf([]byte("moved")) != 3 || len(l.Keys(2)) != 0 {
		t.Error("what was there before is there still")
	}
	wantStatus(t, l, 2, 10, 10)
	wantStatus(t, l, 3, 600, 20)
	wantStatus(t, l, 4, l.minTTL, l.minTTL)
	checkQueues(t, l)
}

func TestResetAnswersWhoWaitsForALeaseThatIsGone(t *testing.T) {
	l, clock := newPrimary()
	grant(t, l, 1, 10)
	clock.advance(10 * time.Second)
	_, again, err := l.tryRenew(1)
	if again == nil || err != nil {
		t.Fatalf("ping of an expired lease: %v", err)
	}
	l.Reset(NewSet())
	<-again
	if _, err := l.Renew(t.Context(), 1); !errors.Is(err, ErrNotFound) {
		t.Errorf("ping of a lease that is gone: %v", err)
	}
}
