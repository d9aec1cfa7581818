package grpcapi

import (
	"errors"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	"weir/cache"
)

// sessionBehind is the session of the client's connection to a server whose forwarder is u.
func sessionBehind(t *testing.T, cc *grpc.ClientConn, u *fakeUpstream) *cache.Session {
	t.Helper()
	if _, err := invoke(t.Context(), cc, pb.KV_Put_FullMethodName, nil); err != nil {
		t.Fatal(err)
	}
	return u.session
}

func TestWhatAWatchStreamStatesRaisesTheFloorOfItsConnection(t *testing.T) {
	f, u := newFakeSharer(t), &fakeUpstream{answer: []byte("answer")}
	f.era.Store(5)
	_, cc := startSharing(t, f, u)
	session := sessionBehind(t, cc, u)
	floor := func(when string, want int64) {
		t.Helper()
		if got := session.Floor(5); got != want {
			t.Errorf("%s: the floor is %d, want %d", when, got, want)
		}
	}
	floor("at first", 0)
	c := openWatch(t, cc)
	f.commit(put("a", "1"))
	c.create(key("a"))
	c.expect("@2 id=0 created")
	floor("created", 2)
	f.commit(put("a", "2"))
	c.expect(`@3 id=0 PUT("a" 2)@3`)
	floor("event", 3)
	f.commit(put("b", "1"))
	c.requestProgress()
	c.expect("@4 id=-1")
	floor("progress", 4)
	f.commit(put("b", "2"))
	c.create(keys("b", "a"))
	c.expect(`@5 id=-1 created canceled "mvcc: watcher range is empty"`)
	floor("refused", 5)
	past := key("a")
	past.StartRevision = 2
	c.create(past)
	c.expect("@5 id=1 created", `@5 id=1 PUT("a" 1)@2 PUT("a" 2)@3`)
	floor("events of the past", 5)
	f.commit(put("b", "3"))
	c.cancelWatch(0)
	c.expect("@6 id=0 canceled")
	floor("canceled", 6)
	f.commit(put("b", "4"))
	f.feed.Close(errors.New("gone"))
	c.expect(`@7 id=1 canceled "gone"`)
	floor("ended from within", 7)
}

func TestWhatManyAreSentRaisesTheFloorOfEach(t *testing.T) {
	f, u := newFakeSharer(t), &fakeUpstream{answer: []byte("answer")}
	server := NewForwardServer(Config{Logger: quiet()}, u, f, nil)
	address := start(t, server)
	var sessions []*cache.Session
	var clients []*watchClient
	for range 3 {
		cc := dial(t, address)
		sessions = append(sessions, sessionBehind(t, cc, u))
		c := openWatch(t, cc)
		c.create(key("a"))
		c.expect("@1 id=0 created")
		clients = append(clients, c)
	}
	f.commit(put("a", "1"))
	for i, c := range clients {
		c.expect(`@2 id=0 PUT("a" 1)@2`)
		if got := sessions[i].Floor(0); got != 2 {
			t.Errorf("client %d: the floor is %d", i, got)
		}
	}
}

// A stream outlives the replacement of the cluster. What comes late from before it must not raise the floor after it.
func TestWatchRaisesTheFloorOfTheEraThatItWasCreatedIn(t *testing.T) {
	f := newFakeSharer(t)
	service := sharedServiceOf(f)
	service.cfg.era = f.Era
	c, x := newConnection(nil), newTransport(t)
	x.ctx = peer.NewContext(x.ctx, &peer.Peer{AuthInfo: c})
	s := newWatchStream(service, x, nil)
	defer s.close()
	floor := func(era uint64, want int64) {
		t.Helper()
		<-x.sent
		if got := c.session.Floor(era); got != want {
			t.Errorf("the floor is %d, want %d", got, want)
		}
	}
	s.create(decoded(t, key("a")), 0)
	floor(0, 1)
	f.commit(put("a", "1"))
	floor(0, 2)

	f.era.Store(1)
	again := key("b")
	again.ProgressNotify = true
	s.create(decoded(t, again), 0)
	floor(1, 2)
	f.commit(put("a", "2"))
	floor(1, 2) // the feed has delivered revision 3 before it goes on to the notification
	s.hub.NotifyProgress()
	floor(1, 3)
	f.commit(put("b", "1"))
	floor(1, 4)
	f.commit(put("other", "1"))
	s.hub.RequestProgress(0) // for watches of both eras
	floor(1, 4)
}
