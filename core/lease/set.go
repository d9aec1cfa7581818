package lease

import "fmt"

// Set is leases and their keys as they are stored, without a clock: what a Lessor is filled from, at start and when a snapshot
// takes the place of what was there. It is filled by one goroutine, apart, so that the Lessor is locked only while it takes it over.
type Set struct {
	leases map[int64]*lease
	keys   map[string]place
}

// NewSet returns an empty Set.
func NewSet() *Set { return &Set{leases: make(map[int64]*lease), keys: make(map[string]place)} }

// Add adds the lease that a record is of. The error is that of Lessor.Grant.
func (s *Set) Add(r Record) error {
	var err error
	switch {
	case r.ID == 0:
		err = ErrNotFound
	case r.TTL > MaxTTL:
		err = ErrTTLTooLarge
	case s.leases[r.ID] != nil:
		err = ErrExists
	}
	if err != nil {
		return fmt.Errorf("lease %x with a TTL of %d: %w", uint64(r.ID), r.TTL, err)
	}
	s.leases[r.ID] = newLease(r)
	return nil
}

// Attach is as Lessor.Attach.
func (s *Set) Attach(id int64, key []byte) error { return attach(s.leases, s.keys, id, key) }

// Reset makes the leases those of the set, which must not be used any more, and forgets those that were there. Their TTLs are
// raised to the minimum. On a primary each begins anew, as with Promote(0). Whoever waits in Renew is answered by what is there
// now.
func (l *Lessor) Reset(s *Set) {
	for _, le := range s.leases {
		le.ttl = max(le.ttl, l.minTTL)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.leases, l.keys = s.leases, s.keys
	s.leases, s.keys = nil, nil
	if l.primary {
		l.begin(0)
		return
	}
	l.releaseWaiting()
}
