package linearizable

import (
	"context"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/loadtest/target"
)

// The only member that a proxy knows is paused, while others take writes. What the proxy then answers from memory is within
// --max-staleness or says how old it is, and both is so to the millisecond.
func TestAnswersSayHowOldTheyAre(t *testing.T) {
	t.Parallel()
	s := newSite(t, place{member: target.Etcd37, members: 3, memberArgs: quick})
	members := s.Cluster.Members
	away := (s.leader(s.Ctx) + 1) % len(members)
	others := []int{(away + 1) % len(members), (away + 2) % len(members)}
	proxy := s.startProxy([]string{members[away].Addr}, fixed...)
	truth := s.follow(members[others[0]].Addr, members[others[1]].Addr)
	next := newRequests(1, 3, true, nil)
	list := plain(Step{Kind: Range, Key: next.Prefix, End: clientv3.GetPrefixRangeEnd(next.Prefix), Read: Read{Serializable: true}})
	s.awaitKept()

	d := s.diary()
	d.begin(s.servers[others[0]].links[0], func() Request { return plain(next.put(s.rng)) })
	for _, on := range proxy.links {
		d.begin(on, func() Request { return list })
	}
	d.await("fresh answers", func() bool { return d.fresh > 50 })
	s.Must(members[away].Pause())
	d.await("stale answers", func() bool { return d.stale > 20 })
	s.Must(members[away].Resume())
	before := d.count()
	d.await("fresh answers after the outage", func() bool { return d.fresh > before+50 })
	d.end()

	last := s.do(s.Ctx, plain(next.put(s.rng)), 0, s.servers[away].links[0])
	s.Must(last.Err)
	known, err := truth.UpTo(s.Ctx, last.Revision)
	s.Must(err)
	for _, v := range known.Check(append(d.ops, last), Promises{MaxStaleness: maxStaleness, Disturbed: never}) {
		t.Error(v)
	}
}

// diary is what clients do who send the same kind of request again and again.
type diary struct {
	*site
	working context.Context
	stop    func() // ends it
	clients sync.WaitGroup
	changed chan struct{} // has room for one

	mu    sync.Mutex // guards all below
	ops   []*Op
	fresh int // reads whose answer did not say that it was old
	stale int // and that said it was much older than is allowed while upstream is there
}

func (s *site) diary() *diary {
	d := &diary{site: s, changed: make(chan struct{}, 1)}
	d.working, d.stop = context.WithCancel(s.Ctx)
	s.Cleanup(d.end)
	return d
}

// begin lets another client begin.
func (d *diary) begin(on *link, next func() Request) {
	d.clients.Go(func() {
		for d.working.Err() == nil {
			ctx, cancel := context.WithTimeout(d.Ctx, 3*time.Second)
			d.note(d.do(ctx, next(), 0, on))
			cancel()
		}
	})
}

func (d *diary) end() {
	d.stop()
	d.clients.Wait()
}

func (d *diary) note(o *Op) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ops = append(d.ops, o)
	switch {
	case o.Response == nil || o.writes():
	case o.Stale < 0:
		d.fresh++
	case o.Stale > 2*maxStaleness:
		d.stale++
	}
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// count is how many fresh answers there were.
func (d *diary) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fresh
}

// await waits until enough returns true, which is called with d.mu held.
func (d *diary) await(what string, enough func() bool) {
	d.Helper()
	for {
		d.mu.Lock()
		done := enough()
		d.mu.Unlock()
		if done {
			return
		}
		select {
		case <-d.changed:
		case <-d.Ctx.Done():
			d.end()
			d.Fatalf("no %s; the last of %d requests was %v", what, len(d.ops), d.ops[len(d.ops)-1])
		}
	}
}

// never is for promises that hold all the time.
func never(time.Duration, time.Duration) bool { return false }

// When upstream is gone, a connection that was told of a revision, by whatever kind of request, is not answered from a
// memory that does not know it; another one is.
func TestReadThatWouldGoBackIsUnavailable(t *testing.T) {
	t.Parallel()
	read := Step{Kind: Range, Key: elsewhere}
	old := Step{Kind: Range, Key: elsewhere, Read: Read{Serializable: true}}
	ways := []Request{
		plain(Step{Kind: Put, Key: elsewhere, Value: "own"}),
		{Kind: Txn, Then: []Step{{Kind: Put, Key: elsewhere, Value: "own"}, read}},
		plain(read), plain(old),
		{Kind: Txn, Then: []Step{read}},
		{Kind: RangeStream, Then: []Step{read}},
		{Kind: RangeStream, Then: []Step{old}},
	}
	for _, member := range []target.Kind{target.Etcd37, target.Core} {
		t.Run(string(member), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, place{member: member, members: 1})
			known := 0
			for _, way := range ways {
				if s.memoryKnows(way) {
					known++
				}
			}
			if known == len(ways) {
				t.Error("memory always knew the newest revision: the test proves nothing")
			}
		})
	}
}

// elsewhere is a key below no prefix that is kept: what happens to it is no event of what is in memory.
const elsewhere = "/elsewhere"

// memoryKnows lets a connection be told of a new revision in some way, and tells whether a read on it is answered all the
// same, when upstream is gone.
func (s *site) memoryKnows(way Request) bool {
	s.Helper()
	m, direct := s.Cluster.Members[0], s.servers[0].links[0]
	list := plain(Step{Kind: Range, Key: cached, End: clientv3.GetPrefixRangeEnd(cached), Read: Read{Serializable: true}})
	send := func(r Request, on *link) *Op {
		ctx, cancel := context.WithTimeout(s.Ctx, 20*time.Second)
		defer cancel()
		return s.do(ctx, r, 0, on)
	}
	s.Must(send(plain(Step{Kind: Put, Key: cached + "a", Value: "kept"}), direct).Err)
	proxy := s.startProxy([]string{m.Addr}, fixed...) // which has not read elsewhere
	s.awaitKept()
	s.Must(send(plain(Step{Kind: Put, Key: elsewhere, Value: "others'"}), direct).Err)
	told := send(way, proxy.links[0])
	s.Must(told.Err)
	s.Must(m.Kill())
	o := send(list, proxy.links[0])
	switch {
	case o.Err != nil && status.Code(o.Err) != codes.Unavailable:
		s.Errorf("not Unavailable: %v", o)
	case o.Err == nil && o.Conn == told.Conn && o.Revision < told.Revision:
		s.Errorf("after\n\t%v\nwas answered\n\t%v", told, o)
	}
	if other := send(list, proxy.links[1]); other.Err != nil || len(other.Results[0].KVs) != 1 {
		s.Errorf("a connection that was told nothing: %v", other)
	}
	s.Must(m.Restart())
	s.Must(s.Cluster.WaitReady(s.Ctx))
	return o.Err == nil && o.Revision >= told.Revision
}
