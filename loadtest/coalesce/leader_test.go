package coalesce

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// requireLeader asks for the stream to end when there is no leader.
func (s *site) requireLeader() context.Context {
	return metadata.AppendToOutgoingContext(s.Ctx, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
}

// A member that is cut off from the others loses its leader. Streams that require one end, the others stay, and go on
// when there is a leader again.
func TestStreamsThatRequireALeaderEndWithoutOne(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.Etcd37, target.ProxyEtcd37, target.ProxyEtcd35, target.ProxyProxyEtcd37} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, kind, targettest.SiteOptions{Members: 3, NoProxies: true})
			s.StartProxies(s.Cluster.Endpoints()[:1])
			requireLeader(s)
		})
	}
}

func requireLeader(s *site) {
	st := s.store()
	conn := s.dial()
	client := targettest.Client(s, s.Endpoint()).Watch(clientv3.WithRequireLeader(s.Ctx), "/a/", clientv3.WithPrefix())
	var ends, stays []*watch
	for range 5 {
		ends = append(ends, s.open(s.requireLeader(), conn).create(prefix("/a/"), spec{key: "/a/1"})...)
		stays = append(stays, s.open(s.Ctx, conn).create(prefix("/a/"), spec{key: "/a/1"})...)
	}
	st.put("/a/1", "1")
	for _, w := range append(ends, stays...) {
		w.awaitEvents(1)
	}
	others := s.Cluster.Members[1:]
	for _, m := range others {
		s.Must(m.Pause())
	}
	for _, w := range ends {
		targettest.Want(s, "end of a stream that requires a leader", fmt.Sprint(w.stream.end()), rpctypes.ErrGRPCNoLeader.Error())
	}
	targettest.Want(s, "end of an etcd client's watch that requires a leader", fmt.Sprint(endOf(client)), rpctypes.ErrNoLeader.Error())
	refused := s.open(s.requireLeader(), conn)
	_, _ = refused.tryAsk(prefix("/a/")) // it may have ended before
	targettest.Want(s, "end of a new stream that requires a leader", fmt.Sprint(refused.end()), rpctypes.ErrGRPCNoLeader.Error())
	for _, m := range others {
		s.Must(m.Resume())
	}
	s.Must(s.Cluster.Members[0].WaitReady(s.Ctx, target.Serves(s.Cluster.Members[0].Addr)))
	st.put("/a/1", "2")
	// It is allowed again as soon as it is known that there is a leader.
	var again []*watch
	s.Eventually(waitBound, "a stream that requires a leader", func() error {
		on := s.open(s.requireLeader(), conn)
		w, err := on.tryAsk(prefix("/a/"))
		if err == nil {
			err = on.wait(s.Ctx, func() bool { return w.created != nil })
		}
		if err == nil {
			again = append(again, w)
		}
		return err
	})
	st.put("/a/1", "3")
	s.checkAll(append(stays, again...))
}

// endOf reads the watch of an etcd client to its end, and returns with what it ended.
func endOf(events clientv3.WatchChan) error {
	var last clientv3.WatchResponse
	for r := range events {
		last = r
	}
	return last.Err()
}

// longOutage is longer than a member can be away before streams that require a leader end.
const longOutage = 5 * time.Second

// Without a member there is no telling whether there is a leader. Streams that require one end as a broken connection
// does: etcd's client begins its watches again by itself, where it would give up if it was told that there is no leader.
func TestLongOutageEndsStreamsThatRequireALeaderForAWhile(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.ProxyEtcd37, target.ProxyProxyEtcd37, target.ProxyEtcd35, target.ProxyCore} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			longOutageWithoutAMember(newSite(t, kind, targettest.SiteOptions{}))
		})
	}
}

func longOutageWithoutAMember(s *site) {
	const clients, writes = 3, 50
	st, conn := s.store(), s.dial()
	first := st.put("/a/1", "the first")
	last := first + 2*writes
	var watching sync.WaitGroup
	for i := range clients {
		events := targettest.Client(s, s.Endpoint()).Watch(clientv3.WithRequireLeader(s.Ctx), "/a/", clientv3.WithPrefix(), clientv3.WithRev(first))
		watching.Go(func() {
			if err := bringsEach(events, first, last); err != nil {
				s.Errorf("client %d: %v", i, err)
			}
		})
	}
	var ends, stays []*watch
	for range clients {
		ends = append(ends, s.open(s.requireLeader(), conn).create(prefix("/a/"))...)
		stays = append(stays, s.open(s.Ctx, conn).create(prefix("/a/"))...)
	}
	for i := range writes {
		st.put("/a/1", fmt.Sprint(i))
	}
	for _, w := range append(ends, stays...) {
		w.awaitEvents(writes)
	}

	m := s.Cluster.Members[0]
	s.Must(m.Kill())
	over := time.After(longOutage)
	for _, w := range ends {
		wantEndAsOfABrokenConnection(w.stream)
	}
	refused := s.open(s.requireLeader(), conn)
	_, _ = refused.tryAsk(prefix("/a/")) // it may have ended before
	wantEndAsOfABrokenConnection(refused)
	<-over
	s.Must(m.Restart())
	s.Must(m.WaitReady(s.Ctx, target.Serves(s.Endpoint())))
	for i := range writes {
		st.put("/a/1", fmt.Sprint(i))
	}
	watching.Wait()
	s.checkAll(stays)
}

// wantEndAsOfABrokenConnection waits for the end of a stream, after which etcd's client is to begin again.
func wantEndAsOfABrokenConnection(on *stream) {
	on.Helper()
	if err := on.end(); status.Code(err) != codes.Unavailable || strings.Contains(err.Error(), rpctypes.ErrNoLeader.Error()) {
		on.Errorf("a stream ended with %v", err)
	}
	on.mu.Lock()
	defer on.mu.Unlock()
	if len(on.compacted) > 0 {
		on.Error("a watch was cancelled before its stream ended")
	}
}

// A member is cut off from the others while it serves the feeds. Nobody who watches through a proxy that knows the
// others notices: the watches go on at another, and end nowhere.
func TestMemberCutOffFromTheOthersIsReplacedUnnoticed(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.ProxyEtcd37, target.ProxyEtcd36} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, kind, targettest.SiteOptions{Members: 3, RelayPeers: true})
			w := s.watchThroughOutages()
			w.writeSome(30)
			w.awaitNewest()
			for range 2 {
				mend := s.cutOff(s.serving())
				w.writeSome(30)
				w.awaitNewest()
				mend()
				s.Must(s.Cluster.WaitReady(s.Ctx))
			}
			w.finish()
		})
	}
}

// With no other member to go to, streams that require a leader end, and the others wait until it is back.
func TestMemberCutOffWithoutAnotherEndsStreamsThatRequireALeader(t *testing.T) {
	t.Parallel()
	for _, kind := range []target.Kind{target.Etcd37, target.ProxyEtcd37, target.ProxyEtcd35} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, kind, targettest.SiteOptions{Members: 3, RelayPeers: true, NoProxies: true})
			s.StartProxies(s.Cluster.Endpoints()[:1])
			conn := s.dial()
			ends := s.open(s.requireLeader(), conn).create(prefix("/a/"))[0]
			stays := s.open(s.Ctx, conn).create(prefix("/a/"))
			mend := s.cutOff(s.Cluster.Members[0])
			other := &store{s, pb.NewKVClient(s.dialTo(s.Cluster.Members[1].Addr))}
			s.Eventually(waitBound, "a write without the member", func() error {
				_, err := other.kv.Put(s.Ctx, &pb.PutRequest{Key: []byte("/a/1"), Value: []byte("behind its back")})
				return err
			})
			targettest.Want(s, "end of a stream that requires a leader", fmt.Sprint(ends.stream.end()), rpctypes.ErrGRPCNoLeader.Error())
			mend()
			s.Must(s.Cluster.WaitReady(s.Ctx))
			s.checkAll(stays)
		})
	}
}

// cutOff keeps a member from talking to the others, until mend is called.
func (s *site) cutOff(m *target.Member) (mend func()) {
	s.Helper()
	r, err := pb.NewMaintenanceClient(s.dialTo(m.Addr)).Status(s.Ctx, &pb.StatusRequest{})
	s.Must(err)
	id := strconv.FormatUint(r.Header.MemberId, 16)
	for i, other := range s.Cluster.Members {
		if other == m {
			s.Peers[i].Cut()
		} else {
			s.Peers[i].CutOff(id)
		}
	}
	return func() {
		for i := range s.Peers {
			s.Peers[i].CutOff("")
			s.Peers[i].Mend()
		}
	}
}
