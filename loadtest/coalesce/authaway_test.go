package coalesce

import (
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/loadtest/target/targettest"
)

// Authentication is switched on while the proxy cannot ask: what it has in memory is not given to a client that comes, once
// it has not been sure for a second that everybody may have it. A watch that was open before may be given what was written
// before, as at etcd, until the proxy learns of it.
func TestAuthenticationSwitchedOnWhileUpstreamIsAway(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		lose func(*targettest.Relay)
	}{{"away", (*targettest.Relay).Cut}, {"frozen", (*targettest.Relay).Freeze}} {
		for _, kind := range behindProxies {
			t.Run(c.name+"/"+string(kind), func(t *testing.T) {
				t.Parallel()
				s := newSite(t, kind, targettest.SiteOptions{RelayWay: true, ProxyArgs: []string{"--dial-keepalive-timeout=1s"}})
				switchAuthenticationUnseen(s, c.lose)
			})
		}
	}
}

func switchAuthenticationUnseen(s *site, lose func(*targettest.Relay)) {
	st, conn := s.store(), s.dial()
	auth := pb.NewAuthClient(s.dialTo(s.Cluster.Members[0].Addr))
	s.addRoot(auth)
	live := s.open(s.Ctx, conn).create(prefix("/a/"))[0]
	laggard, receive := s.openStalled(s.Ctx, s.dialNarrow())
	laggard.ask(prefix("/a/"))
	past := prefix("/a/")
	past.start = st.revision() + 1
	st.writeBig()
	live.awaitEvents(bigValues)
	s.open(s.Ctx, conn).create(past)[0].awaitEvents(bigValues) // from memory, as all may while nothing is wrong

	lose(s.Way)
	_, err := auth.AuthEnable(s.Ctx, &pb.AuthEnableRequest{})
	s.Must(err)
	switched := time.Now()
	var late []*watch
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for time.Since(switched) < 3*revokedWithin {
		asked := time.Since(switched)
		on := s.open(s.Ctx, conn)
		w, err := on.tryAsk(past)
		if err == nil && asked > revokedWithin {
			late = append(late, w)
		}
		<-tick.C
	}
	receive()
	s.Way.Mend()

	for _, w := range late {
		// It is refused as upstream refuses it, or by the proxy while that is away.
		err := w.stream.wait(s.Ctx, func() bool { return w.canceled != nil || len(w.events) > 0 })
		if s.Ctx.Err() != nil {
			s.Fatalf("a watch that was asked for without an identity waits: %v", err)
		}
		if len(w.events) > 0 {
			s.Fatalf("a watch without an identity, asked for %v or more after authentication was switched on, was given events", revokedWithin)
		}
	}
	wantEndAsOfABrokenConnection(live.stream)
	wantEndAsOfABrokenConnection(laggard)
}
