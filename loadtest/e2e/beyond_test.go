package e2e

import (
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// Where etcd 3.7 breaks, weir must not: what these cases do panics an etcd or loses its data, so they are not in the
// suite, and the differential test leaves them out.
func TestWeirOutlivesWhatEtcdDoesNot(t *testing.T) {
	for _, kind := range []target.Kind{target.Core, target.ProxyCore} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			tg := targettest.Start(t, bin, kind)
			for _, c := range []testCase{
				{"TxnDeletesFromAKeyAndPutsIgnoringValue", txnDeletesFromAKeyAndPutsIgnoringValue},
				{"CompactKeepsAPutBesideADelete", compactKeepsAPutBesideADelete},
			} {
				t.Run(c.name, func(t *testing.T) { c.run(newFixture(t, tg)) })
			}
		})
	}
}

// etcd panics when it applies this, and again at each restart.
func txnDeletesFromAKeyAndPutsIgnoringValue(f *fixture) {
	f.put("a", "1")
	before := f.revision()
	r, err := f.client.Txn(f.ctx).Then(
		clientv3.OpDelete(f.key("a"), clientv3.WithFromKey()),
		clientv3.OpPut(f.key("a"), "", clientv3.WithIgnoreValue()),
	).Commit()
	// Either answer is sound, if the store is as it says.
	if err != nil {
		want(f, "revision after a refusal", f.revision(), before)
		f.wantPairs(f.get("a").Kvs, "a=1")
		return
	}
	want(f, "revision", r.Header.Revision, before+1)
	want(f, "create revision", f.get("a").Kvs[0].CreateRevision, before+1)
}

// etcd deletes the value of the live key when it compacts at this revision, and ends at the next read of it.
func compactKeepsAPutBesideADelete(f *fixture) {
	f.put("a", "1")
	r, err := f.client.Txn(f.ctx).Then(
		clientv3.OpDelete(f.key("a"), clientv3.WithFromKey()),
		clientv3.OpPut(f.key("a"), "2"),
	).Commit()
	f.must(err)
	_, err = f.client.Compact(f.ctx, r.Header.Revision, clientv3.WithCompactPhysical())
	f.must(err)
	f.wantPairs(f.get("a").Kvs, "a=2")
}
