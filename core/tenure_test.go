package core

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"weir/core/lease"
	"weir/internal/bubble"
)

// primary notes whether leases expire here.
type primary bool

func (p *primary) Promote() { *p = true }
func (p *primary) Demote()  { *p = false }

// isAmong is of a member that is not the only one.
func isAmong() bool { return false }

// waitForTenure calls awaitTenure, and returns the term with which it returns, or 0 and why.
func waitForTenure(t *testing.T, n *Node) <-chan uint64 {
	t.Helper()
	began := make(chan uint64, 1)
	go func() {
		term, err := n.awaitTenure(t.Context())
		if err != nil && !errors.Is(err, rpctypes.ErrGRPCNotLeader) {
			t.Error(err)
		}
		began <- term
	}()
	synctest.Wait()
	return began
}

func TestALeaderWaitsForItsTenure(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var leases primary
		n := &Node{stopped: make(chan struct{})}
		if term := <-waitForTenure(t, n); term != 0 {
			t.Errorf("who does not lead is told term %d", term)
		}
		n.tenure.begin(7)
		began := waitForTenure(t, n)
		n.tenure.applied(6, isAmong, leases.Promote) // of an earlier leader
		synctest.Wait()
		if len(began) > 0 || bool(leases) || n.tenure.ofTerm() != 7 {
			t.Errorf("leases are primary: %v, and %d wait no more, in term %d", leases, len(began), n.tenure.ofTerm())
		}
		n.tenure.applied(7, isAmong, leases.Promote)
		if term := <-began; term != 7 || !bool(leases) {
			t.Errorf("told term %d, leases are primary: %v", term, leases)
		}
		n.tenure.end(&leases)
		if _, begun, _ := n.tenure.now(); begun || bool(leases) {
			t.Errorf("begun: %v, leases are primary: %v", begun, leases)
		}
	})
}

func TestATenureThatDoesNotBeginIsNotWaitedFor(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		var leases primary
		n := &Node{stopped: make(chan struct{})}
		n.tenure.begin(7)
		began := waitForTenure(t, n)
		n.tenure.end(&leases)
		if term := <-began; term != 0 {
			t.Errorf("told term %d", term)
		}
	})
}

// confirming is a leader in term 7, whose majority answers when the test says so.
func confirming(t *testing.T) (n *Node, clock *testClock, confirm func() <-chan error) {
	t.Helper()
	clock = newTestClock()
	n = &Node{stopped: make(chan struct{}), reads: newReadGate(0)}
	n.cfg.Clock, n.cfg.ElectionTimeout = clock, time.Second
	n.tenure.begin(7)
	n.tenure.applied(7, isAmong, new(primary).Promote)
	return n, clock, func() <-chan error {
		done := make(chan error, 1)
		go func() { done <- n.confirmTenure(t.Context(), 7) }()
		synctest.Wait()
		return done
	}
}

func TestAMajorityIsAskedOnceInHalfASecond(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n, clock, confirm := confirming(t)
		first := confirm()
		if len(first) > 0 {
			t.Fatal("confirmed before anybody was asked")
		}
		context := n.reads.take()
		clock.advance(100 * time.Millisecond) // the answer says nothing about later than the question
		n.reads.confirm(context, 99)          // what is committed there need not be applied here
		if err := <-first; err != nil {
			t.Fatal(err)
		}
		clock.advance(400 * time.Millisecond)
		if err := <-confirm(); err != nil {
			t.Fatal(err)
		}
		clock.advance(1)
		again := confirm()
		if len(again) > 0 {
			t.Fatal("nobody was asked again")
		}
		n.reads.confirm(n.reads.take(), 99)
		if err := <-again; err != nil {
			t.Fatal(err)
		}
	})
}

func TestWhatAnEarlierTenureHasPromisedIsNotConfirmed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		n, _, confirm := confirming(t)
		var leases primary
		asked := confirm()
		question := n.reads.take()
		n.tenure.end(&leases)
		if err := <-asked; !errors.Is(err, rpctypes.ErrGRPCNotLeader) {
			t.Errorf("at the end of the tenure: %v", err)
		}
		n.tenure.begin(9)
		n.tenure.applied(9, isAmong, leases.Promote)
		n.reads.confirm(question, 0)
		if n.tenure.isConfirmed(9, n.cfg.Clock.Now()) {
			t.Error("the new tenure is confirmed by a question of the old one")
		}
		if err := n.confirmTenure(t.Context(), 7); !errors.Is(err, rpctypes.ErrGRPCNotLeader) {
			t.Errorf("a promise of the old tenure: %v", err)
		}
	})
}

// What a leader has promised on a majority's word, the next one keeps, whatever their election timeouts are.
func TestTheNextLeaderAllowsForWhatTheOneBeforeHasPromised(t *testing.T) {
	for _, timeout := range []time.Duration{50 * time.Millisecond, time.Second, 50 * time.Second} {
		clock := newTestClock()
		n := &Node{leases: lease.New(clock, 1)}
		n.cfg.ElectionTimeout = timeout
		if _, err := n.leases.Grant(1, 10, 1); err != nil {
			t.Fatal(err)
		}
		n.promoteLeases()
		clock.advance(10*time.Second + confirmedFor - 1)
		if n.leases.IsExpired(1) {
			t.Errorf("with an election timeout of %v a lease ends before the one before had promised", timeout)
		}
	}
}
