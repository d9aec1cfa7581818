package grpcapi

import (
	"fmt"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/coalesce"
)

// startEnclosing serves f's watches to clients in namespaces.
func startEnclosing(t *testing.T, f *fakeSharer) *grpc.ClientConn {
	t.Helper()
	return dial(t, start(t, NewForwardServer(Config{Gate: namespaces{}, Logger: quiet()}, nil, f, nil)))
}

func TestSharedWatchesStayInTheirNamespace(t *testing.T) {
	f := newFakeSharer(t)
	cc := startEnclosing(t, f)
	f.commit(put("/app/a", "1"), put("/apq", "no"), put("a", "no"))
	app, all := openWith(t, cc, "namespace", "/app/"), openWith(t, cc)
	app.create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 2})
	app.expect("@2 id=0 created")
	app.expect(`@2 id=0 PUT("a" 1)@2`)
	app.create(&pb.WatchCreateRequest{RangeEnd: []byte{0}, PrevKv: true})
	app.expect("@2 id=1 created")
	all.create(&pb.WatchCreateRequest{Key: []byte("/app/a")})
	all.expect("@2 id=0 created")

	f.commit(put("/app/a", "2"), put("/app", "no"), put("/app0", "no"), del("a"))
	expectSet(t, app, `@3 id=0 PUT("a" 2)@3`, `@3 id=1 PUT("a" 2)@3<-1@2`)
	all.expect(`@3 id=0 PUT("/app/a" 2)@3`)
	f.commit(del("/app/a"))
	expectSet(t, app, `@4 id=0 DELETE("a")@4`, `@4 id=1 DELETE("a")@4<-2@3`)
	app.requestProgress()
	app.expect("@4 id=-1")
	app.create(&pb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("a")})
	app.expect("@4 id=-1 created canceled \"" + reasonEmptyRange + "\"")
}

// Streams with the same watch id are sent the same bytes, if they are of the same namespace.
func TestWatchersOfOneNamespaceShareTheirResponses(t *testing.T) {
	f := newFakeSharer(t)
	cc := startEnclosing(t, f)
	var clients []*watchClient
	spaces := []string{"", "/a/", "/a/b/", "/a/", "/a/b/", ""}
	for _, n := range spaces {
		c := openWith(t, cc, "namespace", n)
		c.create(&pb.WatchCreateRequest{Key: []byte(strings.TrimPrefix("/a/b/k", n))})
		c.expect("@1 id=0 created")
		clients = append(clients, c)
	}
	for rev := 2; rev < 5; rev++ {
		f.commit(put("/a/b/k", "v"))
		for i, c := range clients {
			c.expect(fmt.Sprintf(`@%d id=0 PUT("%s" v)@%d`, rev, strings.TrimPrefix("/a/b/k", spaces[i]), rev))
		}
	}
}

func TestAMessageIsMadeOnceForANamespace(t *testing.T) {
	f := newFakeSharer(t)
	f.commit(put("/a/k", "v"))
	m := &coalesce.Message{Revision: 2, Events: f.history[0].Events, Fanout: 2}
	one, err := namespace("/a/").inside(m)
	if err != nil {
		t.Fatal(err)
	}
	for n, shared := range map[namespace]bool{"/a/": true, "/": false, "": false} {
		again, err := n.inside(m)
		if err != nil || (again == one) != shared {
			t.Errorf("%q: the same message: %v, error %v", n, again == one, err)
		}
	}
	if same, err := namespace("").inside(m); err != nil || same != m {
		t.Errorf("without a namespace: another message, error %v", err)
	}
}

func TestFragmentsAreOfWhatTheClientIsSent(t *testing.T) {
	f := newFakeSharer(t)
	cc := startEnclosing(t, f)
	large := strings.Repeat("v", 1<<20)
	c := openWith(t, cc, "namespace", "/app/")
	c.create(&pb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte("l"), Fragment: true})
	c.expect("@1 id=0 created")
	f.commit(put("/app/k1", large), put("/app/k2", large), put("/app/k3", large))
	var keys []string
	for more := true; more; {
		r := c.recv()
		for _, e := range r.Events {
			keys = append(keys, string(e.Kv.Key))
		}
		more = r.Fragment
	}
	if got := strings.Join(keys, " "); got != "k1 k2 k3" {
		t.Errorf("got %s", got)
	}
}

// A hub that delivers what is not in the range of a watch is broken. What it delivers is not shown.
func TestForeignEventsEndTheStream(t *testing.T) {
	x := newTransport(t)
	s := newWatchStream(sharedServiceOf(newFakeSharer(t)), x, namespaceVisit("/app/"))
	defer s.close()
	other := newFakeSharer(t)
	other.commit(put("/other/k", "v"))
	if !s.Deliver(&coalesce.Watcher{}, &coalesce.Message{Revision: 2, Events: other.history[0].Events, Fanout: 1}) {
		t.Error("the message was refused, and would come again")
	}
	if err := <-s.over; status.Code(err) != codes.Internal {
		t.Errorf("the stream ended with %v", err)
	}
}
