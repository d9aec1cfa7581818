package suite

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"weir/loadtest/client"
	"weir/loadtest/load"
	"weir/loadtest/report"
)

// reconnects is a scenario of so many clients with a watch each, who are all cut off at once, and come again.
func reconnects(info report.Scenario, clients int) Scenario {
	info.Kind, info.Unit = "connections", "connection"
	return Scenario{Info: info, New: func(s *System, r *Recorder) Load {
		l := &reconnectLoad{system: s, recorder: r, clients: make([]*visitor, clients)}
		for range clients {
			l.tracks = append(l.tracks, r.Track())
		}
		return l
	}}
}

// reconnectLoad is the Load of clients who come again.
type reconnectLoad struct {
	system   *System
	recorder *Recorder
	clients  []*visitor // nil are not connected
	tracks   []*Track   // of each client
	request  []byte
	took     []time.Duration // that all needed to be back, in rounds that were measured
}

// Connect has all clients come for the first time.
func (l *reconnectLoad) Connect(ctx context.Context) error {
	var err error
	if l.request, err = encode(watchAll()); err != nil {
		return err
	}
	return l.all(ctx, time.Now())
}

// Run cuts all off, and has them come again, round by round.
func (l *reconnectLoad) Run(ctx context.Context, stop <-chan struct{}) error {
	for !ended(stop) {
		cut := time.Now()
		if err := l.cut(); err != nil {
			return err
		}
		if err := l.all(ctx, cut); err != nil {
			return err
		}
		if l.recorder.Measuring() {
			l.took = append(l.took, time.Since(cut))
		}
	}
	if n := len(l.took); n > 0 {
		l.recorder.Independent(int64(n))
		slices.Sort(l.took)
		l.recorder.Extra("all back ms", float64(l.took[n/2].Microseconds())/1e3)
	}
	return nil
}

// all has all clients come at once. They count from when they were cut.
func (l *reconnectLoad) all(ctx context.Context, cut time.Time) error {
	ctx, cancel := context.WithTimeoutCause(ctx, load.Patience, fmt.Errorf("not all clients had their watch again after %v", load.Patience))
	defer cancel()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var coming sync.WaitGroup
	for i := range l.clients {
		coming.Go(func() {
			if err := l.come(ctx, i); err != nil {
				fail(err)
				return
			}
			l.tracks[i].Done(cut, 0)
		})
	}
	coming.Wait()
	return context.Cause(ctx)
}

// come is what the i-th client does.
func (l *reconnectLoad) come(ctx context.Context, i int) error {
	v, err := dialVisitor(ctx, l.system, i)
	if err != nil {
		return err
	}
	l.clients[i] = v
	answer, err := v.open(ctx, client.Watch, l.request)
	if err != nil {
		return err
	}
	return confirmed(answer)
}

// cut cuts all clients off.
func (l *reconnectLoad) cut() error {
	var errs []error
	for i, v := range l.clients {
		if v != nil {
			errs = append(errs, v.close())
			l.clients[i] = nil
		}
	}
	return errors.Join(errs...)
}

// Close cuts them off for good.
func (l *reconnectLoad) Close() error { return l.cut() }
