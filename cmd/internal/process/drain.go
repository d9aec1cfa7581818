package process

import (
	"context"
	"fmt"
	"log/slog"
	"os/signal"
	"syscall"
	"time"
)

// Drain is how a process ends that was told to, by SIGTERM or SIGINT: within Timeout, which the Delay is part of.
//
//	at once        it is not ready any more, and says so to whoever asks
//	for the Delay  it serves as before, also new clients, while balancers learn of that
//	then           new clients are refused, and those that are there leave one after another, for half of what is left
//	at last        what is in progress is waited for, and cut when the time is over
//
// A second signal is the end of the time.
type Drain struct {
	Delay, Timeout time.Duration
}

// defaultDrainTimeout goes with no delay: clients that know all servers need none, and how long a balancer takes is its own.
const defaultDrainTimeout = 10 * time.Second

// AddFlags adds --drain-delay and --drain-timeout.
func (d *Drain) AddFlags(f *Flags) {
	f.DurationVar(&d.Delay, "drain-delay", 0, "Time after SIGTERM in which new clients are still served, while balancers learn that this is not ready any more. It is part of --drain-timeout.")
	f.DurationVar(&d.Timeout, "drain-timeout", defaultDrainTimeout, "Time after SIGTERM within which this ends: clients are asked to leave one after another, for half of it, and what is in progress is waited for. 0 cuts everything at once.")
}

// Check refuses what is contradictory.
func (d Drain) Check() error {
	switch {
	case d.Delay < 0:
		return fmt.Errorf("--drain-delay=%v is not possible: it must not be negative", d.Delay)
	case d.Timeout < 0:
		return fmt.Errorf("--drain-timeout=%v is not possible: it must not be negative", d.Timeout)
	case d.Delay > 0 && d.Delay >= d.Timeout:
		return fmt.Errorf("--drain-delay=%v leaves nothing of --drain-timeout=%v for clients to leave: give more of that", d.Delay, d.Timeout)
	}
	return nil
}

// maxClosing bounds what of the Timeout is left for what comes behind the clients: files, upstream.
const maxClosing = time.Second

// Draining is the end of a process, since it was told to. Its methods may be called concurrently.
type Draining struct {
	delayed context.Context // ends with the Delay
	over    context.Context // ends when all is to be cut
	began   time.Time
	until   time.Time
	close   func()
}

// Begin is called when the process is told to end. Close must be called.
func (d Drain) Begin(logger *slog.Logger) *Draining {
	logger.Info("told to stop", "drain-delay", d.Delay.String(), "drain-timeout", d.Timeout.String())
	if err := NotifyStopping(); err != nil {
		logger.Error(err.Error())
	}
	hurried, forget := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	g := d.begin(hurried)
	ended := g.close
	g.close = func() {
		ended()
		forget()
		logger.Info("drained", "took", time.Since(g.began).Round(time.Millisecond).String())
	}
	return g
}

// begin has it that all is cut when hurried ends, too.
func (d Drain) begin(hurried context.Context) *Draining {
	g := &Draining{began: time.Now()}
	g.until = g.began.Add(d.Timeout - min(d.Timeout/10, maxClosing))
	over, cancelOver := context.WithDeadline(hurried, g.until)
	delayed, cancelDelayed := context.WithDeadline(over, g.began.Add(d.Delay))
	g.over, g.delayed = over, delayed
	g.close = func() {
		cancelDelayed()
		cancelOver()
	}
	return g
}

// Over ends when everything is to be cut.
func (g *Draining) Over() context.Context { return g.over }

// WaitDelay waits until new clients may be refused.
func (g *Draining) WaitDelay() { <-g.delayed.Done() }

// Spread is over how much time clients are to leave one after another, from now: half of what is left, so that the last of them
// have as long again.
func (g *Draining) Spread() time.Duration { return max(0, time.Until(g.until)/2) }

// Close ends the wait for a second signal. It is called when all is over.
func (g *Draining) Close() { g.close() }
