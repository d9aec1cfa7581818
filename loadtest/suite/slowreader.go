package suite

import (
	"context"
	"errors"
	"fmt"
	"time"

	"weir/loadtest/client"
	"weir/loadtest/load"
	"weir/loadtest/report"
)

// slowReaderScenarios are of watchers among whom there are some who read nothing, and of the same watchers without those: what they
// cost the others, and the server's memory, is the difference.
func slowReaderScenarios() []Scenario {
	w := load.Watches{Watchers: 1_000, ValueSize: 4 << 10, Puts: 1, Rate: 20, Prefix: watchPrefix, Connections: watchConnections}
	const who = "1,000 watchers of one prefix, on 100 connections"
	const told = "20 puts of 4 KiB a second, every one of them to all."
	return []Scenario{
		slowReaders(report.Scenario{
			Name:        "watch-prefix-1k-4KiB",
			Description: who + ", one stream each. " + told + " Memory grown is that of all servers, from 40 puts after the watchers came to the end of the turn.",
			Aims:        latencyAims(),
		}, w, 0),
		slowReaders(report.Scenario{
			Name: "watch-slow-reader",
			Description: who + ", and 100 more on a connection from which nothing is read any more. " + told + " What counts are the events to those " +
				"who read. What the others cost, in memory too, is the difference to watch-prefix-1k-4KiB.",
			Aims: latencyAims(),
		}, w, 100),
	}
}

// slowReaders is a scenario of watchers, and of so many who do not read.
func slowReaders(info report.Scenario, w load.Watches, slow int) Scenario {
	info.Kind, info.Unit, info.OpenLoop = "watches", "event", true
	first := &firstTurns{}
	return Scenario{Info: info, MinTurn: leastTurn(w), Tolerance: eventsOff, New: func(s *System, r *Recorder) Load {
		return &slowReaderLoad{
			watchLoad: watchLoad{system: s, recorder: r, watches: w, first: first.is(s)},
			slow:      &slowReader{watchers: slow, stuck: make(chan struct{}), released: make(chan struct{})},
		}
	}}
}

// slowReaderLoad is the Load of watchers who read, beside some who do not.
type slowReaderLoad struct {
	watchLoad
	slow   *slowReader
	before int64 // memory, before there was anybody slow; 0 if it is not of interest, or unknown
}

// settling is how many writes go to those who read before anybody is slow, so that a server's memory has grown to what they need.
const settling = 40

// Connect connects the clients and creates the watchers. The slow ones come last.
func (l *slowReaderLoad) Connect(ctx context.Context) error {
	if err := l.connect(ctx); err != nil {
		return err
	}
	if err := l.Watch(); err != nil {
		return err
	}
	if l.first {
		if err := l.Write(settling); err != nil {
			return err
		}
		if err := l.Await(); err != nil {
			return err
		}
		var err error
		if l.before, _, err = l.system.Memory(); err != nil {
			return err
		}
	}
	return l.slow.connect(ctx, l.system)
}

// Run writes, and waits until all watchers who read have every event.
func (l *slowReaderLoad) Run(ctx context.Context, stop <-chan struct{}) error {
	if err := l.watchLoad.Run(ctx, stop); err != nil || l.before == 0 {
		return err
	}
	after, _, err := l.system.Memory()
	l.recorder.Extra("memory grown MiB", float64(after-l.before)/(1<<20))
	return err
}

// Close ends all watches.
func (l *slowReaderLoad) Close() error { return errors.Join(l.slow.close(), l.watchLoad.Close()) }

// slowReader is a client who creates watches, and reads nothing after that. The server's word that a watch was created is the last
// thing it reads, so it does not see the server give it up, which a server may.
type slowReader struct {
	watchers int
	group    *client.Group

	created  int           // the reader's
	stuck    chan struct{} // closed when all watches were created
	released chan struct{} // closed when the reader is to end
}

// The windows are what HTTP/2 allows at least, and less than that: what a server has sent into them is not its own to keep.
const (
	slowStreamWindow = 16 << 10
	slowConnWindow   = 64 << 10
)

// connect returns when the client reads no more. It does nothing if there are to be no watchers.
func (s *slowReader) connect(ctx context.Context, system *System) error {
	if s.watchers == 0 {
		return nil
	}
	s.group = client.NewGroup(ctx)
	config := system.Client
	config.StreamWindow, config.ConnWindow = slowStreamWindow, slowConnWindow
	conns, err := s.group.Connect(1, system.Endpoint, config, func(int) client.Handler { return s })
	if err != nil {
		return err
	}
	request, err := encode(watchAll())
	if err != nil {
		return err
	}
	rpc, err := conns[0].Open(client.Watch)
	if err != nil {
		return err
	}
	for range s.watchers {
		if err := conns[0].Send(rpc, request); err != nil {
			return err
		}
	}
	select {
	case <-s.stuck:
		return nil
	case <-s.group.Failed().Done():
		return context.Cause(s.group.Failed())
	case <-time.After(load.Patience):
		return fmt.Errorf("the watches of a slow client were not created within %v", load.Patience)
	}
}

// Message reads until all watches are created.
func (s *slowReader) Message(_ uint32, m []byte) error {
	if err := confirmed(m); err != nil {
		return err
	}
	if s.created++; s.created < s.watchers {
		return nil
	}
	close(s.stuck)
	<-s.released
	return errors.New("a slow client has ended")
}

// End is told that the server has ended the watches before they were all created.
func (s *slowReader) End(_ uint32, err error) error {
	return errors.Join(errors.New("the server ended the watches of a slow client"), err)
}

func (s *slowReader) close() error {
	close(s.released)
	if s.group == nil {
		return nil
	}
	return s.group.Close()
}
