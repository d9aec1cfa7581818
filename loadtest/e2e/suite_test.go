package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// bin is set by TestMain.
var bin *proc.Bin

func TestMain(m *testing.M) { targettest.Main(m, &bin) }

// testCase is a promise about the API. Its name is that of the subtest.
type testCase struct {
	name string
	run  func(*fixture)
}

// A target's revision belongs to one case at a time, so a case may count revisions. Those that mostly wait run
// together before the others, and must not.
func TestClientSuite(t *testing.T) {
	for _, kind := range target.Kinds() {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			tg := targettest.Start(t, bin, kind)
			t.Run("waiting", func(t *testing.T) {
				for _, c := range slices.Concat(leaseWaitingCases(), concurrencyCases()) {
					t.Run(c.name, func(t *testing.T) {
						t.Parallel()
						c.run(newFixture(t, tg))
					})
				}
			})
			for _, c := range slices.Concat(kvCases(), rangeStreamCases(), txnCases(), watchCases(), rawWatchCases(),
				leaseCases(), badInputCases(), maintenanceCases()) {
				t.Run(c.name, func(t *testing.T) { c.run(newFixture(t, tg)) })
			}
		})
	}
}

// caseTimeout bounds what one case waits for.
const caseTimeout = 30 * time.Second

// fixture is what a case works with: a client of its own, and keys that no other case has.
type fixture struct {
	*testing.T
	target *target.Target
	client *clientv3.Client
	conn   *grpc.ClientConn
	ctx    context.Context
	prefix string
}

func newFixture(t *testing.T, tg *target.Target) *fixture {
	if err := tg.Alive(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), caseTimeout)
	t.Cleanup(cancel)
	return &fixture{
		T:      t,
		target: tg,
		client: targettest.Client(t, tg.Endpoint),
		conn:   targettest.Conn(t, tg),
		ctx:    ctx,
		prefix: t.Name()[strings.LastIndexByte(t.Name(), '/')+1:] + "/",
	}
}

// key is a key of this case.
func (f *fixture) key(name string) string { return f.prefix + name }

// must fails the case if err is not nil.
func (f *fixture) must(err error) {
	f.Helper()
	if err != nil {
		f.Fatal(err)
	}
}

func (f *fixture) put(name, value string, opts ...clientv3.OpOption) *clientv3.PutResponse {
	f.Helper()
	r, err := f.client.Put(f.ctx, f.key(name), value, opts...)
	f.must(err)
	return r
}

func (f *fixture) get(name string, opts ...clientv3.OpOption) *clientv3.GetResponse {
	f.Helper()
	r, err := f.client.Get(f.ctx, f.key(name), opts...)
	f.must(err)
	return r
}

func (f *fixture) del(name string, opts ...clientv3.OpOption) *clientv3.DeleteResponse {
	f.Helper()
	r, err := f.client.Delete(f.ctx, f.key(name), opts...)
	f.must(err)
	return r
}

// revision is the store's revision as of now.
func (f *fixture) revision() int64 {
	f.Helper()
	return f.get("revision").Header.Revision
}

// pairs shows kvs as name=value, in their order.
func (f *fixture) pairs(kvs []*mvccpb.KeyValue) string {
	var s []string
	for _, kv := range kvs {
		s = append(s, strings.TrimPrefix(string(kv.Key), f.prefix)+"="+string(kv.Value))
	}
	return strings.Join(s, " ")
}

func (f *fixture) wantPairs(kvs []*mvccpb.KeyValue, want string) {
	f.Helper()
	if got := f.pairs(kvs); got != want {
		f.Errorf("got key-value pairs %q, want %q", got, want)
	}
}

// wantKV compares what a key-value says about its history.
func (f *fixture) wantKV(kv *mvccpb.KeyValue, create, mod, version int64, lease clientv3.LeaseID) {
	f.Helper()
	got := fmt.Sprintf("create %d, mod %d, version %d, lease %d", kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease)
	want := fmt.Sprintf("create %d, mod %d, version %d, lease %d", create, mod, version, int64(lease))
	if got != want {
		f.Errorf("%s: got %s; want %s", kv.Key, got, want)
	}
}

func want[T comparable](f *fixture, what string, got, want T) {
	f.Helper()
	if got != want {
		f.Errorf("%s: got %v, want %v", what, got, want)
	}
}
