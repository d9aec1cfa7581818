package suite

import (
	"context"
	"fmt"
	"time"

	"weir/loadtest/report"
)

// Scenario is one kind of load.
type Scenario struct {
	// Info is what the report says of it: all but the results.
	Info report.Scenario
	// Long scenarios are not in a short run, unless they are asked for by name.
	Long bool
	// Options that the processes of weir's proxies get beside their defaults.
	ProxyArgs []string
	// Options that the processes of members that are started get beside their defaults.
	MemberArgs []string
	// TLS has the systems that are started serve their clients with TLS; those that run already are as they are.
	TLS bool
	// Fill puts what the clients find: once for each system, straight into its store. Nil if they find nothing.
	Fill func(ctx context.Context, s *System) error
	// MinTurn is the least time that a turn is measured, if it takes some for there to be enough writes.
	MinTurn time.Duration
	// Tolerance is by which part of what was due in a turn the operations may differ from it, if they are due at a fixed rate, and by
	// those of one write in any case: more, and the turn fails.
	Tolerance float64
	// New makes the clients of one turn. They are not connected yet.
	New func(s *System, r *Recorder) Load
}

// keptUp is an error if other operations were answered in a turn than were due: then the system has fallen behind, or has made up for
// what it had not done before, and what it took for an operation is not what it takes at this rate.
func (s Scenario) keptUp(t report.Turn) error {
	if t.Due == 0 {
		return nil
	}
	off := max(t.Due-t.Operations, t.Operations-t.Due)
	if ofOneWrite := t.Due / t.Independent; off <= ofOneWrite || float64(off) <= s.Tolerance*float64(t.Due) {
		return nil
	}
	which := "it fell behind"
	if t.Operations > t.Due {
		which = "it had fallen behind before, and caught up"
	}
	return fmt.Errorf("%ss that were due in the turn: %d; that came in it: %d: %s", s.Info.Unit, t.Due, t.Operations, which)
}

// Load is all clients of one system in one turn. Its methods are called one after the other, in the order in which they
// stand here; Close also after an error.
type Load interface {
	// Connect connects the clients and has them ready to ask: watches are created, leases granted. Nothing of it counts.
	Connect(ctx context.Context) error
	// Run asks until stop ends, waits for the answers that are under way, no longer than load.Patience, and returns. It returns an
	// error as soon as anything is wrong: an answer that is not the right one, an event that is lost, a refusal.
	// Each answer is given to the Recorder, which knows whether it counts. ctx ends when the whole run does.
	Run(ctx context.Context, stop <-chan struct{}) error
	// Close ends the connections and waits for what was started.
	Close() error
}
