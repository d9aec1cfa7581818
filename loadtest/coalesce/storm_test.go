package coalesce

import (
	"context"
	"flag"
	"fmt"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/loadtest/proc"
	"weir/loadtest/target"
)

var stormRounds = flag.Int("storm", 25, "rounds of 800 watches each of TestStormOfCreatesAndCancelsLeavesNothing")

// Watches of all kinds are created and cancelled as fast as it goes, many before they are even created, while events
// come. Nothing of them may stay.
func TestStormOfCreatesAndCancelsLeavesNothing(t *testing.T) {
	at(t, []target.Kind{target.Etcd37, target.ProxyEtcd37, target.ProxyProxyEtcd37, target.ProxyCore}, func(s *site) {
		const (
			conns, streams = 4, 5     // of a connection
			batch          = 40       // watches on each stream in a round
			maxGoroutines  = 20       // more than before
			maxGrowth      = 96 << 20 // of memory
		)
		st := s.store()
		all := s.openMany(conns, streams)
		for _, on := range all {
			on.create(prefix("/warm/"))
		}
		quietStream := s.open(s.Ctx, s.dialAgain())
		stays := quietStream.create(prefix("/warm/"))
		proxied := len(s.Proxies) > 0
		var goroutines int
		memory := s.memory()
		if proxied {
			goroutines = s.goroutines()
		}

		stop := make(chan struct{})
		var writing, storms sync.WaitGroup
		writing.Go(func() {
			for i := 0; !isClosed(stop); i++ {
				if _, err := st.kv.Put(s.Ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "/storm/%d", i%100)}); err != nil {
					s.Error(err)
					return
				}
			}
		})
		for i, on := range all {
			storms.Go(func() { s.storm(on, i, *stormRounds, batch) })
		}
		storms.Wait()
		close(stop)
		writing.Wait()

		for _, on := range all {
			on.check()
			on.await("the cancels", func() bool { return len(on.watches) == 1 })
		}
		st.put("/warm/1", "1")
		s.checkAll(stays)
		if !proxied {
			return
		}
		if s.Kind.Member() != proc.Core {
			s.awaitUpstream(1, "after the storm")
		}
		s.Eventually(settleWithin, "the end of the storm's goroutines", func() error {
			if n := s.goroutines(); n > goroutines+maxGoroutines {
				return fmt.Errorf("%d goroutines, %d before the storm", n, goroutines)
			}
			return nil
		})
		if grown := s.memory() - memory; grown > maxGrowth {
			s.Errorf("the proxy grew by %d MiB", grown>>20)
		}
	}, "--enable-pprof", "--watch-history-bytes=4194304")
}

// storm creates and cancels batches of watches on one stream. It must not end the test: it runs beside it.
func (s *site) storm(on *stream, nth, rounds, batch int) {
	for round := range rounds {
		var watches []*watch
		for i := range batch {
			sp := stormSpec(nth, round, i)
			sp.id = int64(1 + round*batch + i)
			w, err := on.tryAsk(sp)
			if err != nil {
				s.Errorf("create: %v", err)
				return
			}
			watches = append(watches, w)
			if i%2 == 0 {
				if err := on.grpc.Send(cancelRequest(sp.id)); err != nil {
					s.Errorf("cancel: %v", err)
					return
				}
			}
		}
		for i, w := range watches {
			if i%2 == 0 {
				continue
			}
			if err := on.grpc.Send(cancelRequest(w.spec.id)); err != nil {
				s.Errorf("cancel: %v", err)
				return
			}
		}
		for _, w := range watches {
			if err := on.wait(s.Ctx, func() bool { return w.created != nil && w.canceled != nil }); err != nil {
				s.Errorf("%v is not created and cancelled: %v", w.spec, err)
				return
			}
		}
	}
}

func stormSpec(nth, round, i int) spec {
	switch i % 5 {
	case 0:
		return prefix("/storm/")
	case 1:
		return spec{key: fmt.Sprintf("/storm/%d", i)}
	case 2:
		return prefix(fmt.Sprintf("/%d/%d/", nth, round))
	case 3:
		return spec{key: "/storm/", end: "/storm0", start: 1, prevKV: true}
	default:
		return spec{key: fmt.Sprintf("/single/%d/%d/%d", nth, round, i)}
	}
}

// Streams and connections that come and go leave nothing either.
func TestStormOfStreamsLeavesNothing(t *testing.T) {
	at(t, []target.Kind{target.ProxyEtcd37}, func(s *site) {
		const rounds, workers = 40, 10
		s.open(s.Ctx, s.dialAgain()).create(prefix("/warm/"))
		goroutines := s.goroutines()
		var storms sync.WaitGroup
		errs := make([]error, workers)
		for i := range workers {
			storms.Go(func() { errs[i] = s.stormOfStreams(i, rounds) })
		}
		storms.Wait()
		for _, err := range errs {
			s.Must(err)
		}
		s.awaitUpstream(1, "after the storm")
		s.Eventually(settleWithin, "the end of the storm's goroutines", func() error {
			if n := s.goroutines(); n > goroutines+10 {
				return fmt.Errorf("%d goroutines, %d before the storm", n, goroutines)
			}
			return nil
		})
	}, "--enable-pprof")
}

// stormOfStreams opens connections and streams and leaves them at all stages of creating a watch.
func (s *site) stormOfStreams(nth, rounds int) error {
	for round := range rounds {
		conn, err := target.Dial(s.Endpoint())
		if err != nil {
			return err
		}
		for i := range 10 {
			ctx, cancel := context.WithCancel(s.Ctx)
			g, err := pb.NewWatchClient(conn).Watch(ctx)
			if err == nil && i > 0 {
				err = g.Send(stormSpec(nth, round, i).request())
			}
			if err == nil && i > 5 {
				_, err = g.Recv()
			}
			cancel()
			if err != nil {
				return err
			}
		}
		if err := conn.Close(); err != nil {
			return err
		}
	}
	return nil
}
