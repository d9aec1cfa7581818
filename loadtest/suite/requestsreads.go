package suite

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/loadtest/client"
	"weir/loadtest/load"
)

// reads is a closed loop of readers, with who writes to what they read.
type reads struct {
	*load.ClosedLoop
	recorder           *Recorder
	list, serializable bool
	encoded            [][]byte     // requests, to be chosen from at random
	pages              []page       // their answers
	written            atomic.Int64 // revision of the newest acknowledged write
}

// newReads makes the load. Writes are as many in a second.
func newReads(s *System, r *Recorder, conns, under int, list, serializable bool, writes int) Load {
	l := &reads{recorder: r, list: list, serializable: serializable}
	o := load.Clients{Connections: conns, PerConn: under, Client: func(int) load.Requester { return &reader{load: l} }}
	if writes > 0 {
		o.Beside = func(ctx context.Context) error { return l.write(ctx, s, writes) }
	}
	l.ClosedLoop = newClosedLoop(s, r, o)
	return l
}

// Connect makes the requests, and connects the clients.
func (l *reads) Connect(ctx context.Context) error {
	n := lists * keysInList
	if l.list {
		n = lists
	}
	for i := range n {
		request := &pb.RangeRequest{Key: listedKey(i), Serializable: l.serializable}
		want := page{listedKey(i), listedKey(i), 1, valueSize}
		if l.list {
			request.Key, request.RangeEnd = []byte(listPrefix(i)), load.PrefixEnd(listPrefix(i))
			want = page{listedKey(i * keysInList), listedKey((i+1)*keysInList - 1), keysInList, valueSize}
		}
		b, err := encode(request)
		if err != nil {
			return err
		}
		l.encoded, l.pages = append(l.encoded, b), append(l.pages, want)
	}
	return l.ClosedLoop.Connect(ctx)
}

// writers are how many share the writes: enough that none is late when a write takes some milliseconds.
const writers = 8

// write puts keys that are read, so many in a second, until ctx ends, which is no error. It asks the store, so that writes cost the
// same whatever stands before it.
func (l *reads) write(ctx context.Context, s *System, rate int) error {
	conn, err := s.DialStore(0)
	if err != nil {
		return err
	}
	defer conn.Close()
	writing, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	var (
		all   sync.WaitGroup
		acked atomic.Int64
		begun = time.Now()
		value = slices.Repeat([]byte("w"), valueSize)
		kv    = pb.NewKVClient(conn)
	)
	for w := range writers {
		all.Go(func() {
			for i := w; ; i += writers {
				select {
				case <-time.After(time.Until(begun.Add(time.Duration(i) * time.Second / time.Duration(rate)))):
				case <-writing.Done():
					return
				}
				r, err := kv.Put(writing, &pb.PutRequest{Key: listedKey(rand.IntN(lists * keysInList)), Value: value})
				if err != nil {
					fail(fmt.Errorf("write to %s, which is read: %w", s.Store[0], err))
					return
				}
				if l.recorder.Measuring() {
					acked.Add(1)
				}
				l.acknowledged(r.Header.Revision)
			}
		})
	}
	all.Wait()
	if from, until := l.recorder.Window(); until.After(from) {
		l.recorder.Extra("writes/s", float64(acked.Load())/until.Sub(from).Seconds())
	}
	if ctx.Err() != nil {
		return nil
	}
	return context.Cause(writing)
}

// acknowledged notes that there was an answer to a write.
func (l *reads) acknowledged(revision int64) {
	for {
		known := l.written.Load()
		if revision <= known || l.written.CompareAndSwap(known, revision) {
			return
		}
	}
}

// reader is one client. A linearizable answer must have what was acknowledged before the request was sent.
type reader struct {
	load     *reads
	want     page
	revision int64 // that the next answer must not be below
}

func (r *reader) Next() (client.Method, []byte, error) {
	if !r.load.serializable {
		r.revision = r.load.written.Load()
	}
	i := rand.IntN(len(r.load.encoded))
	r.want = r.load.pages[i]
	return client.KVRange, r.load.encoded[i], nil
}

func (r *reader) Check(answer []byte) (int, error) {
	at, err := r.want.check(answer)
	if err != nil {
		return 0, err
	}
	if at < r.revision {
		return 0, fmt.Errorf("an answer is of revision %d, and a write of revision %d was acknowledged before it was asked for", at, r.revision)
	}
	return r.want.bytes(), nil
}
