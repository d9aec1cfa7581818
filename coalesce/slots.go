package coalesce

import (
	"context"
	"errors"
	"sync"
)

// Slots bounds the calls that are under way, of all accounts and of each, and what waits for that in bytes. It is for calls that are
// rarely so many that one has to wait: who waits is served in no order. (Where calls are to be divided fairly there is
// proxy/fair.)
//
// All methods may be called concurrently.
type Slots struct {
	most     int // calls of one account
	maxBytes int
	all      chan struct{} // an element for each call

	mu       sync.Mutex // guards what follows, and the accounts
	waiting  int        // bytes of all that waits
	accounts map[string]*slotAccount
}

// slotAccount is one that has calls under way, or waits for that.
type slotAccount struct {
	n       int           // of both
	waiting int           // bytes
	slots   chan struct{} // an element for each call
}

// ErrSlots is the error of calls that must not wait, because too much does already.
var ErrSlots = errors.New("too many requests wait for others")

// slotWaiterBytes is about what one that waits takes beside its request: a goroutine, and a gRPC stream.
const slotWaiterBytes = 8 << 10

// NewSlots lets so many calls be under way at a time, and so many of one account. maxBytes bounds the memory of those that wait:
// their requests, and 8 KiB for each. A call waits only if with it the account's take no more than is left beside all: one account
// alone takes half, the next one half of the rest, and so on. So an account that has little waiting finds room beside any few that
// have much, though not beside any number of them.
func NewSlots(all, ofOne, maxBytes int) *Slots {
	return &Slots{most: ofOne, maxBytes: maxBytes, all: make(chan struct{}, all), accounts: map[string]*slotAccount{}}
}

// Do calls f for an account, whose request has so many bytes, when there is a slot. It returns the error of f, or of ctx if that ends
// before, or ErrSlots.
func (s *Slots) Do(ctx context.Context, account string, bytes int, f func() error) error {
	end, err := s.acquire(ctx, account, bytes)
	if err != nil {
		return err
	}
	defer end()
	return f()
}

// Each calls f with each number below n, as Do would one after another, but several at a time while the account has slots. So one
// request that needs many calls is under way no longer than they take, and waits no more than once. f may be called concurrently.
// After the first error no more calls begin, and the ctx of those under way ends; when they have returned it is returned.
func (s *Slots) Each(ctx context.Context, account string, bytes, n int, f func(ctx context.Context, i int) error) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var calls sync.WaitGroup
	for i := range n {
		end, err := s.acquire(ctx, account, bytes)
		if err != nil {
			fail(err)
			break
		}
		calls.Go(func() {
			defer end()
			if err := f(ctx, i); err != nil {
				fail(err)
			}
		})
	}
	calls.Wait()
	return context.Cause(ctx)
}

// acquire takes a slot, which end gives back. Its errors are those of Do.
func (s *Slots) acquire(ctx context.Context, account string, bytes int) (end func(), err error) {
	a := s.enter(account)
	if !s.begin(a) {
		if err := s.wait(ctx, a, bytes+slotWaiterBytes); err != nil {
			s.leave(account, a)
			return nil, err
		}
	}
	return func() {
		<-s.all
		<-a.slots
		s.leave(account, a)
	}, nil
}

func (s *Slots) enter(name string) *slotAccount {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.accounts[name]
	if a == nil {
		a = &slotAccount{slots: make(chan struct{}, s.most)}
		s.accounts[name] = a
	}
	a.n++
	return a
}

func (s *Slots) leave(name string, a *slotAccount) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.n--; a.n == 0 {
		delete(s.accounts, name)
	}
}

// begin takes a slot if that is possible at once.
func (s *Slots) begin(a *slotAccount) bool {
	select {
	case a.slots <- struct{}{}:
	default:
		return false
	}
	select {
	case s.all <- struct{}{}:
		return true
	default:
		<-a.slots
		return false
	}
}

// wait takes a slot when there is one.
func (s *Slots) wait(ctx context.Context, a *slotAccount, bytes int) error {
	if !s.admit(a, bytes) {
		return ErrSlots
	}
	defer s.count(a, -bytes)
	select {
	case a.slots <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case s.all <- struct{}{}:
		return nil
	case <-ctx.Done():
		<-a.slots
		return ctx.Err()
	}
}

func (s *Slots) admit(a *slotAccount, bytes int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.waiting+bytes > s.maxBytes-s.waiting {
		return false
	}
	a.waiting += bytes
	s.waiting += bytes
	return true
}

func (s *Slots) count(a *slotAccount, bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.waiting += bytes
	s.waiting += bytes
}
