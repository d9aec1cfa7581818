package identities

import (
	"context"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/loadtest/target/targettest"
)

// What is told here: authentication is on from the start, alice may read /a/ until that is revoked after 10 s, and root
// writes /a/1 after one second and again after 12.
func story(p promises) *checker {
	before := &rights{
		enabled: true, issues: map[string]int{"alice": 1},
		users: map[string]user{"alice": {"password", []string{"r1"}}, proxyUser: {proxyPassword, []string{rootRole}}},
		roles: map[string][]permission{"r1": {{"/a/", "/a0", authpb.READ}}},
	}
	after := before.clone()
	after.roles["r1"] = nil
	l := &ledger{}
	l.changed("", 0, 0, before)
	l.changed("", 10*time.Second, 10*time.Second+time.Millisecond, after)
	h := &history{versions: map[string][]version{"/a/1": {{2, pairAt2}, {3, pairAt3}}}, keys: []string{"/a/1"}, last: 3}
	h.events = []*mvccpb.Event{{Kv: pairAt2}, {Kv: pairAt3}}
	return &checker{ledger: l, history: h, promises: p, own: asRoot}
}

var (
	pairAt2 = &mvccpb.KeyValue{Key: []byte("/a/1"), Value: []byte("first"), CreateRevision: 2, ModRevision: 2, Version: 1}
	pairAt3 = &mvccpb.KeyValue{Key: []byte("/a/1"), Value: []byte("second"), CreateRevision: 2, ModRevision: 3, Version: 2}
	written = []write{{2, time.Second}, {3, 12 * time.Second}}
)

// aliceIn is alice with a token from before all changes.
func aliceIn() *identity {
	return &identity{user: "alice", token: "t", asked: time.Millisecond, given: 2 * time.Millisecond}
}

// A checker that finds nothing where something is wrong would prove nothing.
func TestCheckerFindsWrongAnswers(t *testing.T) {
	guarded := promises{afterRevoke: longPast}
	read := func(at time.Duration) *op {
		return &op{
			who: aliceIn(), sent: at, answered: at + time.Millisecond, request: &pb.RangeRequest{Key: []byte("/a/1")},
			response: &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 2}, Kvs: []*mvccpb.KeyValue{pairAt2}, Count: 1},
		}
	}
	refused := func(at time.Duration, err error) *op {
		return &op{who: aliceIn(), sent: at, answered: at + time.Millisecond, request: &pb.RangeRequest{Key: []byte("/a/1")}, err: err}
	}
	change := func(o *op, change func(*op)) *op {
		change(o)
		return o
	}
	for name, c := range map[string]struct {
		promises
		op   *op
		want bool // it is right
	}{
		"permitted":                     {promises{}, read(5 * time.Second), true},
		"while it was revoked":          {promises{}, read(10 * time.Second), true},
		"just revoked":                  {promises{}, read(10*time.Second + 2*time.Millisecond), false},
		"remembered":                    {guarded, read(10*time.Second + 900*time.Millisecond), true},
		"remembered too long":           {guarded, read(11*time.Second + 2*time.Millisecond), false},
		"nobody":                        {guarded, change(read(5*time.Second), func(o *op) { o.who = nil }), false},
		"made up token":                 {guarded, change(read(5*time.Second), func(o *op) { o.who = &identity{isMadeUp: true} }), false},
		"more than permitted":           {guarded, change(read(5*time.Second), func(o *op) { o.request.(*pb.RangeRequest).RangeEnd = []byte("/b") }), false},
		"another value":                 {guarded, change(read(5*time.Second), func(o *op) { o.response.(*pb.RangeResponse).Kvs[0] = pairAt3 }), false},
		"old":                           {guarded, change(read(5*time.Second), func(o *op) { o.known = 3 }), false},
		"old, which it may be":          {guarded, change(read(5*time.Second), func(o *op) { o.known, o.request.(*pb.RangeRequest).Serializable = 3, true }), true},
		"a revision that never was":     {guarded, change(read(5*time.Second), func(o *op) { o.response.(*pb.RangeResponse).Header.Revision = 4 }), false},
		"refused":                       {guarded, refused(10*time.Second, rpctypes.ErrGRPCPermissionDenied), true},
		"refused with another error":    {guarded, refused(10*time.Second, rpctypes.ErrGRPCUserEmpty), false},
		"refused with another code":     {guarded, refused(10*time.Second, status.Error(codes.Unknown, "etcdserver: permission denied")), false},
		"refused though permitted":      {guarded, refused(5*time.Second, rpctypes.ErrGRPCPermissionDenied), false},
		"refused because of a change":   {guarded, refused(10*time.Second, rpctypes.ErrGRPCAuthOldRevision), true},
		"refused because of none":       {guarded, refused(5*time.Second, rpctypes.ErrGRPCAuthOldRevision), false},
		"refused for want of a member":  {guarded, refused(5*time.Second, status.Error(codes.Unavailable, "")), false},
		"refused, though that is there": {guarded, change(refused(10*time.Second, rpctypes.ErrGRPCPermissionDenied), func(o *op) { o.request = &pb.PutRequest{Key: []byte("/a/1")} }), true},
	} {
		t.Run(name, func(t *testing.T) {
			s := story(c.promises)
			s.all(written, []*op{c.op}, nil)
			targettest.Want(t, "what is wrong: "+s.summary(), len(s.wrong) == 0, c.want)
		})
	}
}

func TestCheckerFindsWhatARefusedRequestWrote(t *testing.T) {
	s := story(promises{})
	s.all(written[:1], nil, nil)
	targettest.Want(t, "what is wrong", len(s.wrong), 1)
}

func TestCheckerFindsWrongWatches(t *testing.T) {
	ends := promises{endsAtRevoke: true, endsWithin: time.Second, cancels: true}
	for name, c := range map[string]struct {
		promises
		change func(*watchStream, *watch)
		want   bool // it is right
	}{
		"as at etcd, which goes on": {promises{}, func(*watchStream, *watch) {}, true},
		"not ended":                 {ends, func(*watchStream, *watch) {}, false},
		"ended": {ends, func(_ *watchStream, w *watch) {
			w.events = w.events[:1]
			w.canceled, w.canceledAt = rpctypes.ErrGRPCPermissionDenied.Error(), 11*time.Second
		}, true},
		"ended too early": {ends, func(_ *watchStream, w *watch) {
			w.events = w.events[:1]
			w.canceled, w.canceledAt = rpctypes.ErrGRPCPermissionDenied.Error(), 9*time.Second
		}, false},
		"ended where nothing ends": {promises{}, func(_ *watchStream, w *watch) {
			w.canceled, w.canceledAt = rpctypes.ErrGRPCPermissionDenied.Error(), 13*time.Second
		}, false},
		"an event is missing":                  {promises{}, func(_ *watchStream, w *watch) { w.events = w.events[1:] }, false},
		"an event twice":                       {promises{}, func(_ *watchStream, w *watch) { w.events[1] = w.events[0] }, false},
		"from now, written before the answer":  {promises{}, func(_ *watchStream, w *watch) { w.start, w.from, w.known = 0, 4, 1 }, true},
		"from now, written before the request": {promises{}, func(_ *watchStream, w *watch) { w.start, w.from, w.known = 0, 4, 2 }, false},
		"from now at a core, written before":   {promises{core: true}, func(_ *watchStream, w *watch) { w.start, w.from, w.known = 0, 4, 1 }, false},
		"an event with what was before it, unasked": {promises{}, func(_ *watchStream, w *watch) {
			w.events[1].Event = &mvccpb.Event{Kv: pairAt3, PrevKv: pairAt2}
		}, false},
		"created without a right": {promises{}, func(_ *watchStream, w *watch) { w.sent, w.answered = 11*time.Second, 11*time.Second }, false},
		"refused": {promises{}, func(_ *watchStream, w *watch) {
			w.sent, w.answered, w.refused = 11*time.Second, 11*time.Second, rpctypes.ErrGRPCPermissionDenied.Error()
		}, true},
		"refused though permitted": {promises{}, func(_ *watchStream, w *watch) { w.refused = rpctypes.ErrGRPCPermissionDenied.Error() }, false},
		"hangs":                    {promises{}, func(s *watchStream, _ *watch) { s.hung = "an event" }, false},
		"stream broken at a change": {promises{breaks: true}, func(s *watchStream, w *watch) {
			w.events, s.closed, s.err = w.events[:1], 11*time.Second, status.Error(codes.Unavailable, "")
		}, true},
		"stream broken without a change": {promises{breaks: true}, func(s *watchStream, w *watch) {
			w.events, s.closed, s.err = w.events[:1], 5*time.Second, status.Error(codes.Unavailable, "")
		}, false},
		"stream left by its client": {promises{}, func(s *watchStream, _ *watch) { s.err = context.Canceled }, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := &watch{in: permission{key: "/a/", end: "/a0"}, start: 1, from: 1, sent: 2 * time.Second, answered: 2 * time.Second}
			w.events = []received{{&mvccpb.Event{Kv: pairAt2}, 2 * time.Second}, {&mvccpb.Event{Kv: pairAt3}, 12 * time.Second}}
			stream := &watchStream{who: aliceIn(), opened: 2 * time.Second, closed: 20 * time.Second, watches: []*watch{w}}
			c.change(stream, w)
			s := story(c.promises)
			s.all(written, nil, []*watchStream{stream})
			targettest.Want(t, "what is wrong: "+s.summary(), len(s.wrong) == 0, c.want)
		})
	}
}

// Ranges are permitted as a whole, by any permissions together, and only then.
func TestRangeIsPermittedByAllThatCoversIt(t *testing.T) {
	of := []permission{{key: "b", end: "d"}, {key: "d", end: "f"}, {key: "x"}, {key: "y", end: infinite}}
	for asked, want := range map[permission]bool{
		{key: "b"}: true, {key: "a"}: false, {key: "f"}: false, {key: "x"}: true, {key: "x\x00"}: false, {key: "z"}: true,
		{key: "b", end: "f"}: true, {key: "c", end: "e"}: true, {key: "b", end: "f\x00"}: false, {key: "a", end: "c"}: false,
		{key: "x", end: "x\x00"}: true, {key: "x", end: "x\x01"}: false, {key: "y", end: infinite}: true, {key: "y1", end: "z"}: true,
		{key: "x", end: infinite}: false, {key: "\x00", end: infinite}: false,
	} {
		if got := cover(of, asked.key, asked.end); got != want {
			t.Errorf("%q to %q is permitted: got %v, want %v", asked.key, asked.end, got, want)
		}
	}
}
