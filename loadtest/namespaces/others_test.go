package namespaces

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// Neighbours of one store never see each other, however alike their namespaces are.
func TestNamespacesNeverSeeEachOther(t *testing.T) {
	for _, kind := range []target.Kind{target.Etcd37, target.Core} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := targettest.NewSite(t, bin, kind, targettest.SiteOptions{Timeout: testTimeout()})
			rnd := targettest.Random(s, *seed)
			var all sync.WaitGroup
			for _, prefix := range []string{"/app/", "/app0", "/app.", "app/", "\xff", "/app\xff"} {
				p := targettest.StartProxy(s, bin, s.Cluster.Endpoints(), "--namespace="+prefix)
				n := &neighbour{Site: s, name: fmt.Sprintf("<%x>", prefix), client: targettest.Client(s, p.Addr)}
				seed := rnd.Uint64()
				all.Go(func() { n.live(rand.New(rand.NewPCG(seed, 0))) })
			}
			all.Wait()
		})
	}
}

// neighbour writes its name, and must never read another's. It runs in a goroutine of its own.
type neighbour struct {
	*targettest.Site
	name   string
	client *clientv3.Client
	mine   map[string]bool // the keys that it has
}

func (n *neighbour) live(rnd *rand.Rand) {
	n.mine = map[string]bool{}
	everything := []clientv3.OpOption{clientv3.WithFromKey(), clientv3.WithPrevKV()}
	events := n.client.Watch(n.Ctx, "\x00", everything...)
	keys := []string{"a", "b", "0", "\xff", "/app", "\x00", "p/a"}
	last := int64(0)
	for range *ops {
		key := keys[rnd.IntN(len(keys))]
		switch rnd.IntN(4) {
		case 0:
			r, err := n.client.Put(n.Ctx, key, n.name, clientv3.WithPrevKV())
			if n.failed(err) {
				return
			}
			n.check(r.PrevKv.String(), r.PrevKv != nil)
			n.mine[key], last = true, r.Header.Revision
		case 1:
			r, err := n.client.Delete(n.Ctx, key, clientv3.WithRange(keys[rnd.IntN(len(keys))]), clientv3.WithPrevKV())
			if n.failed(err) {
				return
			}
			for _, kv := range r.PrevKvs {
				n.check(kv.String(), true)
				delete(n.mine, string(kv.Key))
			}
			if r.Deleted > 0 {
				last = r.Header.Revision
			}
		default:
			r, err := n.client.Get(n.Ctx, "\x00", clientv3.WithFromKey())
			if n.failed(err) {
				return
			}
			for _, kv := range r.Kvs {
				n.check(kv.String(), true)
			}
			if len(r.Kvs) != len(n.mine) {
				n.Errorf("%s: %d keys, want %d", n.name, len(r.Kvs), len(n.mine))
			}
		}
	}
	for r := range events {
		if n.failed(r.Err()) {
			return
		}
		for _, e := range r.Events {
			n.check(e.Kv.String(), len(e.Kv.Value) > 0)
			n.check(e.PrevKv.String(), e.PrevKv != nil)
			if e.Kv.ModRevision == last {
				return
			}
		}
	}
	n.Errorf("%s: the watch has ended", n.name)
}

func (n *neighbour) failed(err error) bool {
	if err != nil {
		n.Errorf("%s: %v", n.name, err)
	}
	return err != nil
}

// check looks for whose a pair is.
func (n *neighbour) check(kv string, there bool) {
	if there && !strings.Contains(kv, n.name) {
		n.Errorf("%s was given %s", n.name, kv)
	}
}
