package linearizable

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const simulations = 300

func TestRightHistoriesAreAccepted(t *testing.T) {
	eachSimulated(t, simulations, func(t *testing.T, _ *rand.Rand, s *simulated) {
		if got := s.Check(); got != porcupine.Ok {
			t.Errorf("porcupine says %s of\n%v", got, s.Ops)
		}
		for _, v := range s.truth.Check(s.Ops, undisturbed(40)) {
			t.Error(v)
		}
	})
}

// One linearizable read is answered with a state that had been overwritten when the read was sent, with the revision of
// then, as a cache would. Both checks find it.
func TestStaleAnswersAreRefused(t *testing.T) {
	made := 0
	eachSimulated(t, simulations, func(t *testing.T, rng *rand.Rand, s *simulated) {
		o := s.pick(rng, func(o *Op) bool {
			return !o.writes() && o.linearizable() && o.pinned() == 0 && o.Kind != Txn && s.covers(&o.Request) && s.older(o) != nil
		})
		if o == nil {
			return
		}
		made++
		o.Response = s.older(o)
		s.wantRefused(t, o, "revision")
		if got := s.Check(); got != porcupine.Illegal {
			t.Errorf("porcupine says %s", got)
		}
	})
	if made < simulations/10 {
		t.Errorf("only %d of %d runs had a read that could be stale", made, simulations)
	}
}

// older is an answer to a read as of before the newest write that had been answered when the read was sent; nil if
// that is no different.
func (s *simulated) older(o *Op) *Response {
	for _, before := range s.Ops {
		if before.changed() && before.Return < o.Call && before.Compare.Key == "" {
			old := &Response{Revision: before.Revision - 1, Succeeded: true, Results: []Result{s.readAt(o.Then[0], before.Revision-1)}, Stale: -1}
			if len(before.Then) == 1 && before.Then[0].Kind == Put && s.isNewest(before, o) && !sameValues(old.Results[0], o.Results[0]) {
				return old
			}
		}
	}
	return nil
}

// isNewest tells whether nothing else wrote to the history's keys from before a write until a read had been answered.
// Else a state of before it may be one that comes again.
func (s *simulated) isNewest(write, read *Op) bool {
	for _, o := range s.Ops {
		if o != write && o.writes() && o.Call <= read.Return && (o.Return >= write.Call || o.Response == nil) {
			return false
		}
	}
	return true
}

func (s *simulated) pick(rng *rand.Rand, fits func(*Op) bool) *Op {
	var all []*Op
	for _, o := range s.Ops {
		if o.Response != nil && fits(o) {
			all = append(all, o)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all[rng.IntN(len(all))]
}

// wantRefused wants the check by revisions to find something wrong with the operation, that it describes so.
func (s *simulated) wantRefused(t *testing.T, o *Op, what string) {
	t.Helper()
	s.wantRefusedAs(t, o, what, undisturbed(time.Hour))
}

func (s *simulated) wantRefusedAs(t *testing.T, o *Op, what string, p Promises) {
	t.Helper()
	found := s.truth.Check(s.Ops, p)
	if !slices.ContainsFunc(found, func(v Violation) bool { return v.Op == o && strings.Contains(v.What, what) }) {
		t.Errorf("not refused as %q: %v\nfound %v", what, o, found)
	}
}

// Whatever is changed in one answer is found by the check by revisions.
func TestWrongAnswersAreRefused(t *testing.T) {
	anyRead := func(o *Op) bool { return !o.writes() }
	withPairs := func(o *Op) bool { return anyRead(o) && len(o.Results[0].KVs) > 0 }
	onePut := func(o *Op) bool { return o.Kind == Put }
	for name, c := range map[string]struct {
		fits  func(*Op) bool
		spoil func(*simulated, *Op)
		what  string
	}{
		"value":            {withPairs, func(_ *simulated, o *Op) { o.Results[0].KVs[0].Value += "?" }, "is not what was there"},
		"mod revision":     {withPairs, func(_ *simulated, o *Op) { o.Results[0].KVs[0].Mod++ }, "is not what was there"},
		"create revision":  {withPairs, func(_ *simulated, o *Op) { o.Results[0].KVs[0].Create-- }, "is not what was there"},
		"version":          {withPairs, func(_ *simulated, o *Op) { o.Results[0].KVs[0].Version++ }, "is not what was there"},
		"missing pair":     {withPairs, func(_ *simulated, o *Op) { o.Results[0].KVs = o.Results[0].KVs[1:] }, "is not what was there"},
		"count":            {anyRead, func(_ *simulated, o *Op) { o.Results[0].Count++ }, "is not what was there"},
		"more":             {anyRead, func(_ *simulated, o *Op) { o.Results[0].More = !o.Results[0].More }, "is not what was there"},
		"branch":           {func(o *Op) bool { return o.Kind == Txn && !o.changed() && o.Compare.Key != "" }, func(_ *simulated, o *Op) { o.Succeeded = !o.Succeeded }, ""},
		"lost write":       {onePut, func(s *simulated, o *Op) { s.forget(o) }, "was put at revisions []"},
		"write done twice": {onePut, func(s *simulated, o *Op) { s.again(o) }, "was put at revisions"},
		"write after an error done twice": {onePut, func(s *simulated, o *Op) {
			s.again(o)
			o.Response, o.Err = nil, status.Error(codes.Unavailable, "")
		}, "was put at revisions"},
		"revision of a write":    {onePut, func(_ *simulated, o *Op) { o.Revision++ }, "was put at revisions"},
		"from the future":        {func(o *Op) bool { return anyRead(o) && o.Revision > 2 }, func(_ *simulated, o *Op) { o.Call, o.Return = -2, -1 }, ""},
		"compaction":             {anyRead, func(_ *simulated, o *Op) { o.Response, o.Err = nil, rpctypes.ErrGRPCCompacted }, "compaction"},
		"error without reason":   {anyRead, func(_ *simulated, o *Op) { o.Response, o.Err = nil, status.Error(codes.Internal, "") }, "no reason"},
		"linearizable and stale": {func(o *Op) bool { return anyRead(o) && o.linearizable() }, func(_ *simulated, o *Op) { o.Stale = 1 }, "may be old"},
	} {
		t.Run(name, func(t *testing.T) {
			made := 0
			eachSimulated(t, 30, func(t *testing.T, rng *rand.Rand, s *simulated) {
				o := s.pick(rng, c.fits)
				if o == nil {
					return
				}
				made++
				c.spoil(s, o)
				if c.what != "" {
					s.wantRefused(t, o, c.what)
				} else if len(s.truth.Check(s.Ops, undisturbed(time.Hour))) == 0 {
					t.Errorf("not refused: %v", o)
				}
			})
			if made < 5 {
				t.Errorf("only %d runs had such an operation", made)
			}
		})
	}
}

// forget lets a put not have happened.
func (s *simulated) forget(o *Op) {
	delete(s.truth.written, o.Then[0].Value)
	delete(s.truth.changed, o.Revision)
}

// again lets a put have happened once more.
func (s *simulated) again(o *Op) {
	s.rev++
	s.truth.Add(KV{Key: o.Then[0].Key, Value: o.Then[0].Value, Create: s.rev, Mod: s.rev, Version: 1})
}

// A serializable read may be old, but not older than the promise, and not older than what its connection was told.
func TestSessionsAreChecked(t *testing.T) {
	old := func(conn int64, call time.Duration) *simulated {
		s := &simulated{truth: NewTruth(), rev: 1}
		s.requests = newRequests(1, 2, true, nil)
		at := time.Duration(0)
		do := func(r Request, conn int64) *Op {
			at += 10
			o := &Op{Request: r, Proxy: true, Conn: conn, Call: at, Return: at + 1}
			o.Response = s.answer(&o.Request)
			s.Ops = append(s.Ops, o)
			return o
		}
		put := func(value string) { do(plain(Step{Kind: Put, Key: s.Keys[0], Value: value}), 1) }
		put("1")
		read := do(plain(Step{Kind: Range, Key: s.Keys[0], Read: Read{Serializable: true}}), conn)
		put("2")
		read.Call, read.Return = call, call+1
		return s
	}
	for _, c := range []struct {
		name   string
		conn   int64
		call   time.Duration
		age    time.Duration
		what   string
		change func(*Op, *Promises)
	}{
		{name: "old", conn: 2, call: 100, age: 80},
		{name: "too old", conn: 2, call: 100, age: 60, what: "older than"},
		{name: "too old, and says so", conn: 2, call: 100, age: 60, change: func(o *Op, _ *Promises) { o.Stale = 80 }},
		{name: "older than it says", conn: 2, call: 100, age: 60, what: "older than", change: func(o *Op, _ *Promises) { o.Stale = 60 }},
		{name: "too old while upstream is away", conn: 2, call: 100, age: 60, change: func(_ *Op, p *Promises) {
			p.Disturbed = func(from, to time.Duration) bool { return from <= 50 && 50 <= to }
		}},
		{name: "too old after upstream was away", conn: 2, call: 200, age: 60, what: "older than", change: func(_ *Op, p *Promises) {
			p.Disturbed = func(from, to time.Duration) bool { return from <= 50 && 50 <= to }
		}},
		{name: "of a member", conn: 2, call: 100, age: 60, change: func(o *Op, _ *Promises) { o.Proxy = false }},
		{name: "same connection", conn: 1, call: 40, age: 80, what: "on a connection"},
		{name: "before the write ended", conn: 1, call: 30, age: 80},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, p := old(c.conn, c.call), undisturbed(c.age)
			read := s.Ops[1]
			if c.change != nil {
				c.change(read, &p)
			}
			if c.what != "" {
				s.wantRefusedAs(t, read, c.what, p)
			} else if found := s.truth.Check(s.Ops, p); len(found) > 0 {
				t.Error(found)
			}
		})
	}
}

// Operations on different keys are checked apart, unless another joins them.
func TestHistoriesArePartedByKeys(t *testing.T) {
	h := newRequests(1, 5, true, nil).History
	put := func(k int) Request { return plain(Step{Kind: Put, Key: h.Keys[k], Value: "v"}) }
	two := Request{Kind: Txn, Compare: Compare{Key: h.Keys[3]}, Then: put(1).Then, Else: put(4).Then}
	all := plain(Step{Kind: Range, Key: h.Prefix, End: clientv3.GetPrefixRangeEnd(h.Prefix)})
	for _, c := range []struct {
		requests []Request
		want     []int // sizes
	}{
		{[]Request{put(0), put(1), put(0)}, []int{1, 2}},
		{[]Request{put(0), put(1), put(3), two, put(4)}, []int{1, 4}},
		{[]Request{put(0), put(1), all, put(4)}, []int{1, 3}},
	} {
		h.Ops = nil
		for _, r := range c.requests {
			h.Ops = append(h.Ops, &Op{Request: r, Response: &Response{}})
		}
		var got []int
		for _, part := range h.partition(h.operations()) {
			got = append(got, len(part))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%v is parted in %v, want %v", c.requests, got, c.want)
		}
	}
}

func TestReportHasTheHistory(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	s := simulate(rand.New(rand.NewPCG(1, 2)), 20, true)
	r, err := NewReport()
	if err != nil {
		t.Fatal(err)
	}
	name, err := r.Add("something", s.History, s.truth)
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range s.Ops {
		if !strings.Contains(string(text), fmt.Sprint(o)) {
			t.Errorf("the report lacks %v", o)
		}
	}
	page, err := os.ReadFile(strings.TrimSuffix(name, "txt") + "html")
	if err != nil || !strings.Contains(string(page), "</html>") {
		t.Errorf("no page: %v", err)
	}
}
