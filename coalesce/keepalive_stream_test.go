package coalesce

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestStreamsAreClosedWhenNobodyPings(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		b.ping(1)
		b.ping(1)
		b.until(59 * time.Second)
		if streams, _, _ := b.cluster.seen(); b.Stats().Streams != 2 || streams != 2 {
			t.Errorf("%d streams, %+v", streams, b.Stats())
		}
		b.until(61 * time.Second)
		b.mu.Lock()
		serving := b.lanes[trusted].serving || b.lanes[doubtful].serving
		b.mu.Unlock()
		if streams, _, _ := b.cluster.seen(); b.Stats().Streams != 0 || streams != 0 || serving {
			t.Errorf("%d streams, %+v, somebody serves: %v", streams, b.Stats(), serving)
		}
		b.cluster.grant(1, 10)
		b.ping(1)
		b.expect("again", "1: 10", "1: 10", "1: 10")
	})
}

func TestStreamThatCannotBeOpenedIsGivenUp(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		b.cluster.change(func() { b.cluster.closed = true })
		for range 10 {
			b.ping(1)
			time.Sleep(200 * time.Millisecond)
		}
		if n := b.Stats().Opened; n != 2 {
			t.Errorf("tried %d times in two seconds", n)
		}
	})
}

func TestFewStreamsAreOpenThoughOnesThatWereSetAsideStay(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		b.cluster.sticky = make(chan struct{})
		b.ping(1, 2)
		b.cluster.silence(true)
		for range 40 {
			b.ping(1, 3)
			time.Sleep(100 * time.Millisecond)
		}
		if streams, most, _ := b.cluster.seen(); streams != maxStreams || most != maxStreams {
			b.Errorf("%d streams, at most %d", streams, most)
		}
		b.cluster.silence(false)
		close(b.cluster.sticky)
		time.Sleep(time.Second)
		b.client.take()
		b.ping(1, 3)
		b.expect("afterwards", "1: 10", "3: 10")
	})
}

func TestPongOfAStreamThatWasSetAsideIsNobodys(t *testing.T) {
	onKeepalives(t, func(b *keepaliveBench) {
		b.ping(1)
		b.ping(1)
		old := b.currentRun()
		b.cluster.silence(true)
		b.ping(1)
		b.until(300 * time.Millisecond)
		b.cluster.silence(false)
		synctest.Wait()
		b.cluster.silence(true)
		b.ping(1)
		b.expect("before", "1: 10", "1: 10", "1: 10")
		if b.currentRun() == old {
			b.Fatal("the stream was not set aside")
		}
		var out answers
		b.mu.Lock()
		b.received(old, []Pong{{ID: 1, TTL: 99}}, &out)
		b.mu.Unlock()
		if len(out) != 0 {
			b.Errorf("answered %+v", out)
		}
		b.cluster.silence(false)
	})
}

func TestStalledProcessDoesNotTakeStreamsForSilent(t *testing.T) {
	onCluster(t, true, func(b *keepaliveBench) {
		b.ping(1)
		b.cluster.silence(true)
		b.ping(1)
		b.mu.Lock()
		b.lanes[trusted].run.heard -= time.Second
		b.due -= time.Second // as if the timer had fired late
		b.running.Add(1)
		b.mu.Unlock()
		b.watch()
		b.cluster.silence(false)
		synctest.Wait()
		b.expect("both", "1: 10", "1: 10")
		if s := b.Stats(); s.Silent != 0 {
			t.Errorf("got %+v", s)
		}
	})
}
