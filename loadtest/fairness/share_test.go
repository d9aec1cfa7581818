package fairness

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// asker is a client that always has requests waiting.
type asker struct {
	name   string
	atOnce int
	send   func(ctx context.Context, i int) error
	served atomic.Int64
}

// race has everybody ask until so many requests are answered, and counts from when all of them wait.
func (s *site) race(askers []*asker, requests int) {
	s.Helper()
	ctx, cancel := context.WithCancelCause(s.Ctx)
	defer cancel(nil)
	var (
		working sync.WaitGroup
		total   atomic.Int64
	)
	for _, a := range askers {
		for j := range a.atOnce {
			working.Go(func() {
				for i := j; ctx.Err() == nil; i += a.atOnce {
					if err := a.send(ctx, i); err != nil {
						if ctx.Err() == nil {
							cancel(fmt.Errorf("%s: %w", a.name, err))
						}
						return
					}
					a.served.Add(1)
					total.Add(1)
				}
			})
		}
	}
	reach := func(n int64) error {
		for total.Load() < n {
			select {
			case <-ctx.Done():
				return context.Cause(ctx)
			case <-time.After(5 * time.Millisecond):
			}
		}
		return nil
	}
	before := int64(requests / 10) // are served while not everybody has come
	err := reach(before)
	for _, a := range askers {
		a.served.Store(0)
	}
	if err == nil {
		err = reach(before + int64(requests))
	}
	cancel(nil)
	working.Wait()
	s.Must(err)
}

// shares checks that each asker was served in proportion to its weight.
func (s *site) shares(askers []*asker, weightOf func(*asker) float64) {
	s.Helper()
	var all, weights float64
	for _, a := range askers {
		all += float64(a.served.Load())
		weights += weightOf(a)
	}
	for _, a := range askers {
		got, want := float64(a.served.Load()), all*weightOf(a)/weights
		if got < 0.7*want || got > 1.4*want {
			s.Errorf("%s was served %.0f of %.0f times, and its share is %.0f", a.name, got, all, want)
		}
	}
}

func putter(name string, atOnce int, conn *grpc.ClientConn) *asker {
	kv := pb.NewKVClient(conn)
	return &asker{name: name, atOnce: atOnce, send: func(ctx context.Context, i int) error {
		_, err := kv.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "%s/%d", name, i%10), Value: make([]byte, 100)})
		return err
	}}
}

// farSite is a site whose member is so far away that every slot is always taken.
func farSite(t *testing.T, kind target.Kind, proxyArgs ...string) *site {
	t.Helper()
	s := &site{targettest.NewSite(t, bin, kind, targettest.SiteOptions{
		Timeout: testTimeout, NoProxies: true, ProxyArgs: append(proxyArgs, "--max-upstream-requests=4"),
	})}
	s.StartProxies([]string{s.RelayTo(s.Cluster.Members[0].Addr, 15*time.Millisecond).Addr})
	return s
}

func TestOneAtTenTimesItsShareIsServedAsOftenAsTheOthers(t *testing.T) {
	for _, kind := range []target.Kind{target.ProxyEtcd37, target.ProxyCore} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := farSite(t, kind)
			const quiet = 9
			var askers []*asker
			for i := range quiet {
				askers = append(askers, putter(fmt.Sprint("quiet", i), 3, s.client(i)))
			}
			askers = append(askers, putter("flood", 30, s.client(quiet)))
			s.race(askers, 1000)
			s.shares(askers, func(*asker) float64 { return 1 })
		})
	}
}

// Tenants may have been promised more than others.
func TestTenantsAreServedByTheirWeights(t *testing.T) {
	for _, kind := range []target.Kind{target.ProxyEtcd37, target.ProxyCore} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "tenants.yaml")
			if err := os.WriteFile(file, []byte(`
tenants:
- {name: heavy, users: [heavy], namespace: /heavy/, weight: 3}
- {name: light, users: [light], namespace: /light/}
default: {}
`), 0o600); err != nil {
				t.Fatal(err)
			}
			s := farSite(t, kind, "--tenants-file="+file, "--user=root:root")
			s.enableAuth("heavy", "light")
			heavy := s.putterAs("heavy", 20)
			light := s.putterAs("light", 40)
			s.race([]*asker{heavy, light}, 500)
			s.shares([]*asker{heavy, light}, func(a *asker) float64 {
				if a == heavy {
					return 3
				}
				return 1
			})
		})
	}
}

// enableAuth makes users with the role root, whose names are their passwords, and turns authentication on.
func (s *site) enableAuth(users ...string) {
	s.Helper()
	auth := pb.NewAuthClient(targettest.Dial(s, s.Cluster.Members[0].Addr))
	_, err := auth.RoleAdd(s.Ctx, &pb.AuthRoleAddRequest{Name: "root"})
	s.Must(err)
	for _, name := range append(users, "root") {
		_, err := auth.UserAdd(s.Ctx, &pb.AuthUserAddRequest{Name: name, Password: name})
		s.Must(err)
		_, err = auth.UserGrantRole(s.Ctx, &pb.AuthUserGrantRoleRequest{User: name, Role: "root"})
		s.Must(err)
	}
	_, err = auth.AuthEnable(s.Ctx, &pb.AuthEnableRequest{})
	s.Must(err)
}

// putterAs is a putter who shows a user's token. It returns when the proxy knows that authentication is on.
func (s *site) putterAs(user string, atOnce int) *asker {
	s.Helper()
	conn := s.client(0)
	a := putter(user, atOnce, conn)
	put := a.send
	s.Eventually(20*time.Second, "a put by "+user, func() error {
		r, err := pb.NewAuthClient(conn).Authenticate(s.Ctx, &pb.AuthenticateRequest{Name: user, Password: user})
		if err != nil {
			return err
		}
		a.send = func(ctx context.Context, i int) error {
			return put(metadata.AppendToOutgoingContext(ctx, "token", r.Token), i)
		}
		return a.send(s.Ctx, 0)
	})
	return a
}
