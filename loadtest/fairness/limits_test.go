package fairness

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

func TestWhoIsOverTheRateIsToldWhenToComeAgain(t *testing.T) {
	at(t, targettest.SiteOptions{NoProxies: true}, func(s *site) {
		s.startFront("--limit-requests=2")
		flood, other := pb.NewKVClient(s.client(0)), pb.NewKVClient(s.client(1))
		put := &pb.PutRequest{Key: []byte("a"), Value: []byte("1")}
		s.Eventually(20*time.Second, "a refusal", func() error { // a slow machine may get two in within a second
			_, err := flood.Put(s.Ctx, put)
			if err == nil {
				return errors.New("it was served")
			}
			s.hint(err)
			return nil
		})
		if _, err := other.Put(s.Ctx, put); err != nil {
			s.Errorf("somebody else, who asks for the first time: %v", err)
		}
		s.Eventually(20*time.Second, "an answer to who waits as told", func() error {
			_, err := flood.Put(s.Ctx, put)
			if err != nil {
				s.await(s.hint(err))
			}
			return err
		})
	})
}

func TestWatchesOverTheLimitAreRefusedAndTheOthersGoOn(t *testing.T) {
	at(t, targettest.SiteOptions{NoProxies: true}, func(s *site) {
		const limit = 3
		s.startFront(fmt.Sprintf("--limit-watches=%d", limit))
		conn := s.client(0)
		stream, err := pb.NewWatchClient(conn).Watch(s.Ctx)
		s.Must(err)
		create := func() *pb.WatchResponse {
			s.Helper()
			s.Must(stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte("a")}}}))
			r, err := stream.Recv()
			s.Must(err)
			return r
		}
		var ids []int64
		for range limit {
			r := create()
			if !r.Created || r.Canceled {
				s.Fatalf("a watch within the limit: %v", r)
			}
			ids = append(ids, r.WatchId)
		}
		if r := create(); !r.Canceled || r.CancelReason != rpctypes.ErrGRPCRequestTooManyRequests.Error() && r.CancelReason != rpctypes.ErrTooManyRequests.Error() {
			s.Errorf("a watch over the limit: %v", r)
		}
		_, err = pb.NewKVClient(s.client(1)).Put(s.Ctx, &pb.PutRequest{Key: []byte("a"), Value: []byte("1")})
		s.Must(err)
		for range limit {
			if r, err := stream.Recv(); err != nil || len(r.Events) != 1 {
				s.Fatalf("a watch within the limit, after one was refused: %v, %v", r, err)
			}
		}
		s.Must(stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: ids[0]}}}))
		if r, err := stream.Recv(); err != nil || !r.Canceled {
			s.Fatalf("a cancelled watch: %v, %v", r, err)
		}
		if r := create(); !r.Created || r.Canceled {
			s.Errorf("a watch in place of a cancelled one: %v", r)
		}
	})
}

func TestWhatMayWaitForUpstreamIsBounded(t *testing.T) {
	for _, kind := range []target.Kind{target.ProxyEtcd37, target.ProxyCore} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := &site{targettest.NewSite(t, bin, kind, targettest.SiteOptions{
				Timeout: testTimeout, ProxyArgs: []string{"--max-upstream-requests=8"},
			})}
			const flood = 9_000
			var (
				answered, refused atomic.Int64
				asking            sync.WaitGroup
				kv                = pb.NewKVClient(s.client(0))
				member            = s.Cluster.Members[0]
			)
			s.Must(member.Pause())
			ctx, cancel := context.WithCancel(s.Ctx)
			defer cancel()
			for range flood {
				asking.Go(func() {
					switch _, err := kv.Put(ctx, &pb.PutRequest{Key: []byte("a"), Value: make([]byte, 100)}); {
					case err == nil:
						answered.Add(1)
					case isTooMany(err):
						refused.Add(1)
					}
				})
			}
			s.Eventually(30*time.Second, "refusals", func() error {
				if n := refused.Load(); n < flood/2 {
					return fmt.Errorf("%d of %d", n, flood)
				}
				return nil
			})
			quiet := make(chan error, 1)
			go func() {
				_, err := pb.NewKVClient(s.client(1)).Put(ctx, &pb.PutRequest{Key: []byte("b")})
				quiet <- err
			}()
			s.Must(member.Resume())
			if err := <-quiet; err != nil {
				s.Errorf("somebody else, while the flood waits: %v", err)
			}
			asking.Wait()
			if answered.Load() == 0 {
				s.Error("nobody of those who waited was answered")
			}
		})
	}
}
