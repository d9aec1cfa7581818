package coalesce

import (
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// spec is what a watch asks for.
type spec struct {
	key, end       string // end as in the API: "" is the one key, "\x00" all from key on
	start          int64  // 0 is now
	prevKV         bool
	noPut          bool
	noDelete       bool
	fragment       bool
	progressNotify bool
	id             int64 // 0 leaves it to the server
}

func (sp spec) String() string {
	s := fmt.Sprintf("watch of %q", sp.key)
	if sp.end != "" {
		s += fmt.Sprintf(" to %q", sp.end)
	}
	if sp.start != 0 {
		s += fmt.Sprintf(" from revision %d", sp.start)
	}
	for _, o := range []struct {
		name string
		on   bool
	}{
		{"prev_kv", sp.prevKV}, {"NOPUT", sp.noPut}, {"NODELETE", sp.noDelete}, {"fragment", sp.fragment},
		{"progress_notify", sp.progressNotify}, {fmt.Sprint("id ", sp.id), sp.id != 0},
	} {
		if o.on {
			s += ", " + o.name
		}
	}
	return s
}

func prefix(p string) spec { return spec{key: p, end: clientv3.GetPrefixRangeEnd(p)} }

// everything is the whole key space.
var everything = spec{key: "\x00", end: "\x00"}

func (sp spec) request() *pb.WatchRequest {
	r := &pb.WatchCreateRequest{
		Key: []byte(sp.key), RangeEnd: []byte(sp.end), StartRevision: sp.start, PrevKv: sp.prevKV,
		Fragment: sp.fragment, ProgressNotify: sp.progressNotify, WatchId: sp.id,
	}
	if sp.noPut {
		r.Filters = append(r.Filters, pb.WatchCreateRequest_NOPUT)
	}
	if sp.noDelete {
		r.Filters = append(r.Filters, pb.WatchCreateRequest_NODELETE)
	}
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}}
}

// wants tells whether a watch that asks for this gets the event, if it has started.
func (sp spec) wants(e event) bool {
	switch {
	case e.deleted && sp.noDelete, !e.deleted && sp.noPut:
		return false
	case sp.end == "":
		return e.kv.key == sp.key
	default:
		return e.kv.key >= sp.key && (e.kv.key < sp.end || sp.end == "\x00")
	}
}

// pair is a key-value with all that is known of it.
type pair struct {
	key, value           string
	create, mod, version int64
	lease                int64
}

func pairOf(kv *mvccpb.KeyValue) pair {
	if kv == nil {
		return pair{}
	}
	return pair{string(kv.Key), string(kv.Value), kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease}
}

// event is one event; prev is zero if there was no previous pair, or nobody asked for it.
type event struct {
	deleted  bool
	kv, prev pair
}

func (e event) String() string {
	s := fmt.Sprintf("revision %d: put %q", e.kv.mod, shorten(e.kv.key)+"="+shorten(e.kv.value))
	if e.deleted {
		s = fmt.Sprintf("revision %d: delete %q", e.kv.mod, shorten(e.kv.key))
	}
	if e.prev != (pair{}) {
		s += fmt.Sprintf(" after %q of %d", shorten(e.prev.value), e.prev.mod)
	}
	return s
}

func shorten(s string) string {
	if len(s) > 40 {
		return s[:40] + "..."
	}
	return s
}

// watch is one watch of a stream, whose lock guards it.
type watch struct {
	stream *stream
	spec   spec
	id     int64

	created    *pb.WatchResponse
	canceled   *pb.WatchResponse // by the server, asked for or not
	asked      bool              // the test asked for the cancel
	next       int64             // the revision at which it began
	floor      int64             // the newest revision that was said to have been delivered
	progresses int               // that it was notified of by itself
	events     []event
	fragment   bool   // the response before this was one
	problem    string // the first breach of the protocol
}

func (w *watch) take(resp *pb.WatchResponse) {
	newest := int64(0)
	if len(w.events) > 0 {
		newest = w.events[len(w.events)-1].kv.mod
	}
	first, last := resp.Events[0].Kv.ModRevision, resp.Events[len(resp.Events)-1].Kv.ModRevision
	switch {
	case first < newest:
		w.breach("revision %d after %d", first, newest)
	case first == newest && !w.fragment:
		w.breach("revision %d is split between responses or given twice", first)
	case first <= w.floor:
		w.breach("revision %d after progress said that %d was delivered", first, w.floor)
	case last > resp.Header.GetRevision():
		w.breach("revision %d in a response of revision %d", last, resp.Header.GetRevision())
	case resp.Fragment && !w.spec.fragment:
		w.breach("a fragment that nobody asked for")
	}
	for _, ev := range resp.Events {
		w.events = append(w.events, event{ev.Type == mvccpb.Event_DELETE, pairOf(ev.Kv), pairOf(ev.PrevKv)})
	}
	w.fragment = resp.Fragment
}

func (w *watch) reached(rev int64) {
	if rev < w.floor {
		w.breach("progress goes back from %d to %d", w.floor, rev)
	}
	w.floor = max(w.floor, rev)
}

func (w *watch) breach(format string, args ...any) {
	if w.problem == "" {
		w.problem = fmt.Sprintf(format, args...)
	}
}

// awaitEvents waits until the watch has seen n events, and returns them.
func (w *watch) awaitEvents(n int) []event {
	w.stream.Helper()
	w.stream.await(fmt.Sprintf("%d events of %v", n, w.spec), func() bool { return len(w.events) >= n || w.canceled != nil })
	w.stream.mu.Lock()
	defer w.stream.mu.Unlock()
	if w.canceled != nil && len(w.events) < n {
		w.stream.Fatalf("%v was cancelled: %v", w.spec, w.canceled)
	}
	return slices.Clone(w.events)
}

// awaitCancel waits until the server has cancelled the watch, and returns how.
func (w *watch) awaitCancel() *pb.WatchResponse {
	w.stream.Helper()
	w.stream.await(fmt.Sprintf("the cancel of %v", w.spec), func() bool { return w.canceled != nil })
	return w.canceled
}

// history is what has happened in a store, in order, with previous pairs.
type history []event

// follow opens a watch straight at a member, from a revision on, from which history is taken later.
func (s *site) follow(addr string, start int64) *watch {
	s.Helper()
	sp := everything
	sp.start, sp.prevKV = start, true
	st := s.open(s.Ctx, s.dialTo(addr))
	return st.create(sp)[0]
}

// history waits until the watch has seen a revision, in which something happened, and returns all that it has seen.
func (w *watch) history(until int64) history {
	w.stream.Helper()
	w.stream.await(fmt.Sprintf("revision %d in the history", until), func() bool {
		return len(w.events) > 0 && w.events[len(w.events)-1].kv.mod >= until || w.canceled != nil
	})
	w.stream.check()
	w.stream.mu.Lock()
	defer w.stream.mu.Unlock()
	if w.canceled != nil {
		w.stream.Fatalf("the history was cancelled: %v", w.canceled)
	}
	return slices.Clone(w.events)
}

// of is what a watch that began at a revision must have seen of the history.
func (h history) of(sp spec, from int64) []event {
	var s []event
	for _, e := range h {
		if e.kv.mod < from || !sp.wants(e) {
			continue
		}
		if !sp.prevKV {
			e.prev = pair{}
		}
		s = append(s, e)
	}
	return s
}

// check fails the test unless the watch has seen exactly its part of the history.
func (h history) check(w *watch) {
	s := w.stream
	s.Helper()
	s.check()
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.canceled != nil {
		s.Errorf("%v was cancelled: %v", w.spec, w.canceled)
		return
	}
	want := h.of(w.spec, w.next)
	for i := range max(len(want), len(w.events)) {
		switch {
		case i >= len(want):
			s.Errorf("%v, begun at %d: event %d of %d should not have come: %v", w.spec, w.next, i+1, len(want), w.events[i])
		case i >= len(w.events):
			s.Errorf("%v, begun at %d: event %d of %d has not come: %v", w.spec, w.next, i+1, len(want), want[i])
		case w.events[i] != want[i]:
			s.Errorf("%v, begun at %d: event %d of %d\nis %v\nnot %v", w.spec, w.next, i+1, len(want), w.events[i], want[i])
		default:
			continue
		}
		return
	}
}
