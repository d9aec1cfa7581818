package tenants

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"

	"weir/loadtest/target/targettest"
)

// pairs are two tenants, and one who may only read what the first of them has.
var pairs = []struct{ orders, stock, audit string }{
	{"ann", "bob", "eve"},
	{"orders.local", "stock.local", "audit.local"},
	{"ann", "stock.local", "audit.local"},
}

func TestTenantsHaveStoresOfTheirOwn(t *testing.T) {
	at(t, "", func(s *site) {
		for i, p := range pairs {
			orders, stock, audit := s.visitor(p.orders), s.visitor(p.stock), s.visitor(p.audit)
			watchAll := func(c *clientv3.Client) clientv3.WatchChan {
				w := c.Watch(s.Ctx, "", clientv3.WithPrefix(), clientv3.WithCreatedNotify())
				<-w
				return w
			}
			watches := []clientv3.WatchChan{watchAll(orders), watchAll(stock), watchAll(audit)}
			for _, c := range []*clientv3.Client{orders, stock} {
				_, err := c.Put(s.Ctx, "k", p.orders)
				s.Must(err)
				_, err = c.Txn(s.Ctx).If(clientv3.Compare(clientv3.Value("k"), "=", p.orders)).Then(
					clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut("own", fmt.Sprint(c == stock))}, nil)).Commit()
				s.Must(err)
			}
			targettest.Want(s, "the store", s.keys(s.store), "/orders/k /orders/own /stock/k /stock/own")
			for n, c := range []*clientv3.Client{orders, stock, audit} {
				for range 20 { // forwarded first, then from memory
					targettest.Want(s, "keys of a tenant", s.keys(c), "k own")
					r, err := c.Get(s.Ctx, "own")
					s.Must(err)
					targettest.Want(s, "a value", string(r.Kvs[0].Value), fmt.Sprint(c == stock))
				}
				var events string
				for len(events) < len("k own ") {
					r := <-watches[n]
					s.Must(r.Err())
					for _, e := range r.Events {
						events += string(e.Kv.Key) + " "
					}
				}
				targettest.Want(s, "events", events, "k own ")
			}
			_, err := stock.Delete(s.Ctx, "", clientv3.WithPrefix())
			s.Must(err)
			targettest.Want(s, "the store without the other one's keys", s.keys(s.store), "/orders/k /orders/own")
			_, err = orders.Delete(s.Ctx, "\x00", clientv3.WithFromKey())
			s.Must(err)
			targettest.Want(s, fmt.Sprint("what is left by pair ", i), s.keys(s.store), "")
		}
	})
}

func TestTenantCannotUseWhatIsNotItsOwn(t *testing.T) {
	at(t, "", func(s *site) {
		for _, p := range pairs {
			orders, stock := s.visitor(p.orders), s.visitor(p.stock)
			own, err := orders.Grant(s.Ctx, 60)
			s.Must(err)
			_, err = orders.Put(s.Ctx, "k", "", clientv3.WithLease(own.ID))
			s.Must(err)
			elsewhere, err := s.store.Grant(s.Ctx, 60) // by none of the proxies
			s.Must(err)
			_, err = s.store.Put(s.Ctx, "/orders/elsewhere", "", clientv3.WithLease(elsewhere.ID))
			s.Must(err)
			for _, id := range []clientv3.LeaseID{own.ID, elsewhere.ID} {
				_, err = stock.Revoke(s.Ctx, id)
				s.wantErr("revoke another's lease", err, rpctypes.ErrPermissionDenied)
				_, err = stock.KeepAliveOnce(s.Ctx, id)
				s.wantErr("keep another's lease alive", err, rpctypes.ErrPermissionDenied)
				_, err = stock.Put(s.Ctx, "k", "", clientv3.WithLease(id))
				s.wantErr("put under another's lease", err, rpctypes.ErrPermissionDenied)
				_, err = stock.TimeToLive(s.Ctx, id)
				s.wantErr("ask for another's lease", err, rpctypes.ErrPermissionDenied)
				_, err = orders.KeepAliveOnce(s.Ctx, id)
				s.Must(err)
				r, err := orders.TimeToLive(s.Ctx, id, clientv3.WithAttachedKeys())
				s.Must(err)
				targettest.Want(s, "keys of a lease", len(r.Keys), 1)
				_, err = orders.Revoke(s.Ctx, id)
				s.Must(err)
			}
			targettest.Want(s, "the store", s.keys(s.store), "")

			for what, err := range map[string]error{
				"leases":    second(stock.Leases(s.Ctx)),
				"compact":   second(stock.Compact(s.Ctx, 1)),
				"users":     second(stock.UserList(s.Ctx)),
				"roles":     second(stock.RoleGet(s.Ctx, "all")),
				"a user":    second(stock.UserGet(s.Ctx, "root")),
				"user add":  second(stock.UserAdd(s.Ctx, "x", "x")),
				"member":    second(stock.MemberRemove(s.Ctx, 1)),
				"hash":      second(stock.HashKV(s.Ctx, stock.Endpoints()[0], 0)),
				"downgrade": second(stock.Downgrade(s.Ctx, clientv3.DowngradeCancel, "3.6")),
			} {
				s.wantErr(what, err, rpctypes.ErrPermissionDenied)
			}
			snapshot, err := stock.Snapshot(s.Ctx)
			if err == nil {
				_, err = io.Copy(io.Discard, snapshot)
			}
			s.wantErr("snapshot", err, rpctypes.ErrPermissionDenied)
			_, err = stock.MemberList(s.Ctx)
			s.Must(err)
			_, err = stock.AlarmList(s.Ctx)
			s.Must(err)
		}
	})
}

// second is the second of two.
func second[T any](_ T, err error) error { return err }

func TestReaderChangesNothing(t *testing.T) {
	at(t, "", func(s *site) {
		for _, p := range pairs {
			orders, audit := s.visitor(p.orders), s.visitor(p.audit)
			_, err := orders.Put(s.Ctx, "k", "v")
			s.Must(err)
			lease, err := orders.Grant(s.Ctx, 60)
			s.Must(err)
			ctx, cancel := context.WithTimeout(s.Ctx, 20*time.Second)
			session := second(concurrency.NewSession(audit, concurrency.WithContext(ctx)))
			cancel()
			for what, err := range map[string]error{
				"put":       second(audit.Put(s.Ctx, "k", "w")),
				"delete":    second(audit.Delete(s.Ctx, "k")),
				"txn":       second(audit.Txn(s.Ctx).Else(clientv3.OpTxn(nil, nil, []clientv3.Op{clientv3.OpDelete("k")})).Commit()),
				"grant":     second(audit.Grant(s.Ctx, 10)),
				"revoke":    second(audit.Revoke(s.Ctx, lease.ID)),
				"keepalive": second(audit.KeepAliveOnce(s.Ctx, lease.ID)),
				"session":   session,
			} {
				s.wantErr(what, err, rpctypes.ErrPermissionDenied)
			}
			r, err := audit.Txn(s.Ctx).Then(clientv3.OpGet("k")).Commit()
			s.Must(err)
			targettest.Want(s, "a value", string(r.Responses[0].GetResponseRange().Kvs[0].Value), "v")
		}
	})
}

func TestWhoIsNoTenantIsRefused(t *testing.T) {
	at(t, "", func(s *site) {
		for _, name := range []string{"nobody", "nobody.local"} {
			_, err := s.visitor(name).Get(s.Ctx, "k")
			s.wantErr(name, err, rpctypes.ErrPermissionDenied)
			_, err = s.visitor(name).Put(s.Ctx, "k", "")
			s.wantErr(name, err, rpctypes.ErrPermissionDenied)
		}
		nobody := s.client(s.tokens, "", nil)
		_, err := nobody.Get(s.Ctx, "k")
		s.wantErr("without a token", err, rpctypes.ErrPermissionDenied)
		_, err = pb.NewKVClient(targettest.Dial(s, s.tokens)).Range(withToken(s.Ctx, "forged.1"), &pb.RangeRequest{Key: []byte("k")})
		s.wantErr("a forged token", rpctypes.Error(err), rpctypes.ErrInvalidAuthToken)
	})
}

func TestClientGoesOnAtAnotherProxy(t *testing.T) {
	at(t, "", func(s *site) {
		c := s.visitor("ann")
		_, err := c.Put(s.Ctx, "k", "")
		s.Must(err)
		c.SetEndpoints(s.second) // which has not seen its token
		for range 10 {
			targettest.Want(s, "keys", s.keys(c), "k")
		}
	})
}
