package namespaces

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	etcdnamespace "go.etcd.io/etcd/client/v3/namespace"
	"google.golang.org/protobuf/proto"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// side is one of two stores to which the same is done.
type side struct {
	*site
	clientv3.KV
	clientv3.Watcher
	clientv3.Lease
}

// Whatever a client of a proxy does is answered as by etcd's client with a namespace of its own, while the same is done
// outside too.
func TestProxyDoesWhatEtcdsClientWithANamespaceDoes(t *testing.T) {
	at(t, []target.Kind{target.ProxyEtcd37, target.ProxyCore, target.ProxyProxyEtcd37}, func(s *site) {
		direct := newSite(s.T, target.Etcd37)
		wrapped := side{
			direct, etcdnamespace.NewKV(direct.inside, s.prefix), etcdnamespace.NewWatcher(direct.inside, s.prefix),
			etcdnamespace.NewLease(direct.inside, s.prefix),
		}
		sides := [2]side{wrapped, {s, s.inside, s.inside, s.inside}}
		rnd := targettest.Random(s, *seed)
		events := [2]<-chan string{}
		for i, side := range sides {
			events[i] = side.follow("last")
		}
		for range *ops {
			do := randomOp(rnd, s.prefix)
			seed := rnd.Uint64()
			var got [2]string
			for i, side := range sides {
				got[i] = do(s.Ctx, side, rand.New(rand.NewPCG(seed, 0)))
			}
			if got[0] != got[1] {
				s.Fatalf("etcd's client is answered\n%s\nand a client of the proxy\n%s", got[0], got[1])
			}
		}
		var history [2]string
		for i, side := range sides {
			_, err := side.Put(s.Ctx, "last", "")
			s.Must(err)
			history[i] = <-events[i]
		}
		if history[0] != history[1] {
			s.Errorf("etcd's client has seen\n%s\nand a client of the proxy\n%s", history[0], history[1])
		}
		targettest.Want(s, "keys in the store", s.keys(s.store), direct.keys(direct.store))
	})
}

// follow watches everything, and gives it as text when the last key is put.
func (s side) follow(last string) <-chan string {
	all := make(chan string, 1)
	// From key is the one range without end that namespaces have; a prefix of nothing is given to Watch with another key.
	responses := s.Watch(s.Ctx, "\x00", clientv3.WithFromKey(), clientv3.WithPrevKV(), clientv3.WithRev(1), clientv3.WithFragment())
	go func() {
		var text strings.Builder
		defer func() { all <- text.String() }()
		for r := range responses {
			if r.Err() != nil {
				fmt.Fprintln(&text, r.Err())
				return
			}
			for _, e := range r.Events {
				fmt.Fprintf(&text, "%v %v before %v\n", e.Type, kvText(e.Kv), kvText(e.PrevKv))
				if string(e.Kv.Key) == last {
					return
				}
			}
		}
		fmt.Fprintln(&text, "ended", s.Ctx.Err())
	}()
	return all
}

func kvText(kv *mvccpb.KeyValue) string {
	if kv == nil {
		return "nothing"
	}
	return fmt.Sprintf("%q=%q %d-%d.%d lease %d", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease)
}

// operation does the same to each side, given the same randomness, and returns what the answer says.
type operation func(ctx context.Context, s side, rnd *rand.Rand) string

func randomOp(rnd *rand.Rand, prefix string) operation {
	switch n := rnd.IntN(100); {
	case n < 25:
		return func(ctx context.Context, s side, rnd *rand.Rand) string {
			key, o := randomKey(rnd), []clientv3.OpOption{}
			if rnd.IntN(3) == 0 {
				o = append(o, clientv3.WithPrevKV())
			}
			if rnd.IntN(6) == 0 {
				o = append(o, clientv3.WithLease(clientv3.LeaseID(1+rnd.IntN(3))))
			}
			r, err := s.Put(ctx, key, randomValue(rnd), o...)
			return answer((*pb.PutResponse)(r), err)
		}
	case n < 50:
		return func(ctx context.Context, s side, rnd *rand.Rand) string {
			key, o := randomRange(rnd)
			serializable := rnd.IntN(3) == 0
			if serializable {
				o = append(o, clientv3.WithSerializable())
			}
			r, err := s.Get(ctx, key, append(o, randomView(rnd)...)...)
			if r != nil && serializable {
				r.Header.Revision = 0 // which may be of before the last write outside
			}
			return answer((*pb.RangeResponse)(r), err)
		}
	case n < 60:
		return func(ctx context.Context, s side, rnd *rand.Rand) string {
			key, o := randomRange(rnd)
			r, err := s.Delete(ctx, key, append(o, clientv3.WithPrevKV())...)
			return answer((*pb.DeleteRangeResponse)(r), err)
		}
	case n < 80:
		return func(ctx context.Context, s side, rnd *rand.Rand) string {
			compares, then, otherwise := randomCompares(rnd), randomOps(rnd, 2), randomOps(rnd, 2)
			r, err := s.Txn(ctx).If(compares...).Then(then...).Else(otherwise...).Commit()
			if r != nil && len(then)+len(otherwise) == 0 { // which is serializable too
				r.Header.Revision = 0
			}
			return answer((*pb.TxnResponse)(r), err)
		}
	case n < 90:
		return func(ctx context.Context, s side, rnd *rand.Rand) string {
			return s.lease(ctx, pb.NewLeaseClient(s.inside.ActiveConnection()), rnd)
		}
	case n < 98:
		return func(ctx context.Context, s side, rnd *rand.Rand) string { return s.writeOutside(ctx, prefix, rnd) }
	default:
		return func(ctx context.Context, s side, rnd *rand.Rand) string {
			head, err := s.store.Get(ctx, "revision")
			s.Must(err)
			r, err := s.Compact(ctx, max(1, head.Header.Revision-100-rnd.Int64N(20)))
			return answer((*pb.CompactionResponse)(r), err)
		}
	}
}

// lease does something with one of a few leases, whose ids are the same on both sides.
func (s side) lease(ctx context.Context, leases pb.LeaseClient, rnd *rand.Rand) string {
	id := 1 + rnd.Int64N(3)
	switch rnd.IntN(4) {
	case 0:
		r, err := leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: 1000})
		return answer(r, clientv3.ContextError(ctx, err))
	case 1:
		r, err := s.Revoke(ctx, clientv3.LeaseID(id))
		return answer((*pb.LeaseRevokeResponse)(r), err)
	default:
		r, err := s.TimeToLive(ctx, clientv3.LeaseID(id), clientv3.WithAttachedKeys())
		if err != nil {
			return err.Error()
		}
		slices.SortFunc(r.Keys, slices.Compare)
		return fmt.Sprintf("%d granted %d keys %q", r.ID, r.GrantedTTL, r.Keys)
	}
}

// writeOutside writes where no client of the proxy can see it.
func (s side) writeOutside(ctx context.Context, prefix string, rnd *rand.Rand) string {
	beside := []string{"", "a", "\xff", prefix[:len(prefix)-1], prefix[:len(prefix)-1] + "0", "/app", "/app.", "/app0", "/zzz"}
	var o []clientv3.OpOption
	if rnd.IntN(4) == 0 {
		o = append(o, clientv3.WithLease(clientv3.LeaseID(1+rnd.IntN(3))))
	}
	r, err := s.store.Put(ctx, beside[1+rnd.IntN(len(beside)-1)], "outside", o...)
	return answer((*pb.PutResponse)(r), err)
}

// answer is what an answer says, but for who said it.
func answer[M any, P interface {
	*M
	proto.Message
	GetHeader() *pb.ResponseHeader
}](m P, err error) string {
	if err != nil {
		return err.Error()
	}
	if h := m.GetHeader(); h != nil {
		h.ClusterId, h.MemberId, h.RaftTerm = 0, 0, 0
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	return fmt.Sprintf("%T %q %v", m, b, err)
}

func randomKey(rnd *rand.Rand) string {
	return []string{"a", "b", "b/1", "b/2", "\x00", "\xff", "/app/a"}[rnd.IntN(7)]
}

func randomValue(rnd *rand.Rand) string { return strings.Repeat("v", rnd.IntN(40)) }

// randomRange is a key, and what range begins with it.
func randomRange(rnd *rand.Rand) (key string, o []clientv3.OpOption) {
	switch rnd.IntN(6) {
	case 0:
		return "", []clientv3.OpOption{clientv3.WithPrefix()}
	case 1:
		return randomKey(rnd), []clientv3.OpOption{clientv3.WithFromKey()}
	case 2:
		return randomKey(rnd), []clientv3.OpOption{clientv3.WithRange(randomKey(rnd))}
	case 3:
		return "b/", []clientv3.OpOption{clientv3.WithPrefix()}
	case 4:
		if rnd.IntN(4) == 0 {
			return "", nil // an error
		}
	}
	return randomKey(rnd), nil
}

// randomView is how what is in a range is to be shown.
func randomView(rnd *rand.Rand) (o []clientv3.OpOption) {
	switch rnd.IntN(8) {
	case 0:
		o = append(o, clientv3.WithLimit(rnd.Int64N(3)))
	case 1:
		o = append(o, clientv3.WithSort(clientv3.SortTarget(rnd.IntN(5)), clientv3.SortOrder(rnd.IntN(3))))
	case 2:
		o = append(o, clientv3.WithKeysOnly())
	case 3:
		o = append(o, clientv3.WithCountOnly())
	case 4:
		o = append(o, clientv3.WithRev(rnd.Int64N(300)))
	case 5:
		o = append(o, clientv3.WithMinModRev(rnd.Int64N(300)))
	}
	return o
}

func randomCompares(rnd *rand.Rand) (c []clientv3.Cmp) {
	for range rnd.IntN(3) {
		key := randomKey(rnd)
		one := []clientv3.Cmp{
			clientv3.Compare(clientv3.Value(key), "=", randomValue(rnd)),
			clientv3.Compare(clientv3.CreateRevision(key), ">", 0),
			clientv3.Compare(clientv3.Version(key), "<", 4),
		}[rnd.IntN(3)]
		switch rnd.IntN(4) {
		case 0:
			one = one.WithRange(randomKey(rnd))
		case 1:
			one = one.WithPrefix()
		}
		c = append(c, one)
	}
	return c
}

func randomOps(rnd *rand.Rand, depth int) (all []clientv3.Op) {
	put := rnd.IntN(2) == 0 // reads and one put, or one deletion: a key may be written only once
	for range rnd.IntN(3) {
		key, o := randomRange(rnd)
		if key == "" && len(o) == 0 {
			key = "a" // etcd's client checks no keys of a transaction
		}
		switch {
		case depth > 0 && rnd.IntN(4) == 0:
			all = append(all, clientv3.OpTxn(randomCompares(rnd), randomOps(rnd, depth-1), randomOps(rnd, depth-1)))
		case rnd.IntN(2) == 0:
			all = append(all, clientv3.OpGet(key, append(o, randomView(rnd)...)...))
		case put:
			all, put = append(all, clientv3.OpPut(randomKey(rnd), randomValue(rnd))), false
		default:
			all = append(all, clientv3.OpDelete(key, append(o, clientv3.WithPrevKV())...))
		}
	}
	return all
}
