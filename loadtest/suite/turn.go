package suite

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"google.golang.org/grpc/codes"

	"weir/loadtest/client"
	"weir/loadtest/load"
	"weir/loadtest/report"
)

// connectPatience is how long all clients of a load may take to connect.
const connectPatience = time.Minute

// measure loads a system for one turn.
func measure(ctx context.Context, s *System, sc Scenario, warmUp, length time.Duration) (report.Turn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := s.servers.alive(); err != nil {
		return report.Turn{}, err
	}
	if err := s.servers.renew(ctx, s); err != nil {
		return report.Turn{}, err
	}
	runtime.GC() // what the last turn has left is not this one's
	recorder := &Recorder{}
	m := &measurement{system: s, load: sc.New(s, recorder), recorder: recorder}
	err := m.make(ctx, cancel, warmUp, length)
	if err = errors.Join(err, m.load.Close()); err != nil {
		return report.Turn{}, errors.Join(err, s.servers.alive())
	}
	t, err := recorder.turn()
	if err == nil {
		err = sc.keptUp(t)
	}
	t.Processes, t.Upstream = m.processes, m.upstreamOf(t.Operations)
	return t, err
}

// measurement is of one turn.
type measurement struct {
	system   *System
	load     Load
	recorder *Recorder

	processes     []report.Process
	before, after counted
}

// counted is what was counted from the beginning up to a moment.
type counted struct {
	requests map[string]float64 // that clients have caused the store to be sent, by method; nil if nobody tells
	doubt    map[string]float64 // by how much these may be wrong
	answered float64            // operations
}

// make has the load run, and measures once the warm-up is over. cancel ends ctx.
func (m *measurement) make(ctx context.Context, cancel context.CancelCauseFunc, warmUp, length time.Duration) error {
	late := time.AfterFunc(connectPatience, func() { cancel(fmt.Errorf("the clients were not connected after %v", connectPatience)) })
	err := m.load.Connect(ctx)
	late.Stop()
	if err != nil {
		return err
	}
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- m.load.Run(ctx, stop) }()
	// wait waits for a while in which the load must not end.
	wait := func(d time.Duration) error {
		select {
		case <-time.After(d):
			return nil
		case err := <-ended:
			ended <- nil // for who waits for the end
			if err == nil {
				err = errors.New("the clients stopped before the end of the turn")
			}
			return err
		}
	}
	err = wait(warmUp)
	if err == nil {
		err = m.between(ctx, func() error { return wait(length) })
	}
	close(stop)
	late = time.AfterFunc(2*load.Patience, func() { cancel(fmt.Errorf("the clients had not stopped %v after they were told to", 2*load.Patience)) })
	defer late.Stop()
	return errors.Join(err, <-ended)
}

// between measures while the clients do something.
//
// The requests upstream are read outside of what is measured, because a server takes some milliseconds of processor time to
// tell them: see upstreamOf.
func (m *measurement) between(ctx context.Context, do func() error) (err error) {
	if m.before, err = m.count(ctx); err != nil {
		return err
	}
	if err := m.readCPU(); err != nil {
		return err
	}
	m.recorder.start()
	err = do()
	m.recorder.stop()
	if err = errors.Join(err, m.readCPU()); err != nil {
		return err
	}
	for i, p := range m.system.servers.processes() {
		if m.processes[i].RSS, err = p.memory(); err != nil {
			return err
		}
	}
	m.after, err = m.count(ctx)
	return err
}

// count counts. A server tells its requests at some moment between question and answer, so what is counted here is counted at both.
func (m *measurement) count(ctx context.Context) (c counted, err error) {
	answered, sent := m.recorder.answered(), m.system.sentDirectly()
	if c.requests, err = m.system.servers.requests(ctx); c.requests == nil || err != nil {
		return c, err
	}
	c.answered = float64(answered+m.recorder.answered()) / 2
	c.doubt = map[string]float64{}
	for method, now := range m.system.sentDirectly() {
		before := sent[method]
		c.requests[method] -= (before.sent + now.sent) / 2
		c.doubt[method] = (now.sent-before.sent)/2 + max(before.underWay, now.underWay)
	}
	return c, nil
}

// upstreamOf is the part of the requests upstream that so many operations had, of all that were answered in the time in which the
// requests were counted. Nothing is said of a method of which there may have been none.
func (m *measurement) upstreamOf(operations int64) map[string]float64 {
	answered := m.after.answered - m.before.answered
	if m.before.requests == nil || answered <= 0 {
		return nil
	}
	upstream := map[string]float64{}
	for method, n := range m.after.requests {
		if n -= m.before.requests[method]; n > m.before.doubt[method]+m.after.doubt[method] {
			upstream[method] = n * float64(operations) / answered
		}
	}
	return upstream
}

// readCPU notes the processor time of all processes since it was called before.
func (m *measurement) readCPU() error {
	first := m.processes == nil
	for i, p := range m.system.servers.processes() {
		if first {
			m.processes = append(m.processes, report.Process{Name: p.name, Role: p.role})
		}
		d, err := p.cpu()
		if err != nil {
			return err
		}
		m.processes[i].CPU = d - m.processes[i].CPU
	}
	return nil
}

// unsupported tells whether an error of a load says that the system cannot do what it was asked for: a server of gRPC has said
// Unimplemented, or the load knows. A page of HTTP that is not found is none of the two.
func unsupported(err error) bool {
	var end *client.StatusError
	return errors.As(err, &end) && end.Said && end.Code == codes.Unimplemented || errors.Is(err, errors.ErrUnsupported)
}
