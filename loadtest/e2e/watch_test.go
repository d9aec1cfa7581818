package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

func watchCases() []testCase {
	return []testCase{
		{"WatchSeesEveryChangeInOrder", watchSeesEveryChangeInOrder},
		{"WatchOfARangeSeesOnlyIt", watchOfARangeSeesOnlyIt},
		{"WatchFromThePast", watchFromThePast},
		{"WatchFromTheFuture", watchFromTheFuture},
		{"WatchPrevKV", watchPrevKV},
		{"WatchFilters", watchFilters},
		{"WatchGivesATxnWhole", watchGivesATxnWhole},
		{"WatchCompactedStartIsCancelled", watchCompactedStartIsCancelled},
		{"WatchCreatedNotify", watchCreatedNotify},
		{"WatchRequestProgress", watchRequestProgress},
		{"WatchManyOnOneStream", watchManyOnOneStream},
		{"WatchSeesLeaseRevoke", watchSeesLeaseRevoke},
	}
}

// watch opens a watch and returns when the server has it.
func (f *fixture) watch(name string, opts ...clientv3.OpOption) clientv3.WatchChan {
	f.Helper()
	// The watches of a client share a gRPC stream; each case has a client of its own.
	ch := f.client.Watch(f.ctx, f.key(name), append(opts, clientv3.WithCreatedNotify())...)
	if r := f.next(ch); !r.Created {
		f.Fatalf("first answer of a watch is not created: %+v", r)
	}
	return ch
}

// next is the next response of a watch.
func (f *fixture) next(ch clientv3.WatchChan) clientv3.WatchResponse {
	f.Helper()
	select {
	case r, ok := <-ch:
		if !ok {
			f.Fatal("watch channel closed")
		}
		return r
	case <-f.ctx.Done():
		f.Fatal("no answer from the watch")
		panic("unreachable")
	}
}

// events collects n events of a watch, as "PUT a=1" and "DELETE a".
func (f *fixture) events(ch clientv3.WatchChan, n int) []string {
	f.Helper()
	var got []string
	for len(got) < n {
		r := f.next(ch)
		f.must(r.Err())
		for _, ev := range r.Events {
			got = append(got, f.event(ev))
			if ev.Kv.ModRevision > r.Header.Revision {
				f.Errorf("event of revision %d in a response of revision %d", ev.Kv.ModRevision, r.Header.Revision)
			}
		}
	}
	return got
}

func (f *fixture) event(ev *mvccpb.Event) string {
	name := strings.TrimPrefix(string(ev.Kv.Key), f.prefix)
	s := "DELETE " + name
	if ev.Type == mvccpb.Event_PUT {
		s = "PUT " + name + "=" + string(ev.Kv.Value)
	}
	if ev.PrevKv != nil {
		s += " was " + string(ev.PrevKv.Value)
	}
	return s
}

func (f *fixture) wantEvents(ch clientv3.WatchChan, want ...string) {
	f.Helper()
	if got := f.events(ch, len(want)); strings.Join(got, ", ") != strings.Join(want, ", ") {
		f.Errorf("got events %q, want %q", got, want)
	}
}

func watchSeesEveryChangeInOrder(f *fixture) {
	ch := f.watch("a")
	var wanted []string
	first := f.revision() + 1
	for i := range 50 {
		f.put("a", fmt.Sprint(i))
		wanted = append(wanted, fmt.Sprintf("PUT a=%d", i))
	}
	f.del("a")
	f.put("a", "again")
	f.wantEvents(ch, append(wanted, "DELETE a", "PUT a=again")...)
	f.wantPairs(f.get("a", clientv3.WithRev(first)).Kvs, "a=0")
}

func watchOfARangeSeesOnlyIt(f *fixture) {
	byRange := f.watch("b", clientv3.WithRange(f.key("d")))
	byPrefix := f.watch("b", clientv3.WithPrefix())
	fromKey := f.watch("c", clientv3.WithFromKey())
	for _, name := range []string{"a", "b", "bb", "c", "d"} {
		f.put(name, "1")
	}
	f.del("", clientv3.WithPrefix())
	f.wantEvents(byRange, "PUT b=1", "PUT bb=1", "PUT c=1", "DELETE b", "DELETE bb", "DELETE c")
	f.wantEvents(byPrefix, "PUT b=1", "PUT bb=1", "DELETE b", "DELETE bb")
	f.wantEvents(fromKey, "PUT c=1", "PUT d=1", "DELETE c", "DELETE d")
}

func watchFromThePast(f *fixture) {
	first := f.putLetters("abc")
	f.del("b")
	all := clientv3.WithPrefix()
	f.wantEvents(f.watch("", all, clientv3.WithRev(first)), "PUT a=1", "PUT b=2", "PUT c=3", "DELETE b")
	last := f.watch("", all, clientv3.WithRev(first+3))
	f.wantEvents(last, "DELETE b")
	f.put("d", "4")
	f.wantEvents(last, "PUT d=4")
	f.wantEvents(f.watch("b", clientv3.WithRev(first)), "PUT b=2", "DELETE b")
}

func watchFromTheFuture(f *fixture) {
	ch := f.watch("", clientv3.WithPrefix(), clientv3.WithRev(f.revision()+3))
	f.putLetters("abcd")
	f.wantEvents(ch, "PUT c=3", "PUT d=4")
}

func watchPrevKV(f *fixture) {
	first := f.put("a", "1").Header.Revision
	prev := []clientv3.OpOption{clientv3.WithPrevKV(), clientv3.WithPrefix()}
	live := f.watch("", prev...)
	f.put("a", "2")
	f.del("a")
	f.del("a")
	f.put("a", "3")
	f.wantEvents(live, "PUT a=2 was 1", "DELETE a was 2", "PUT a=3")
	past := f.watch("", append(prev, clientv3.WithRev(first))...)
	f.wantEvents(past, "PUT a=1", "PUT a=2 was 1", "DELETE a was 2", "PUT a=3")
	f.wantEvents(f.watch("a", clientv3.WithRev(first+1)), "PUT a=2", "DELETE a", "PUT a=3")
}

func watchFilters(f *fixture) {
	first := f.revision() + 1
	noPut := f.watch("", clientv3.WithPrefix(), clientv3.WithFilterPut())
	noDelete := f.watch("", clientv3.WithPrefix(), clientv3.WithFilterDelete())
	f.put("a", "1")
	f.del("a")
	f.put("b", "2")
	f.del("b")
	f.wantEvents(noPut, "DELETE a", "DELETE b")
	f.wantEvents(noDelete, "PUT a=1", "PUT b=2")
	f.wantEvents(f.watch("", clientv3.WithPrefix(), clientv3.WithFilterPut(), clientv3.WithRev(first)), "DELETE a", "DELETE b")
}

func watchGivesATxnWhole(f *fixture) {
	f.put("old", "")
	ch := f.watch("", clientv3.WithPrefix())
	first, err := f.client.Txn(f.ctx).Then(clientv3.OpPut(f.key("b"), "1"), clientv3.OpPut(f.key("a"), "2"),
		clientv3.OpDelete(f.key("old"))).Commit()
	f.must(err)
	r := f.next(ch)
	if len(r.Events) != 3 {
		f.Fatalf("a txn of three changes came as %d events", len(r.Events))
	}
	want(f, "header revision", r.Header.Revision, first.Header.Revision)
	for i, wanted := range []string{"PUT b=1", "PUT a=2", "DELETE old"} {
		want(f, "event", f.event(r.Events[i]), wanted)
		want(f, "revision", r.Events[i].Kv.ModRevision, first.Header.Revision)
	}
}

func watchCompactedStartIsCancelled(f *fixture) {
	first := f.putLetters("abcd")
	_, err := f.client.Compact(f.ctx, first+2)
	f.must(err)
	ch := f.client.Watch(f.ctx, f.key("a"), clientv3.WithRev(first))
	r := f.next(ch)
	want(f, "canceled", r.Canceled, true)
	want(f, "compact revision", r.CompactRevision, first+2)
	if !errors.Is(r.Err(), rpctypes.ErrCompacted) {
		f.Errorf("error: %v", r.Err())
	}
	if _, open := <-ch; open {
		f.Error("channel of a cancelled watch is open")
	}
	// The compact revision itself is still there.
	f.wantEvents(f.watch("", clientv3.WithPrefix(), clientv3.WithRev(first+2)), "PUT c=3", "PUT d=4")
}

func watchCreatedNotify(f *fixture) {
	rev := f.revision()
	r := f.next(f.client.Watch(f.ctx, f.key("a"), clientv3.WithCreatedNotify()))
	want(f, "created", r.Created, true)
	want(f, "revision", r.Header.Revision, rev)
	want(f, "events", len(r.Events), 0)
}

func watchRequestProgress(f *fixture) {
	// Over one stream: what is progress for one watch is for all.
	a, b := f.watch("a"), f.watch("b")
	f.put("a", "1")
	rev := f.put("elsewhere", "1").Header.Revision
	f.must(f.client.RequestProgress(f.ctx))
	f.wantEvents(a, "PUT a=1")
	for _, ch := range []clientv3.WatchChan{a, b} {
		r := f.next(ch)
		want(f, "is progress", r.IsProgressNotify(), true)
		want(f, "revision", r.Header.Revision, rev)
	}
}

func watchManyOnOneStream(f *fixture) {
	const n = 200
	chans := make([]clientv3.WatchChan, n)
	for i := range chans {
		chans[i] = f.client.Watch(f.ctx, f.key(fmt.Sprint(i%10)), clientv3.WithCreatedNotify())
	}
	for _, ch := range chans {
		want(f, "created", f.next(ch).Created, true)
	}
	for i := range 10 {
		f.put(fmt.Sprint(i), "1")
	}
	for i, ch := range chans {
		f.wantEvents(ch, fmt.Sprintf("PUT %d=1", i%10))
	}
	// One that ends takes no other with it.
	ctx, cancel := context.WithCancel(f.ctx)
	gone := f.client.Watch(ctx, f.key("0"), clientv3.WithCreatedNotify())
	want(f, "created", f.next(gone).Created, true)
	cancel()
	for range gone { // until it is closed
	}
	f.put("0", "2")
	f.wantEvents(chans[0], "PUT 0=2")
}

func watchSeesLeaseRevoke(f *fixture) {
	lease, err := f.client.Grant(f.ctx, 1000)
	f.must(err)
	f.put("b", "1", clientv3.WithLease(lease.ID))
	f.put("a", "1", clientv3.WithLease(lease.ID))
	ch := f.watch("", clientv3.WithPrefix())
	before := f.revision()
	_, err = f.client.Revoke(f.ctx, lease.ID)
	f.must(err)
	r := f.next(ch)
	want(f, "all in one response", len(r.Events), 2)
	want(f, "in one revision", r.Header.Revision, before+1)
	// etcd deletes the keys of a lease in the order of their names.
	want(f, "first", f.event(r.Events[0]), "DELETE a")
	want(f, "second", f.event(r.Events[1]), "DELETE b")
}
