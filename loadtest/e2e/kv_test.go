package e2e

import (
	"errors"
	"fmt"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func kvCases() []testCase {
	return []testCase{
		{"PutMakesOneRevision", putMakesOneRevision},
		{"PutReturnsPreviousPair", putReturnsPreviousPair},
		{"PutIgnoreValueKeepsValue", putIgnoreValueKeepsValue},
		{"PutIgnoreLeaseKeepsLease", putIgnoreLeaseKeepsLease},
		{"PutKeepsAnyBytes", putKeepsAnyBytes},
		{"RangeBounds", rangeBounds},
		{"RangeFromKeyReachesTheEnd", rangeFromKeyReachesTheEnd},
		{"RangeLimitSaysMoreAndCountsAll", rangeLimitSaysMoreAndCountsAll},
		{"RangeSortsByEveryTarget", rangeSortsByEveryTarget},
		{"RangeCountOnlyAndKeysOnly", rangeCountOnlyAndKeysOnly},
		{"RangeFiltersByRevision", rangeFiltersByRevision},
		{"RangeAtARevisionIsThePast", rangeAtARevisionIsThePast},
		{"RangeSerializable", rangeSerializable},
		{"DeleteRangeCountsAndReturnsPairs", deleteRangeCountsAndReturnsPairs},
		{"DeleteOfNothingMakesNoRevision", deleteOfNothingMakesNoRevision},
		{"DeletedKeyStartsAgain", deletedKeyStartsAgain},
		{"CompactForgetsThePast", compactForgetsThePast},
		{"LargeValuesAndLargeLists", largeValuesAndLargeLists},
	}
}

func putMakesOneRevision(f *fixture) {
	before := f.revision()
	first := f.put("a", "1").Header.Revision
	want(f, "revision of first put", first, before+1)
	second := f.put("a", "2").Header.Revision
	want(f, "revision of second put", second, before+2)
	r := f.get("a")
	want(f, "revision of get", r.Header.Revision, second)
	f.wantPairs(r.Kvs, "a=2")
	f.wantKV(r.Kvs[0], first, second, 2, 0)
}

func putReturnsPreviousPair(f *fixture) {
	if prev := f.put("a", "1", clientv3.WithPrevKV()).PrevKv; prev != nil {
		f.Errorf("first put returned a previous pair: %v", prev)
	}
	if prev := f.put("a", "2").PrevKv; prev != nil {
		f.Errorf("put returned a previous pair unasked: %v", prev)
	}
	prev := f.put("a", "3", clientv3.WithPrevKV()).PrevKv
	want(f, "previous value", string(prev.GetValue()), "2")
	want(f, "previous version", prev.GetVersion(), 2)
}

func putIgnoreValueKeepsValue(f *fixture) {
	f.put("a", "kept")
	f.put("a", "", clientv3.WithIgnoreValue())
	r := f.get("a")
	f.wantPairs(r.Kvs, "a=kept")
	want(f, "version", r.Kvs[0].Version, 2)
}

func putIgnoreLeaseKeepsLease(f *fixture) {
	lease, err := f.client.Grant(f.ctx, 1000)
	f.must(err)
	f.put("a", "1", clientv3.WithLease(lease.ID))
	f.put("a", "2", clientv3.WithIgnoreLease())
	want(f, "lease kept", f.get("a").Kvs[0].Lease, int64(lease.ID))
	f.put("a", "3")
	want(f, "lease after a put without", f.get("a").Kvs[0].Lease, 0)
}

func putKeepsAnyBytes(f *fixture) {
	var all []byte
	for b := range 256 {
		all = append(all, byte(b))
	}
	_, err := f.client.Put(f.ctx, f.prefix+string(all), string(all))
	f.must(err)
	f.put("empty", "")
	r, err := f.client.Get(f.ctx, f.prefix+string(all))
	f.must(err)
	if len(r.Kvs) != 1 || string(r.Kvs[0].Value) != string(all) || string(r.Kvs[0].Key) != f.prefix+string(all) {
		f.Errorf("bytes changed: %v", r.Kvs)
	}
	f.wantPairs(f.get("empty").Kvs, "empty=")
}

// putLetters puts a=1 b=2 ... in one revision each and returns the first of these revisions.
func (f *fixture) putLetters(letters string) int64 {
	f.Helper()
	var first int64
	for i, l := range letters {
		if rev := f.put(string(l), fmt.Sprint(i+1)).Header.Revision; i == 0 {
			first = rev
		}
	}
	return first
}

func rangeBounds(f *fixture) {
	f.putLetters("abcd")
	f.wantPairs(f.get("b").Kvs, "b=2")
	f.wantPairs(f.get("x").Kvs, "")
	f.wantPairs(f.get("b", clientv3.WithRange(f.key("d"))).Kvs, "b=2 c=3")
	f.wantPairs(f.get("", clientv3.WithPrefix()).Kvs, "a=1 b=2 c=3 d=4")
	f.wantPairs(f.get("bb", clientv3.WithRange(f.key("z"))).Kvs, "c=3 d=4")
	f.wantPairs(f.get("c", clientv3.WithRange(f.key("b"))).Kvs, "")
	f.wantPairs(f.get("c", clientv3.WithRange(f.key("c"))).Kvs, "")
}

func rangeFromKeyReachesTheEnd(f *fixture) {
	f.prefix = "\xff\xff" + f.prefix // behind the keys of all others
	f.putLetters("abc")
	f.wantPairs(f.get("b", clientv3.WithFromKey()).Kvs, "b=2 c=3")
	r, err := f.client.Get(f.ctx, "\x00", clientv3.WithFromKey(), clientv3.WithCountOnly())
	f.must(err)
	if r.Count < 3 {
		f.Errorf("the whole store has %d keys, want at least 3", r.Count)
	}
	want(f, "deleted from key on", f.del("b", clientv3.WithFromKey()).Deleted, 2)
}

func rangeLimitSaysMoreAndCountsAll(f *fixture) {
	f.putLetters("abcd")
	for _, c := range []struct {
		limit int64
		pairs string
		more  bool
	}{{1, "a=1", true}, {3, "a=1 b=2 c=3", true}, {4, "a=1 b=2 c=3 d=4", false}, {100, "a=1 b=2 c=3 d=4", false}} {
		r := f.get("", clientv3.WithPrefix(), clientv3.WithLimit(c.limit))
		f.wantPairs(r.Kvs, c.pairs)
		want(f, "more", r.More, c.more)
		want(f, "count", r.Count, 4)
	}
}

func rangeSortsByEveryTarget(f *fixture) {
	f.put("b", "y")
	f.put("a", "z")
	f.put("c", "x")
	f.put("b", "y") // b: created first, changed last, highest version
	for _, c := range []struct {
		target clientv3.SortTarget
		asc    string
	}{
		{clientv3.SortByKey, "a b c"},
		{clientv3.SortByCreateRevision, "b a c"},
		{clientv3.SortByModRevision, "a c b"},
		{clientv3.SortByValue, "c b a"},
	} {
		names := strings.Fields(c.asc)
		for _, order := range []clientv3.SortOrder{clientv3.SortAscend, clientv3.SortDescend} {
			r := f.get("", clientv3.WithPrefix(), clientv3.WithSort(c.target, order), clientv3.WithKeysOnly())
			f.wantPairs(r.Kvs, strings.Join(names, "= ")+"=")
			names[0], names[2] = names[2], names[0]
		}
	}
	r := f.get("", clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByVersion, clientv3.SortDescend), clientv3.WithLimit(1))
	f.wantPairs(r.Kvs, "b=y")
	want(f, "more", r.More, true)
	f.wantPairs(f.get("", clientv3.WithLastRev()...).Kvs, "b=y")
	f.wantPairs(f.get("", clientv3.WithFirstCreate()...).Kvs, "b=y")
}

func rangeCountOnlyAndKeysOnly(f *fixture) {
	f.putLetters("abc")
	r := f.get("", clientv3.WithPrefix(), clientv3.WithCountOnly())
	want(f, "count", r.Count, 3)
	want(f, "pairs of a count", len(r.Kvs), 0)
	r = f.get("", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	f.wantPairs(r.Kvs, "a= b= c=")
	if r.Kvs[0].ModRevision == 0 {
		f.Error("keys_only lost the revisions")
	}
}

func rangeFiltersByRevision(f *fixture) {
	first := f.putLetters("abcd")
	f.put("a", "5") // created at first, changed at first+4
	all := clientv3.WithPrefix()
	f.wantPairs(f.get("", all, clientv3.WithMinModRev(first+2)).Kvs, "a=5 c=3 d=4")
	f.wantPairs(f.get("", all, clientv3.WithMaxModRev(first+2)).Kvs, "b=2 c=3")
	f.wantPairs(f.get("", all, clientv3.WithMinCreateRev(first+2)).Kvs, "c=3 d=4")
	f.wantPairs(f.get("", all, clientv3.WithMaxCreateRev(first+1)).Kvs, "a=5 b=2")
	r := f.get("", all, clientv3.WithMinModRev(first+1), clientv3.WithMaxCreateRev(first+2), clientv3.WithLimit(2))
	f.wantPairs(r.Kvs, "a=5 b=2")
	want(f, "more", r.More, true)
	want(f, "count is that of the unfiltered range", r.Count, 4)
}

func rangeAtARevisionIsThePast(f *fixture) {
	first := f.putLetters("ab")
	f.put("a", "new")
	f.del("b")
	head := f.revision()
	for rev, pairs := range map[int64]string{first: "a=1", first + 1: "a=1 b=2", first + 2: "a=new b=2", head: "a=new"} {
		r := f.get("", clientv3.WithPrefix(), clientv3.WithRev(rev))
		f.wantPairs(r.Kvs, pairs)
		want(f, "header revision", r.Header.Revision, head)
	}
}

func rangeSerializable(f *fixture) {
	rev := f.put("a", "1").Header.Revision
	r := f.get("a", clientv3.WithSerializable())
	// The same client wrote, so it may not be shown anything older.
	f.wantPairs(r.Kvs, "a=1")
	want(f, "header revision", r.Header.Revision, rev)
}

func deleteRangeCountsAndReturnsPairs(f *fixture) {
	f.putLetters("abcd")
	before := f.revision()
	r := f.del("a", clientv3.WithRange(f.key("c")), clientv3.WithPrevKV())
	want(f, "deleted", r.Deleted, 2)
	f.wantPairs(r.PrevKvs, "a=1 b=2")
	want(f, "both in one revision", r.Header.Revision, before+1)
	f.wantPairs(f.get("", clientv3.WithPrefix()).Kvs, "c=3 d=4")
	r = f.del("", clientv3.WithPrefix())
	want(f, "deleted", r.Deleted, 2)
	want(f, "pairs unasked", len(r.PrevKvs), 0)
}

func deleteOfNothingMakesNoRevision(f *fixture) {
	before := f.revision()
	r := f.del("nothing")
	want(f, "deleted", r.Deleted, 0)
	want(f, "revision", r.Header.Revision, before)
	want(f, "revision of the store", f.revision(), before)
}

func deletedKeyStartsAgain(f *fixture) {
	f.put("a", "1")
	f.del("a")
	rev := f.put("a", "2").Header.Revision
	f.wantKV(f.get("a").Kvs[0], rev, rev, 1, 0)
}

func compactForgetsThePast(f *fixture) {
	first := f.putLetters("abc")
	f.put("a", "new")
	r, err := f.client.Compact(f.ctx, first+1, clientv3.WithCompactPhysical())
	f.must(err)
	want(f, "header revision", r.Header.Revision, first+3)
	f.wantPairs(f.get("", clientv3.WithPrefix(), clientv3.WithRev(first+1)).Kvs, "a=1 b=2")
	f.wantPairs(f.get("", clientv3.WithPrefix(), clientv3.WithRev(first+2)).Kvs, "a=1 b=2 c=3")
	_, err = f.client.Get(f.ctx, f.key("a"), clientv3.WithRev(first))
	if !errors.Is(err, rpctypes.ErrCompacted) {
		f.Errorf("read before the compact revision: %v", err)
	}
	for _, rev := range []int64{first, first + 1} {
		if _, err := f.client.Compact(f.ctx, rev); !errors.Is(err, rpctypes.ErrCompacted) {
			f.Errorf("compact of a compacted revision: %v", err)
		}
	}
	if _, err := f.client.Compact(f.ctx, first+1000); !errors.Is(err, rpctypes.ErrFutureRev) {
		f.Errorf("compact of a future revision: %v", err)
	}
	// Not physical: the promise is the same.
	_, err = f.client.Compact(f.ctx, first+2)
	f.must(err)
	_, err = f.client.Get(f.ctx, f.key("a"), clientv3.WithRev(first+1))
	if !errors.Is(err, rpctypes.ErrCompacted) {
		f.Errorf("read before the second compact revision: %v", err)
	}
}

func largeValuesAndLargeLists(f *fixture) {
	big := strings.Repeat("x", 1<<20)
	for i := range 6 {
		f.put(fmt.Sprint(i), big)
	}
	// 6 MiB: more than gRPC takes by default, so servers must send it and clients of etcd's library take it.
	r := f.get("", clientv3.WithPrefix())
	want(f, "pairs", len(r.Kvs), 6)
	for _, kv := range r.Kvs {
		if string(kv.Value) != big {
			f.Errorf("value of %s changed", kv.Key)
		}
	}
	var ops []clientv3.Op
	for i := range 128 {
		ops = append(ops, clientv3.OpPut(f.key(fmt.Sprintf("small/%04d", i)), fmt.Sprint(i)))
	}
	_, err := f.client.Txn(f.ctx).Then(ops...).Commit()
	f.must(err)
	want(f, "count", f.get("small/", clientv3.WithPrefix()).Count, 128)
	f.del("", clientv3.WithPrefix())
}

func rangeStreamCases() []testCase {
	return []testCase{
		{"RangeStreamIsTheRange", rangeStreamIsTheRange},
		{"RangeStreamRefusesSorts", rangeStreamRefusesSorts},
	}
}

// hasRangeStream says whether the target has the RPC. Older servers must say that they have not.
func (f *fixture) hasRangeStream() bool {
	if f.target.Kind.API() >= 7 {
		return true
	}
	s, err := pb.NewKVClient(f.conn).RangeStream(f.ctx, &pb.RangeRequest{Key: []byte("a")})
	f.must(err)
	_, err = s.Recv()
	f.wantStatus(err, "Unimplemented: unknown method RangeStream for service etcdserverpb.KV")
	return false
}

func rangeStreamIsTheRange(f *fixture) {
	if !f.hasRangeStream() {
		return
	}
	var ops []clientv3.Op
	for i := range 100 {
		ops = append(ops, clientv3.OpPut(f.key(fmt.Sprintf("%04d", i)), strings.Repeat("v", 100)))
	}
	_, err := f.client.Txn(f.ctx).Then(ops...).Commit()
	f.must(err)
	rev := f.del("0050").Header.Revision
	for _, opts := range [][]clientv3.OpOption{
		{clientv3.WithPrefix()},
		{clientv3.WithPrefix(), clientv3.WithLimit(7)},
		{clientv3.WithPrefix(), clientv3.WithLimit(55)},
		{clientv3.WithPrefix(), clientv3.WithRev(rev - 1)},
		{clientv3.WithPrefix(), clientv3.WithKeysOnly()},
		{clientv3.WithPrefix(), clientv3.WithCountOnly()},
		{clientv3.WithPrefix(), clientv3.WithSerializable()},
	} {
		ch, err := f.client.GetStream(f.ctx, f.key(""), opts...)
		f.must(err)
		got, err := clientv3.GetStreamToGetResponse(ch)
		f.must(err)
		direct := f.get("", opts...)
		f.wantPairs(got.Kvs, f.pairs(direct.Kvs))
		want(f, "more", got.More, direct.More)
		want(f, "count", got.Count, direct.Count)
		want(f, "header revision", got.Header.GetRevision(), direct.Header.Revision)
	}
}

func rangeStreamRefusesSorts(f *fixture) {
	if !f.hasRangeStream() {
		return
	}
	for want, r := range map[string]*pb.RangeRequest{
		"Unimplemented: RangeStream does not support custom sort orders": {Key: []byte("a"), SortTarget: pb.RangeRequest_MOD,
			SortOrder: pb.RangeRequest_DESCEND},
		"Unimplemented: RangeStream does not support revision filters":         {Key: []byte("a"), MinModRevision: 1},
		"InvalidArgument: etcdserver: key is not provided":                     {},
		"OutOfRange: etcdserver: mvcc: required revision is a future revision": {Key: []byte("a"), Revision: 1 << 40},
		"InvalidArgument: etcdserver: invalid sort option":                     {Key: []byte("a"), SortTarget: 99},
	} {
		s, err := pb.NewKVClient(f.conn).RangeStream(f.ctx, r)
		f.must(err)
		_, err = s.Recv()
		f.wantStatus(err, want)
	}
}
