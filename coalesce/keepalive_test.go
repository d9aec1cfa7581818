package coalesce

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"weir/internal/bubble"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/status"
)

// keepaliveBench is Keepalives over a fakeCluster, in a synctest bubble.
type keepaliveBench struct {
	*testing.T
	*Keepalives
	cluster *fakeCluster
	client  fakeClient
	start   time.Time
}

// onKeepalives runs f over a cluster with the leases 1 to 9, of 10 s; over an ordered one as etcd's, and over one of weir's.
func onKeepalives(t *testing.T, f func(b *keepaliveBench)) {
	t.Helper()
	for name, ordered := range map[string]bool{"ordered": true, "unordered": false} {
		t.Run(name, func(t *testing.T) { onCluster(t, ordered, f) })
	}
}

func onCluster(t *testing.T, ordered bool, f func(b *keepaliveBench)) {
	t.Helper()
	bubble.Test(t, func(t *testing.T) {
		b := &keepaliveBench{T: t, cluster: newFakeCluster(ordered), start: time.Now()}
		for id := range int64(9) {
			b.cluster.grant(id+1, 10)
		}
		b.Keepalives = NewKeepalives(KeepaliveConfig{Upstream: b.cluster, Budget: NewKeepaliveBudget(1000, 1000)})
		defer b.Keepalives.Close()
		f(b)
	})
}

// ping pings leases, and waits until nothing more happens without time passing.
func (b *keepaliveBench) ping(ids ...int64) {
	for _, id := range ids {
		b.Ping(id, time.Now(), &b.client, 0)
	}
	synctest.Wait()
}

// until waits until so long after the start.
func (b *keepaliveBench) until(after time.Duration) {
	time.Sleep(time.Until(b.start.Add(after)))
	synctest.Wait()
}

// expect checks what was answered since it was last called.
func (b *keepaliveBench) expect(what string, want ...string) {
	b.Helper()
	if got := b.client.take(); !slices.Equal(got, want) {
		b.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// runs are the streams of all lanes.
func (b *keepaliveBench) runs() (all [pingLanes]*pingRun) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range all {
		all[i] = b.lanes[i].run
	}
	return all
}

func (b *keepaliveBench) currentRun() *pingRun { return b.runs()[trusted] }

// message is what a client is told of err.
func message(err error) string {
	var s interface{ GRPCStatus() *status.Status }
	if !errors.As(err, &s) {
		return "not a status: " + err.Error()
	}
	return s.GRPCStatus().Message()
}

func TestPingIsAnsweredByUpstream(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		b.ping(1, 2, 77, 0, -5)
		b.expect("at first", "-5: 0", "0: 0", "1: 10", "2: 10", "77: 0")
		b.until(9 * time.Second)
		b.ping(1)
		b.until(11 * time.Second)
		b.cluster.revokeExpired(0)
		b.ping(1, 2)
		b.expect("one was kept alive", "1: 10", "1: 10", "2: 0")
	})
}

func TestPingsThatWaitTogetherShareOne(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		b.cluster.change(func() { b.cluster.closed = true })
		b.ping(1, 2, 1, 1)
		b.cluster.change(func() { b.cluster.closed = false })
		synctest.Wait()
		b.expect("all", "1: 10", "1: 10", "1: 10", "2: 10")
		if s := b.Stats(); s.Pings != 4 || s.Shared != 2 || s.Sent != 2 || s.Batches != 1 || s.Opened != 1 || s.Waiting != 0 {
			t.Errorf("got %+v", s)
		}
	})
}

func TestPingIsNotAnsweredByOneSentBefore(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		b.ping(1)
		b.cluster.silence(true)
		b.ping(1) // sent, and not answered
		b.ping(1, 1)
		b.cluster.silence(false)
		synctest.Wait()
		b.expect("all", "1: 10", "1: 10", "1: 10", "1: 10")
		if s := b.Stats(); s.Sent != 3 || s.Shared != 1 {
			t.Errorf("got %+v", s)
		}
	})
}

func TestExpiredLeaseHoldsUpNobodyForLong(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		b.ping(4)
		b.cluster.expireTwo()
		b.ping(1, 2, 3, 4)
		if b.cluster.ordered {
			b.expect("until the stream is set aside", "1: 10", "4: 10", "4: 10")
			b.until(200 * time.Millisecond)
			b.expect("when it is", "3: 10")
		} else {
			b.expect("at once", "1: 10", "3: 10", "4: 10", "4: 10")
		}
		b.until(300 * time.Millisecond)
		b.ping(5, 6)
		b.expect("what is not known meanwhile", "5: 10", "6: 10")
		if n := b.Stats().Lookups; b.cluster.ordered && n != 5 { // two of that which holds up, and one of each that was behind it or came later
			b.Errorf("%d look-ups", n)
		}
		b.until(500 * time.Millisecond)
		b.ping(2)
		b.cluster.revoke(2)
		b.until(time.Second)
		b.expect("revoked", "2: 0", "2: 0")
		if _, most, _ := b.cluster.seen(); most > 3 {
			t.Errorf("%d streams at a time", most)
		}
	})
}

func TestPingOfAnExpiredLeaseFailsAfterASecond(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		b.cluster.expireTwo()
		b.ping(2)
		b.until(time.Second - lookupPause - 1)
		b.expect("before")
		b.until(time.Second)
		b.expect("after", "2: "+message(rpctypes.ErrGRPCTimeout))
		b.cluster.revoke(2)
		b.until(3 * time.Second)
		b.ping(2)
		b.expect("revoked", "2: 0")
	})
}

func TestLeaseWithLessThanASecondIsKeptWhenAnotherHoldsUpItsStream(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		b.until(9300 * time.Millisecond)
		b.cluster.expireTwo()
		b.ping(2, 3)
		b.until(9900 * time.Millisecond)
		b.expect("of which nothing was known", "3: 10")
	})
}

func TestSilentStreamIsSetAside(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		b.ping(1, 2)
		b.expect("before", "1: 10", "2: 10")
		b.cluster.silence(true)
		b.ping(1, 2, 2)
		b.until(400 * time.Millisecond)
		b.expect("silent")
		b.cluster.silence(false)
		synctest.Wait()
		b.expect("after", "1: 10", "2: 10", "2: 10")
		if s := b.Stats(); s.Silent != 1 || s.Lookups != 2 {
			t.Errorf("got %+v", s)
		}
	})
}

func TestNothingIsSentLaterThanASecondAfterItCame(t *testing.T) {
	for _, outage := range []struct {
		what  string
		want  error
		begin func(c *fakeCluster)
		end   func(c *fakeCluster)
	}{
		{
			"no stream", rpctypes.ErrGRPCTimeout,
			func(c *fakeCluster) {
				c.change(func() { c.away, c.closed = rpctypes.ErrGRPCCanceled, true })
				synctest.Wait()
				c.fail(nil)
			},
			func(c *fakeCluster) { c.change(func() { c.closed = false }) },
		},
		{
			"silence", rpctypes.ErrGRPCTimeout,
			func(c *fakeCluster) { c.silence(true) },
			func(c *fakeCluster) { c.silence(false) },
		},
		{
			"an error", rpctypes.ErrGRPCNoLeader,
			func(c *fakeCluster) { c.fail(rpctypes.ErrGRPCNoLeader) },
			func(c *fakeCluster) { c.fail(nil) },
		},
	} {
		t.Run(outage.what, func(t *testing.T) {
			onKeepalives(t, func(b *keepaliveBench) {
				b.ping(1)
				b.ping(1) // both lanes have a stream
				b.expect("before", "1: 10", "1: 10")
				outage.begin(b.cluster)
				b.until(5 * time.Second)
				b.ping(1, 2, 3)
				b.until(5500 * time.Millisecond)
				b.ping(4)
				b.until(6 * time.Second)
				want := message(outage.want)
				b.expect("a second later", "1: "+want, "2: "+want, "3: "+want)
				b.until(6500 * time.Millisecond)
				b.expect("another one later", "4: "+want)
				_, _, before := b.cluster.seen()
				outage.end(b.cluster)
				b.until(8 * time.Second)
				if _, _, after := b.cluster.seen(); len(after) != len(before) {
					t.Errorf("sent %v after the outage", after[len(before):])
				}
				b.ping(3)
				b.expect("afterwards", "3: 10")
			})
		})
	}
}

func TestPingsGoOnOnTheNextStream(t *testing.T) {
	for _, err := range []error{rpctypes.ErrGRPCLeaderChanged, rpctypes.ErrGRPCNotLeader, rpctypes.ErrGRPCStopped} {
		onKeepalives(t, func(b *keepaliveBench) {
			b.ping(1)
			b.cluster.fail(err)
			b.ping(1, 2)
			b.until(700 * time.Millisecond)
			b.expect("before", "1: 10")
			b.cluster.fail(nil)
			b.until(999 * time.Millisecond)
			b.expect("after "+err.Error(), "1: 10", "2: 10")
			if n := b.Stats().Opened; n > 20 {
				t.Errorf("opened %d streams", n)
			}
		})
	}
}

func TestErrorOfAnIdentityFailsItsPingsAtOnce(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		b.ping(1)
		b.cluster.silence(true)
		b.ping(1, 2)
		b.cluster.silence(false)
		synctest.Wait()
		b.cluster.fail(rpctypes.ErrGRPCInvalidAuthToken)
		b.ping(3, 4)
		want := message(rpctypes.ErrGRPCInvalidAuthToken)
		b.expect("all", "1: 10", "1: 10", "2: 10", "3: "+want, "4: "+want)
	})
}

func TestDeniedPingFailsAlone(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		b.cluster.change(func() { b.cluster.refuse[2] = rpctypes.ErrGRPCPermissionDenied })
		b.ping(1, 2, 3, 2, 4)
		b.until(time.Millisecond)
		want := message(rpctypes.ErrGRPCPermissionDenied)
		b.expect("all", "1: 10", "2: "+want, "2: "+want, "3: 10", "4: 10")
	})
}

func TestFewPingsAreUpstreamAtATime(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		for id := range int64(450) {
			b.cluster.grant(1000+id, 10)
		}
		b.cluster.silence(true)
		one, beside, others := fakeClient{of: "one"}, fakeClient{of: "one"}, make([]fakeClient, 2)
		for id := range int64(450) {
			b.Ping(1000+id, time.Now(), &one, 0)
		}
		synctest.Wait()
		if _, _, sent := b.cluster.seen(); len(sent) != maxUpstream {
			t.Errorf("%d are of one sink, which nobody else wants the places of", len(sent))
		}
		for id := range int64(50) {
			b.Ping(3000+id, time.Now(), &beside, 0)
		}
		synctest.Wait()
		if _, _, sent := b.cluster.seen(); len(sent) != maxUpstream+maxDoubtful-maxDoubtfulOfSink {
			t.Errorf("%d are of one client, and nobody else", len(sent))
		}
		for id := range int64(200) {
			b.Ping(1000+id, time.Now(), &others[id%2], 0) // shares
			b.Ping(2000+id, time.Now(), &others[id%2], 0)
		}
		synctest.Wait()
		if _, _, sent := b.cluster.seen(); len(sent) != maxUpstream+maxUpstream-maxDoubtfulOfSink {
			t.Errorf("%d are of all clients", len(sent))
		}
		b.cluster.silence(false)
		synctest.Wait()
		if n := len(one.take()); n != 450 {
			t.Errorf("%d of 450 were answered", n)
		}
	})
}

func TestTooManyPingsAreRefused(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		b.cluster.silence(true)
		for id := range int64(500) {
			b.Ping(1+id%7, time.Now(), &b.client, 0)
		}
		synctest.Wait()
		b.expect("half of all")
		b.ping(1)
		b.expect("one more", "1: "+message(rpctypes.ErrGRPCRequestTooManyRequests))
		b.until(time.Second)
		if n := len(b.client.take()); n != 500 {
			t.Errorf("%d of 500 have failed", n)
		}
		b.cluster.silence(false)
		b.ping(1)
		b.expect("afterwards", "1: 10")
	})
}

func TestAnswerThatComesTooLateIsNobodys(t *testing.T) {
	onCluster(t, false, func(b *keepaliveBench) {
		b.cluster.latency = func() time.Duration { return 150 * time.Millisecond }
		b.cluster.expireTwo()
		b.ping(2)
		for at := time.Duration(0); at < 1400*time.Millisecond; at += 100 * time.Millisecond { // the stream is not silent
			b.until(at)
			b.ping(100 + int64(at))
		}
		if s := b.Stats(); s.Silent != 0 {
			t.Fatalf("got %+v", s)
		}
		b.client.take()
		b.ping(2)
		b.until(1400 * time.Millisecond)
		b.cluster.revoke(2)
		b.cluster.grant(2, 20)
		b.until(3 * time.Second)
		got := b.client.take()
		if !slices.Contains(got, "2: 20") || slices.Contains(got, "2: 0") {
			t.Errorf("got %q", got)
		}
		n := 0
		_, _, sent := b.cluster.seen()
		for _, p := range sent {
			if p.id == 2 {
				n++
			}
		}
		if n != 2 {
			t.Errorf("lease 2 was pinged %d times upstream", n)
		}
	})
}

func TestCloseFailsEverything(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		b.ping(1)
		b.cluster.silence(true)
		b.ping(1, 2)
		b.until(300 * time.Millisecond) // some are looked up
		b.ping(1, 3)
		b.Keepalives.Close()
		b.ping(4)
		want := message(rpctypes.ErrGRPCStopped)
		b.expect("all", "1: 10", "1: "+want, "1: "+want, "2: "+want, "3: "+want, "4: "+want)
		if s := b.Stats(); s.Streams != 0 || s.Waiting != 0 {
			t.Errorf("got %+v", s)
		}
	})
}

func TestEachAnswerHasTheNumberOfItsPing(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		b.cluster.silence(true)
		for number := range uint64(4) { // the first is upstream, and the others share the next
			b.Ping(3, time.Now(), &b.client, 10+number)
			synctest.Wait()
		}
		b.cluster.silence(false)
		synctest.Wait()
		b.Ping(3, b.start.Add(-time.Minute), &b.client, 14) // is too old
		b.client.mu.Lock()
		defer b.client.mu.Unlock()
		var got []uint64
		for _, a := range b.client.answers {
			got = append(got, a.Number)
		}
		slices.Sort(got) // those that share the next may be told before the first is, see PingSink
		if !slices.Equal(got, []uint64{10, 11, 12, 13, 14}) {
			t.Errorf("got %v", got)
		}
	})
}
