package tenants

import (
	"container/list"
	"sync"
)

// accounts is the clients that have been here lately. Those with RPCs stay; of the others the one that has been away for longest
// goes when there are too many: it is given a second's worth of everything when it comes again, which it would have by then
// anyway, unless more than maxAccounts have come meanwhile.
type accounts struct {
	max int

	mu   sync.Mutex // guards what follows, and visits and place of the accounts
	of   map[Identity]*account
	idle *list.List // *account, the one that was here last in front
	in   *standing  // what a new account is limited by; nil before there is one
}

// maxAccounts take some 30 MB.
const maxAccounts = 1 << 16

func newAccounts(limit int) *accounts {
	return &accounts{max: limit, of: map[Identity]*account{}, idle: list.New()}
}

// get returns the account of who, which is of t, and keeps it until as many calls of put. It is nil if too many have RPCs.
func (s *accounts) get(who Identity, t *tenant) *account {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.find(who, t)
	if a == nil {
		return nil
	}
	if a.place != nil {
		s.idle.Remove(a.place)
		a.place = nil
	}
	a.visits++
	return a
}

// look returns the account of who without keeping it. One of many that have no RPCs may not be the same the next time.
func (s *accounts) look(who Identity, t *tenant) *account {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.find(who, t)
	switch {
	case a == nil:
		return newAccount(who, t)
	case a.place != nil:
		s.idle.MoveToFront(a.place)
	case a.visits == 0: // it is new
		a.place = s.idle.PushFront(a)
	}
	return a
}

// find returns the account of who, which is made if it is not there: then nobody keeps it, and it is not in idle. mu is held.
func (s *accounts) find(who Identity, t *tenant) *account {
	if a := s.of[who]; a != nil {
		return a
	}
	if len(s.of) >= s.max {
		last := s.idle.Back()
		if last == nil {
			return nil
		}
		delete(s.of, s.idle.Remove(last).(*account).who)
	}
	a := newAccount(who, t)
	if s.in != nil { // the RPC may have been judged by one before
		a.limit(s.in.limitsOf(who, a.limits))
	}
	s.of[who] = a
	return a
}

// relimit has everybody limited as they are now.
func (s *accounts) relimit(in *standing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.in = in
	for who, a := range s.of {
		a.limit(in.limitsOf(who, a.limits))
	}
}

func (s *accounts) put(a *account) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.visits--; a.visits == 0 {
		a.place = s.idle.PushFront(a)
	}
}

func (s *accounts) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.of)
}
