package fairness

import (
	"context"
	"fmt"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"weir/loadtest/target/targettest"
)

// A ping goes upstream within a second of its arrival or fails, and one that fails ends its stream: so none was held up for
// longer if no stream ends.
func TestPingsAreAnsweredBesideAFlood(t *testing.T) {
	at(t, targettest.SiteOptions{ProxyArgs: []string{"--max-upstream-requests=4"}}, func(s *site) {
		const (
			clients = 10
			pings   = 200 // of each
			ttl     = 60
		)
		keys := targettest.Keys("flooded/", 500)
		member := pb.NewKVClient(targettest.Dial(s, s.Cluster.Members[0].Addr))
		for len(keys) > 0 {
			txn := &pb.TxnRequest{}
			for _, k := range keys[:100] {
				txn.Success = append(txn.Success, targettest.PutOp(k, string(make([]byte, 1000))))
			}
			keys = keys[100:]
			_, err := member.Txn(s.Ctx, txn)
			s.Must(err)
		}
		ctx, cancel := context.WithCancel(s.Ctx)
		var flooding, pinging sync.WaitGroup
		defer flooding.Wait()
		defer cancel()
		conn := s.client(clients) // that of the flood has leases too
		s.flood(ctx, &flooding, conn)
		for i := range clients {
			pinger := s.client(i)
			if i == 0 {
				pinger = conn
			}
			leases := pb.NewLeaseClient(pinger)
			r, err := leases.LeaseGrant(s.Ctx, &pb.LeaseGrantRequest{TTL: ttl})
			s.Must(err)
			stream, err := leases.LeaseKeepAlive(s.Ctx)
			s.Must(err)
			pinging.Go(func() {
				for n := range pings {
					err := stream.Send(&pb.LeaseKeepAliveRequest{ID: r.ID})
					var answer *pb.LeaseKeepAliveResponse
					if err == nil {
						answer, err = stream.Recv()
					}
					if err != nil || answer.TTL != ttl {
						s.Errorf("ping %d of client %d: %v, %v", n, i, answer, err)
						return
					}
				}
			})
		}
		pinging.Wait()
	})
}

// flood asks for far more than anybody's share of everything, until ctx ends.
func (s *site) flood(ctx context.Context, working *sync.WaitGroup, conn *grpc.ClientConn) {
	s.Helper()
	kv, watches := pb.NewKVClient(conn), pb.NewWatchClient(conn)
	again := func(n int, ask func(i int) error) {
		for i := range n {
			working.Go(func() {
				for ctx.Err() == nil {
					if err := ask(i); err != nil && ctx.Err() == nil {
						s.Errorf("request of the flood: %v", err)
						return
					}
				}
			})
		}
	}
	again(20, func(i int) error {
		_, err := kv.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "flooded/%06d", i), Value: make([]byte, 1000)})
		return err
	})
	again(10, func(int) error {
		_, err := kv.Range(ctx, &pb.RangeRequest{Key: []byte("flooded/"), RangeEnd: []byte("flooded0")})
		return err
	})
	again(10, func(i int) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stream, err := watches.Watch(ctx)
		if err != nil {
			return err
		}
		for range 50 {
			create := &pb.WatchCreateRequest{Key: fmt.Appendf(nil, "flooded/%06d", i)}
			if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
				return err
			}
			if _, err := stream.Recv(); err != nil {
				return err
			}
		}
		return nil
	})
}
