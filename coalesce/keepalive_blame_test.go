package coalesce

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func newTestRand(t *testing.T) *rand.Rand {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// A hundred clients ping their leases, and one a lease that it may not. It alone is told so, again and again.
func TestClientThatIsRefusedDisturbsNobody(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		b.cluster.latency = func() time.Duration { return time.Millisecond }
		b.cluster.refuse[2] = rpctypes.ErrGRPCPermissionDenied
		var clients [100]fakeClient
		var refused fakeClient
		for i := range clients {
			b.cluster.grant(int64(100+i), 10)
		}
		const rounds = 40
		var (
			opened  uint64
			streams [pingLanes]*pingRun
		)
		for round := range rounds {
			for i := range clients {
				if i == 50 {
					b.Ping(2, time.Now(), &refused, 0)
				}
				b.Ping(int64(100+i), time.Now(), &clients[i], 0)
			}
			b.Ping(77, time.Now(), &b.client, 0) // is not there, and so is never known
			b.until(time.Duration(1+round) * 500 * time.Millisecond)
			if round == 1 {
				opened = b.Stats().Opened
				streams = b.runs()
			}
		}
		for i := range clients {
			if n, d := clients[i].slowest(b.start); n != rounds || d > rounds*500*time.Millisecond {
				b.Errorf("client %d had %d answers", i, n)
			}
			want := fmt.Sprintf("%d: 10", 100+i)
			for _, got := range clients[i].take() {
				if got != want {
					b.Fatalf("client %d: got %q, want %q", i, got, want)
				}
			}
		}
		if got := b.client.take(); len(got) != rounds || got[0] != "77: 0" {
			b.Errorf("who pings what is not known: %q", got)
		}
		answers := refused.take()
		want := "2: " + message(rpctypes.ErrGRPCPermissionDenied)
		for _, got := range answers {
			if got != want {
				b.Errorf("the client that is refused: got %q, want %q", got, want)
			}
		}
		if len(answers) != rounds {
			b.Errorf("the client that is refused has %d answers", len(answers))
		}
		if now := b.runs(); now[trusted] != streams[trusted] || now[doubtful] != streams[doubtful] {
			b.Error("the stream of others has ended, though it is known who is refused")
		}
		if n := b.Stats().Opened - opened; b.cluster.ordered && n != rounds-2 || !b.cluster.ordered && n != 0 {
			b.Errorf("%d more streams were opened", n)
		}
	})
}

func TestLeaseThatMayBePingedAgainIs(t *testing.T) {
	onCluster(t, true, func(b *keepaliveBench) {
		b.cluster.refuse[2] = rpctypes.ErrGRPCPermissionDenied
		b.ping(2)
		b.expect("before", "2: "+message(rpctypes.ErrGRPCPermissionDenied))
		b.cluster.change(func() { delete(b.cluster.refuse, 2) })
		b.ping(2)
		b.ping(2)
		b.expect("after", "2: 10", "2: 10")
		if b.runs()[alone] != nil {
			b.Error("a stream is kept for what is hardly ever refused")
		}
	})
}

// An ordered stream ends by the first ping that has no answer, also if nobody waits for that any more.
func TestOnlyTheFirstPingIsBlamed(t *testing.T) {
	onCluster(t, true, func(b *keepaliveBench) {
		b.cluster.latency = func() time.Duration { return 150 * time.Millisecond }
		b.cluster.refuse[2] = rpctypes.ErrGRPCPermissionDenied
		b.Ping(2, b.start.Add(-900*time.Millisecond), &b.client, 0)
		b.ping(3, 4)
		b.until(100 * time.Millisecond)
		b.expect("too late for an answer", "2: "+message(rpctypes.ErrGRPCTimeout))
		b.until(500 * time.Millisecond)
		b.expect("behind it", "3: 10", "4: 10")
	})
}

// An error that may be of the ping, or of the stream, is found out by sending the ping alone.
func TestPingWithWhichAStreamFailsIsSentAlone(t *testing.T) {
	onCluster(t, true, func(b *keepaliveBench) {
		b.cluster.refuse[2] = status.Error(codes.Internal, "it is odd")
		b.ping(1, 2, 3)
		b.until(50 * time.Millisecond)
		b.expect("others", "1: 10", "3: 10")
		b.until(200 * time.Millisecond)
		b.ping(1)
		run := b.currentRun()
		b.until(800 * time.Millisecond)
		b.ping(3)
		b.expect("others", "1: 10", "3: 10")
		if b.currentRun() != run || run == nil {
			b.Error("others' stream has ended")
		}
		b.until(time.Second)
		b.expect("in the end", "2: "+message(rpctypes.ErrGRPCTimeout))
		b.ping(2)
		b.until(1100 * time.Millisecond)
		b.cluster.change(func() { delete(b.cluster.refuse, 2) })
		b.until(1500 * time.Millisecond)
		b.expect("when it has passed", "2: 10")
	})
}

// Who may not read the keys of a lease may yet write them, and so ping it.
func TestLeaseThatMayNotBeLookedUpIsPinged(t *testing.T) {
	onCluster(t, true, func(b *keepaliveBench) {
		b.cluster.hidden[3] = true
		b.cluster.expireTwo()
		b.ping(2, 3, 4)
		b.until(250 * time.Millisecond)
		b.expect("held up by another", "3: 10", "4: 10")
		b.cluster.change(func() { b.cluster.hidden[2] = true })
		b.until(time.Second)
		b.expect("that which holds up", "2: "+message(rpctypes.ErrGRPCTimeout))
	})
}

func TestChangeOfUsersUnderAPingIsNoRefusal(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		b.cluster.refuse[2] = rpctypes.ErrGRPCAuthOldRevision
		b.ping(1, 2)
		b.cluster.change(func() { delete(b.cluster.refuse, 2) })
		b.until(500 * time.Millisecond)
		b.expect("both", "1: 10", "2: 10")
	})
}

// The second of a ping is counted from when the client's message was read, whoever shares it.
func TestSecondOfAPingIsCountedFromItsArrival(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		timeout := message(rpctypes.ErrGRPCTimeout)
		b.Ping(1, b.start.Add(-time.Second), &b.client, 0)
		b.expect("too late", "1: "+timeout)
		b.cluster.silence(true)
		b.Ping(1, b.start.Add(-900*time.Millisecond), &b.client, 0)
		b.ping(2)
		b.Ping(2, b.start.Add(-850*time.Millisecond), &b.client, 0) // waits behind it
		b.Ping(2, b.start.Add(-875*time.Millisecond), &b.client, 0)
		synctest.Wait()
		b.until(99 * time.Millisecond)
		b.expect("before")
		b.until(100 * time.Millisecond)
		b.expect("the first", "1: "+timeout)
		b.until(125 * time.Millisecond)
		b.expect("one that shares", "2: "+timeout)
		b.until(150 * time.Millisecond)
		b.expect("and the other one", "2: "+timeout)
		b.cluster.silence(false)
		synctest.Wait()
		b.expect("that which came now", "2: 10")
		if _, _, sent := b.cluster.seen(); len(sent) != 2 {
			b.Errorf("sent %v", sent)
		}
	})
}
