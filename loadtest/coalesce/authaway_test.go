package coalesce

import (
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Authentication is switched on while the proxy cannot ask: what it has in memory is not given to a client that comes, once
// it has not been sure for a second that everybody may have it. A watch that was open before may be given what was written
// before, as at etcd, until the proxy learns of it.
func TestAuthenticationSwitchedOnWhileUpstreamIsAway(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		lose func(*relay)
	}{{"away", (*relay).cut}, {"frozen", (*relay).freeze}} {
		for _, p := range behindProxies {
			t.Run(c.name+"/"+p.String(), func(t *testing.T) {
				t.Parallel()
				s := newSite(t, place{p.member, 0}, config{})
				r := s.relayTo(s.cluster.Members[0].Addr)
				s.place = p
				s.startProxies([]string{r.addr}, []string{"--dial-keepalive-timeout=1s"})
				switchAuthenticationUnseen(s, r, c.lose)
			})
		}
	}
}

func switchAuthenticationUnseen(s *site, r *relay, lose func(*relay)) {
	st, conn := s.store(), s.dial()
	auth := pb.NewAuthClient(s.dialTo(s.cluster.Members[0].Addr))
	s.addRoot(auth)
	live := s.open(s.ctx, conn).create(prefix("/a/"))[0]
	laggard, receive := s.openStalled(s.ctx, s.dialNarrow())
	laggard.ask(prefix("/a/"))
	past := prefix("/a/")
	past.start = st.revision() + 1
	st.writeBig()
	live.awaitEvents(bigValues)
	s.open(s.ctx, conn).create(past)[0].awaitEvents(bigValues) // from memory, as all may while nothing is wrong

	lose(r)
	_, err := auth.AuthEnable(s.ctx, &pb.AuthEnableRequest{})
	s.must(err)
	switched := time.Now()
	var late []*watch
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for time.Since(switched) < 3*revokedWithin {
		asked := time.Since(switched)
		on := s.open(s.ctx, conn)
		w, err := on.tryAsk(past)
		if err == nil && asked > revokedWithin {
			late = append(late, w)
		}
		<-tick.C
	}
	receive()
	r.mend()

	for _, w := range late {
		// It is refused as upstream refuses it, or by the proxy while that is away.
		err := w.stream.wait(s.ctx, func() bool { return w.canceled != nil || len(w.events) > 0 })
		if s.ctx.Err() != nil {
			s.Fatalf("a watch that was asked for without an identity waits: %v", err)
		}
		if len(w.events) > 0 {
			s.Fatalf("a watch without an identity, asked for %v or more after authentication was switched on, was given events", revokedWithin)
		}
	}
	wantEndAsOfABrokenConnection(live.stream)
	wantEndAsOfABrokenConnection(laggard)
}
