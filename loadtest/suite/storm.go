package suite

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/loadtest/client"
	"weir/loadtest/load"
	"weir/loadtest/report"
)

// connectionScenarios are those of clients who come and go.
func connectionScenarios() []Scenario {
	description := "64 clients at a time, each of which connects, gets a key of 256 B by a linearizable read and then by a serializable one, and " +
		"disconnects; then the next one comes. Latency is from the beginning of the connection to the second answer."
	overTLS := storm(report.Scenario{Name: "connection-storm-tls", Description: "With TLS: " + description}, 64, true)
	overTLS.Long = true
	return []Scenario{
		storm(report.Scenario{Name: "connection-storm", Description: description}, 64, false),
		overTLS,
		reconnects(report.Scenario{
			Name: "reconnect-1k",
			Description: "1,000 clients with a connection and a watch each are all cut off at once, and come again; when the last one has its watch, all " +
				"are cut off again. Latency is from the cut to when a client has its watch.",
		}, 1_000),
	}
}

const stormKey = Prefix + "storm/key"

// storm is a scenario of so many clients at a time who connect for two reads.
func storm(info report.Scenario, clients int, tls bool) Scenario {
	info.Kind, info.Unit = "connections", "connection"
	return Scenario{
		Info: info,
		TLS:  tls,
		Fill: func(ctx context.Context, s *System) error {
			return fill(ctx, s, 1, func(int) []byte { return []byte(stormKey) }, make([]byte, valueSize))
		},
		New: func(s *System, r *Recorder) Load {
			return &stormLoad{system: s, recorder: r, clients: clients, tls: tls}
		},
	}
}

// stormLoad is the Load of clients who connect for two reads.
//
// A client who has closed a connection keeps its port for a minute, and has some 28,000 of them to one address. On the loopback
// Linux gives them out again after a second; to another machine they are soon used up at more than 400 connections a second, which fails.
type stormLoad struct {
	system   *System
	recorder *Recorder
	clients  int
	tls      bool      // is wanted
	gets     [2][]byte // requests
}

// Connect connects nobody yet, but sees whether one could.
func (l *stormLoad) Connect(ctx context.Context) error {
	if l.tls && l.system.Client.TLS == nil {
		return fmt.Errorf("it serves plaintext: %w", errors.ErrUnsupported)
	}
	for i, serializable := range []bool{false, true} {
		var err error
		if l.gets[i], err = encode(&pb.RangeRequest{Key: []byte(stormKey), Serializable: serializable}); err != nil {
			return err
		}
	}
	return l.visit(ctx, 0, func() {})
}

// Run has clients come and go.
func (l *stormLoad) Run(ctx context.Context, stop <-chan struct{}) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		clients sync.WaitGroup
		came    atomic.Int64
	)
	for range l.clients {
		track := l.recorder.Track()
		clients.Go(func() {
			for !ended(stop) && ctx.Err() == nil {
				begun := time.Now()
				if err := l.visit(ctx, int(came.Add(1)), func() { track.Done(begun, len(l.gets)*valueSize) }); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	clients.Wait()
	return context.Cause(ctx)
}

func ended(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}

// visit is what the i-th client does. answered is called when it has all answers, and has not disconnected yet.
func (l *stormLoad) visit(ctx context.Context, i int, answered func()) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, load.Patience, fmt.Errorf("no answer after %v", load.Patience))
	defer cancel()
	v, err := dialVisitor(ctx, l.system, i)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.close()) }()
	want := page{[]byte(stormKey), []byte(stormKey), 1, valueSize}
	for _, get := range l.gets {
		answer, err := v.call(ctx, client.KVRange, get)
		if err != nil {
			return err
		}
		if _, err := want.check(answer); err != nil {
			return err
		}
	}
	answered()
	return nil
}

// Close has nothing to do: Run has waited for all who came.
func (l *stormLoad) Close() error { return nil }
