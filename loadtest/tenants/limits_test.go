package tenants

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"weir/loadtest/target/targettest"
)

// withToken is ctx for raw requests of who has a token.
func withToken(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, token)
}

func TestQuotaHoldsForWritersAtTheSameTime(t *testing.T) {
	const maxKeys, maxBytes = 20, 400
	at(t, fmt.Sprintf("  max-keys: %d\n  max-bytes: %d\n", maxKeys, maxBytes), func(s *site) {
		for i := range 3 * maxKeys { // what others write counts too, and is above the quota
			_, err := s.store.Put(s.Ctx, fmt.Sprint("/stock/old", i), "")
			s.Must(err)
		}
		first := s.visitor("bob")
		s.Eventually(20*time.Second, "the quota is known", func() error {
			if _, err := first.Put(s.Ctx, "new", ""); !errors.Is(err, rpctypes.ErrNoSpace) {
				return fmt.Errorf("a put: %w", err)
			}
			return nil
		})
		_, err := first.Put(s.Ctx, "old1", "") // no larger than it is
		s.Must(err)
		_, err = first.Put(s.Ctx, "old1", strings.Repeat("v", maxBytes))
		s.wantErr("a larger value", err, rpctypes.ErrNoSpace)
		_, err = first.Delete(s.Ctx, "old", clientv3.WithPrefix())
		s.Must(err)
		s.Eventually(20*time.Second, "there is room again", func() error { return second(first.Put(s.Ctx, "new", "")) })

		seed := rand.Uint64()
		s.Logf("seed %d", seed)
		refused := make([]int, 4)
		var writers sync.WaitGroup
		for w := range refused {
			c := s.visitor("bob") // all by one proxy: two may overdraw it by what both have in flight
			rnd := rand.New(rand.NewPCG(seed, uint64(w)))
			writers.Go(func() {
				for range 200 {
					key, value := fmt.Sprint(rnd.IntN(2*maxKeys)), strings.Repeat("v", rnd.IntN(2*maxBytes/maxKeys))
					op := []clientv3.Op{
						clientv3.OpPut(key, value), clientv3.OpDelete(key),
						clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut(key, value), clientv3.OpPut("t"+key, value)}, nil),
					}[rnd.IntN(3)]
					if _, err := c.Do(s.Ctx, op); errors.Is(err, rpctypes.ErrNoSpace) {
						refused[w]++
					} else if err != nil {
						s.Errorf("writer %d: %v", w, err)
						return
					}
				}
			})
		}
		for writing := range done(&writers) {
			r, err := s.store.Get(s.Ctx, "/stock/", clientv3.WithPrefix())
			s.Must(err)
			bytes := 0
			for _, kv := range r.Kvs {
				bytes += len(kv.Key) - len("/stock/") + len(kv.Value)
			}
			if len(r.Kvs) > maxKeys || bytes > maxBytes {
				s.Errorf("there are %d keys, %d bytes while writing: %v", len(r.Kvs), bytes, writing)
				break
			}
		}
		writers.Wait()
		for w, n := range refused {
			if n == 0 {
				s.Errorf("writer %d was never refused", w)
			}
		}
		_, err = s.visitor("ann").Put(s.Ctx, "k", strings.Repeat("v", 10*maxBytes)) // has no quota
		s.Must(err)
	})
}

func TestQuotaThatCannotBeCheckedSaysWhatIsMissing(t *testing.T) {
	at(t, "  max-keys: 3\n", func(s *site) {
		addr := s.startProxy([]string{"--endpoints=" + s.Endpoint(), "--tenants-file=" + s.write(s.TempDir(), "tenants.yaml", file+"  max-keys: 3\n")}, nil)
		c := s.client(addr, "bob", nil)
		s.Eventually(20*time.Second, "the reason", func() error {
			_, err := c.Put(s.Ctx, "k", "")
			if err == nil || !strings.Contains(err.Error(), "which needs --user") {
				return fmt.Errorf("a put: %w", err)
			}
			return nil
		})
		_, err := c.Get(s.Ctx, "k")
		s.Must(err)
	})
}

// done gives true until all have ended, and then false once.
func done(g *sync.WaitGroup) func(yield func(bool) bool) {
	ended := make(chan struct{})
	go func() { g.Wait(); close(ended) }()
	return func(yield func(bool) bool) {
		for {
			select {
			case <-ended:
				yield(false)
				return
			default:
				if !yield(true) {
					return
				}
			}
		}
	}
}

func TestLimitsOfATenantAreItsOwn(t *testing.T) {
	const rate, watches = 20, 3
	at(t, fmt.Sprintf("  limits: {requests-per-second: %d, watches: %d}\n", rate, watches), func(s *site) {
		token := func(user string) context.Context {
			r, err := pb.NewAuthClient(targettest.Dial(s, s.tokens)).Authenticate(s.Ctx, &pb.AuthenticateRequest{Name: user, Password: password})
			s.Must(err)
			return withToken(s.Ctx, r.Token)
		}
		conn := targettest.Dial(s, s.tokens)
		kv, stock, orders := pb.NewKVClient(conn), token("bob"), token("ann")

		lease, err := pb.NewLeaseClient(conn).LeaseGrant(stock, &pb.LeaseGrantRequest{TTL: 60})
		s.Must(err)
		pings, err := pb.NewLeaseClient(conn).LeaseKeepAlive(stock)
		s.Must(err)

		begun, answered, refused := time.Now(), 0, 0
		for range 10 * rate {
			var trailer metadata.MD
			_, err := kv.Range(stock, &pb.RangeRequest{Key: []byte("k")}, grpc.Trailer(&trailer))
			switch {
			case err == nil:
				answered++
			case errors.Is(rpctypes.Error(err), rpctypes.ErrTooManyRequests):
				refused++
				if !hasHint(err) || len(trailer.Get("grpc-retry-pushback-ms")) != 1 {
					s.Fatalf("no hint in %v and %v", status.Convert(err).Details(), trailer)
				}
			default:
				s.Fatal(err)
			}
			_, err = kv.Range(orders, &pb.RangeRequest{Key: []byte("k")})
			s.Must(err)
			s.Must(pings.Send(&pb.LeaseKeepAliveRequest{ID: lease.ID}))
			pong, err := pings.Recv()
			s.Must(err)
			targettest.Want(s, "TTL", pong.TTL, 60)
		}
		if most := rate + int(time.Since(begun).Seconds()*rate) + 1; answered > most {
			s.Errorf("%d requests were answered in %v, want at most %d", answered, time.Since(begun), most)
		}
		if time.Since(begun) < time.Second && refused == 0 {
			s.Error("no request was refused")
		}

		c := s.visitor("bob")
		ctx, cancel := context.WithCancel(s.Ctx)
		defer cancel()
		open := 0
		s.Eventually(20*time.Second, "watches up to the limit", func() error { // which cost requests
			w := c.Watch(ctx, fmt.Sprint("w", open), clientv3.WithCreatedNotify())
			if r := <-w; r.Err() != nil {
				return r.Err()
			}
			if open++; open < watches {
				return errors.New("there is room for more")
			}
			return nil
		})
		if r := <-c.Watch(ctx, "one more", clientv3.WithCreatedNotify()); r.Err() == nil {
			s.Error("one watch more than the limit was let in")
		}
		if r := <-s.visitor("ann").Watch(ctx, "w", clientv3.WithCreatedNotify()); r.Err() != nil {
			s.Errorf("another tenant's watch: %v", r.Err())
		}
	})
}

func hasHint(err error) bool {
	for _, d := range status.Convert(err).Details() {
		if r, ok := d.(*errdetails.RetryInfo); ok && r.RetryDelay.AsDuration() > 0 {
			return true
		}
	}
	return false
}

func TestGatewayCountsForTheAddressOfItsClient(t *testing.T) {
	at(t, "", func(s *site) {
		addr := s.startProxy([]string{"--endpoints=" + s.Cluster.Members[0].Addr, "--limit-requests=0.1"}, nil)
		kv := pb.NewKVClient(targettest.Dial(s, addr))
		s.Eventually(20*time.Second, "the limit is reached", func() error {
			_, err := kv.Range(s.Ctx, &pb.RangeRequest{Key: []byte("k")})
			if errors.Is(rpctypes.Error(err), rpctypes.ErrTooManyRequests) {
				return nil
			}
			return fmt.Errorf("it says %w", err)
		})
		for _, forged := range []string{"", "10.0.0.1"} {
			req, err := http.NewRequestWithContext(s.Ctx, http.MethodPost, "http://"+addr+"/v3/kv/range", strings.NewReader(`{"key": "aw=="}`))
			s.Must(err)
			req.Header.Set("X-Forwarded-For", forged)
			req.Header.Set("Grpc-Metadata-X-Forwarded-For", forged)
			resp, err := http.DefaultClient.Do(req)
			s.Must(err)
			body, err := io.ReadAll(resp.Body)
			s.Must(err)
			s.Must(resp.Body.Close())
			targettest.Want(s, "status", resp.StatusCode, http.StatusTooManyRequests)
			if !strings.Contains(string(body), "etcdserver: too many requests") || !strings.Contains(string(body), "RetryInfo") {
				s.Errorf("the answer is %s", body)
			}
		}
	})
}
