package e2e

import (
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func txnCases() []testCase {
	return []testCase{
		{"TxnComparesEveryTargetAndResult", txnComparesEveryTargetAndResult},
		{"TxnComparesRanges", txnComparesRanges},
		{"TxnIsOneRevision", txnIsOneRevision},
		{"TxnSeesItsOwnWrites", txnSeesItsOwnWrites},
		{"TxnNests", txnNests},
		{"TxnReadOnlyMakesNoRevision", txnReadOnlyMakesNoRevision},
		{"TxnThatFailsChangesNothing", txnThatFailsChangesNothing},
		{"TxnEmpty", txnEmpty},
	}
}

// holds says whether a txn with these compares succeeds.
func (f *fixture) holds(cmps ...clientv3.Cmp) bool {
	f.Helper()
	r, err := f.client.Txn(f.ctx).If(cmps...).Commit()
	f.must(err)
	return r.Succeeded
}

func txnComparesEveryTargetAndResult(f *fixture) {
	lease, err := f.client.Grant(f.ctx, 1000)
	f.must(err)
	create := f.put("a", "m").Header.Revision
	mod := f.put("a", "m", clientv3.WithLease(lease.ID)).Header.Revision
	k := f.key("a")
	numbers := []struct {
		name  string
		cmp   clientv3.Cmp
		value int64
	}{
		{"create", clientv3.CreateRevision(k), create},
		{"mod", clientv3.ModRevision(k), mod},
		{"version", clientv3.Version(k), 2},
	}
	for _, n := range numbers {
		for delta := int64(-1); delta <= 1; delta++ {
			for result, holds := range map[string]bool{"=": delta == 0, "!=": delta != 0, ">": delta < 0, "<": delta > 0} {
				got := f.holds(clientv3.Compare(n.cmp, result, n.value+delta))
				want(f, fmt.Sprintf("%s %s value%+d", n.name, result, delta), got, holds)
			}
		}
	}
	for delta := int64(-1); delta <= 1; delta++ {
		id := lease.ID + clientv3.LeaseID(delta)
		for result, holds := range map[string]bool{"=": delta == 0, "!=": delta != 0, ">": delta < 0, "<": delta > 0} {
			got := f.holds(clientv3.Compare(clientv3.LeaseValue(k), result, id))
			want(f, fmt.Sprintf("lease %s value%+d", result, delta), got, holds)
		}
	}
	for value, sign := range map[string]int{"l": 1, "m": 0, "n": -1, "": 1, "mm": -1} {
		for result, holds := range map[string]bool{"=": sign == 0, "!=": sign != 0, ">": sign > 0, "<": sign < 0} {
			got := f.holds(clientv3.Compare(clientv3.Value(k), result, value))
			want(f, fmt.Sprintf("value %s %q", result, value), got, holds)
		}
	}
	// A key that is not there has zero numbers, and no value that could be compared.
	none := f.key("none")
	want(f, "create of no key", f.holds(clientv3.Compare(clientv3.CreateRevision(none), "=", 0)), true)
	want(f, "version of no key", f.holds(clientv3.Compare(clientv3.Version(none), "<", 1)), true)
	want(f, "value of no key", f.holds(clientv3.Compare(clientv3.Value(none), "=", "")), false)
	want(f, "value of no key", f.holds(clientv3.Compare(clientv3.Value(none), "!=", "x")), false)
}

func txnComparesRanges(f *fixture) {
	f.put("a", "v")
	f.put("b", "v")
	f.put("c", "w")
	same := clientv3.Compare(clientv3.Value(f.key("a")), "=", "v")
	want(f, "all below c have v", f.holds(same.WithRange(f.key("c"))), true)
	want(f, "all have v", f.holds(clientv3.Compare(clientv3.Value(f.prefix), "=", "v").WithPrefix()), false)
	want(f, "all exist", f.holds(clientv3.Compare(clientv3.Version(f.prefix), ">", 0).WithPrefix()), true)
	empty := clientv3.Compare(clientv3.CreateRevision(f.key("x")), "=", 0).WithRange(f.key("z"))
	want(f, "none in an empty range", f.holds(empty), true)
}

func txnIsOneRevision(f *fixture) {
	f.put("old", "1")
	before := f.revision()
	r, err := f.client.Txn(f.ctx).Then(
		clientv3.OpPut(f.key("a"), "1"),
		clientv3.OpPut(f.key("b"), "2"),
		clientv3.OpDelete(f.key("old"), clientv3.WithPrevKV()),
		clientv3.OpGet(f.prefix, clientv3.WithPrefix()),
	).Commit()
	f.must(err)
	want(f, "revision", r.Header.Revision, before+1)
	want(f, "responses", len(r.Responses), 4)
	f.wantPairs(r.Responses[2].GetResponseDeleteRange().PrevKvs, "old=1")
	f.wantPairs(r.Responses[3].GetResponseRange().Kvs, "a=1 b=2")
	for _, kv := range f.get("", clientv3.WithPrefix()).Kvs {
		f.wantKV(kv, before+1, before+1, 1, 0)
	}
}

func txnSeesItsOwnWrites(f *fixture) {
	r, err := f.client.Txn(f.ctx).Then(
		clientv3.OpGet(f.key("a")),
		clientv3.OpPut(f.key("a"), "1"),
		clientv3.OpGet(f.key("a")),
	).Commit()
	f.must(err)
	f.wantPairs(r.Responses[0].GetResponseRange().Kvs, "")
	f.wantPairs(r.Responses[2].GetResponseRange().Kvs, "a=1")
}

func txnNests(f *fixture) {
	f.put("a", "1")
	inner := func(value, name string) clientv3.Op {
		return clientv3.OpTxn(
			[]clientv3.Cmp{clientv3.Compare(clientv3.Value(f.key("a")), "=", value)},
			[]clientv3.Op{clientv3.OpPut(f.key(name), "then")},
			[]clientv3.Op{clientv3.OpPut(f.key(name), "else"),
				clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut(f.key(name+"deep"), "then")}, nil)},
		)
	}
	r, err := f.client.Txn(f.ctx).If(clientv3.Compare(clientv3.Version(f.key("a")), "=", 1)).
		Then(inner("1", "b"), inner("2", "c"), clientv3.OpPut(f.key("d"), "flat")).Commit()
	f.must(err)
	want(f, "outer", r.Succeeded, true)
	want(f, "first inner", r.Responses[0].GetResponseTxn().GetSucceeded(), true)
	want(f, "second inner", r.Responses[1].GetResponseTxn().GetSucceeded(), false)
	want(f, "deep", r.Responses[1].GetResponseTxn().GetResponses()[1].GetResponseTxn().GetSucceeded(), true)
	f.wantPairs(f.get("", clientv3.WithPrefix()).Kvs, "a=1 b=then c=else cdeep=then d=flat")
}

func txnReadOnlyMakesNoRevision(f *fixture) {
	f.put("a", "1")
	before := f.revision()
	for _, opt := range [][]clientv3.OpOption{nil, {clientv3.WithSerializable()}} {
		r, err := f.client.Txn(f.ctx).If(clientv3.Compare(clientv3.Value(f.key("a")), "=", "1")).
			Then(clientv3.OpGet(f.key("a"), opt...)).Else(clientv3.OpGet(f.key("b"), opt...)).Commit()
		f.must(err)
		want(f, "succeeded", r.Succeeded, true)
		want(f, "revision", r.Header.Revision, before)
		f.wantPairs(r.Responses[0].GetResponseRange().Kvs, "a=1")
	}
	want(f, "revision of the store", f.revision(), before)
}

func txnThatFailsChangesNothing(f *fixture) {
	before := f.revision()
	for text, bad := range map[string]clientv3.Op{
		"OutOfRange: etcdserver: mvcc: required revision is a future revision": clientv3.OpGet(f.key("a"), clientv3.WithRev(1<<40)),
		"NotFound: etcdserver: requested lease not found":                      clientv3.OpPut(f.key("b"), "", clientv3.WithLease(12345)),
		"InvalidArgument: etcdserver: key not found":                           clientv3.OpPut(f.key("b"), "", clientv3.WithIgnoreValue()),
	} {
		_, err := f.client.Txn(f.ctx).Then(clientv3.OpPut(f.key("a"), "1"), bad).Commit()
		f.wantStatus(err, text)
	}
	want(f, "revision", f.revision(), before)
	f.wantPairs(f.get("", clientv3.WithPrefix()).Kvs, "")
}

func txnEmpty(f *fixture) {
	before := f.revision()
	r, err := pb.NewKVClient(f.conn).Txn(f.ctx, &pb.TxnRequest{})
	f.must(err)
	want(f, "succeeded", r.Succeeded, true)
	want(f, "responses", len(r.Responses), 0)
	want(f, "revision", r.Header.Revision, before)
}
