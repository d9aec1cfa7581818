package grpcapi

import (
	"context"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// watchLoad is how many watchers are on how many streams, and what they watch.
type watchLoad struct {
	name      string
	streams   int
	perStream int
	request   func(i int) *pb.WatchCreateRequest
	matched   int // watchers that an event is for
}

func watchLoads() []watchLoad {
	prefix := func(int) *pb.WatchCreateRequest { return keys("k", "l") }
	single := func(i int) *pb.WatchCreateRequest { return key(fmt.Sprintf("k%d", i)) }
	return []watchLoad{
		{"prefix=1000", 100, 10, prefix, 1000},
		{"prefix=10000", 100, 100, prefix, 10000},
		{"prefix=10000/streams=10000", 10000, 1, prefix, 10000},
		{"prefix=10000/streams=1", 1, 10000, prefix, 10000},
		{"single=10000", 100, 100, single, 1},
	}
}

// BenchmarkWatchDelivery is from Publish until the transport has the message for every watcher: the hub's and the
// service's part, without the network.
func BenchmarkWatchDelivery(b *testing.B) {
	for _, l := range watchLoads() {
		b.Run(l.name, func(b *testing.B) {
			r := newRevisions(b, 1<<20)
			service := (&watchServer{revisions: r, clock: &manualTimers{}}).service()
			x := &sinkhole{ctx: b.Context(), want: int64(l.streams * l.perStream), done: make(chan struct{}, 1)}
			for i := range l.streams {
				s := newWatchStream(service, x, nil)
				b.Cleanup(s.close)
				for j := range l.perStream {
					s.create(decoded(b, l.request(i*l.perStream+j)), 0)
				}
			}
			<-x.done
			e := eventSource(b, r)
			b.ReportAllocs()
			for b.Loop() {
				x.want = int64(l.matched)
				x.sent.Store(0)
				r.feed.Publish(e())
				<-x.done
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(l.matched), "ns/watcher")
		})
	}
}

// sinkhole is a transport that has written a message at once.
type sinkhole struct {
	grpc.ServerStream
	ctx  context.Context
	sent atomic.Int64
	want int64
	done chan struct{}
}

func (x *sinkhole) Context() context.Context { return x.ctx }

func (x *sinkhole) SendMsg(m any) error {
	m.(*mem.BufferSlice).Free()
	if x.sent.Add(1) == x.want {
		x.done <- struct{}{}
	}
	return nil
}

// BenchmarkWatchLoopback is the same with grpc and clients that read, all in this process: what it costs is at least
// half the clients'.
func BenchmarkWatchLoopback(b *testing.B) {
	for _, l := range watchLoads() {
		if l.streams > 1000 {
			continue // grpc's client alone takes minutes
		}
		b.Run(l.name, func(b *testing.B) {
			s := startWatchServer(b, 1<<20)
			var got atomic.Int64
			var want atomic.Int64
			want.Store(int64(l.streams * l.perStream))
			done := make(chan struct{}, 1)
			var conns []*grpc.ClientConn
			for range 8 {
				conns = append(conns, s.dial())
			}
			for i := range l.streams {
				stream := openRaw(b, conns[i%len(conns)])
				go func() {
					for {
						if err := stream.RecvMsg(new(wire.Raw)); err != nil {
							return
						}
						if got.Add(1) == want.Load() {
							done <- struct{}{}
						}
					}
				}()
				for j := range l.perStream {
					raw, err := proto.Marshal(createRequest(l.request(i*l.perStream + j)))
					if err != nil {
						b.Fatal(err)
					}
					if err := stream.SendMsg(wire.Raw(raw)); err != nil {
						b.Fatal(err)
					}
				}
			}
			<-done
			e := eventSource(b, s.revisions)
			for b.Loop() {
				want.Store(int64(l.matched))
				got.Store(0)
				s.feed.Publish(e())
				<-done
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(l.matched), "ns/watcher")
		})
	}
}

func openRaw(b *testing.B, cc *grpc.ClientConn) grpc.ClientStream {
	ctx, cancel := context.WithCancel(context.Background())
	b.Cleanup(cancel)
	s, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true},
		"/etcdserverpb.Watch/Watch", grpc.ForceCodecV2(wire.Codec{}))
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// BenchmarkWatchMemory reports the bytes that an idle watch takes on the server.
func BenchmarkWatchMemory(b *testing.B) {
	for _, l := range watchLoads() {
		b.Run(l.name, func(b *testing.B) {
			for b.Loop() {
				r := newRevisions(b, 1<<20)
				service := (&watchServer{revisions: r, clock: &manualTimers{}}).service()
				x := &sinkhole{ctx: b.Context(), want: int64(l.streams * l.perStream), done: make(chan struct{}, 1)}
				before := heap()
				streams := make([]*watchStream, l.streams)
				for i := range streams {
					streams[i] = newWatchStream(service, x, nil)
					for j := range l.perStream {
						streams[i].create(decoded(b, l.request(i*l.perStream+j)), 0)
					}
				}
				<-x.done
				b.ReportMetric(float64(heap()-before)/float64(l.streams*l.perStream), "B/watcher")
				for _, s := range streams {
					s.close()
				}
			}
		})
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// eventSource returns a function that makes the next revision without keeping it, as a long benchmark would fill the
// memory.
func eventSource(b *testing.B, r *revisions) func() coalesce.Batch {
	rev := r.hub.Revision()
	return func() coalesce.Batch {
		rev++
		kv := wire.KeyValue{Key: []byte("k0"), Value: make([]byte, 40), ModRevision: rev, CreateRevision: 2, Version: 1}
		e, err := wire.NewPutEvent(kv.Append(nil))
		if err != nil {
			b.Fatal(err)
		}
		return coalesce.Batch{Revision: rev, Events: []wire.Event{e}}
	}
}
