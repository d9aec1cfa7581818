package feed

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// apart is what Share says of a stream that comes now and must not be served from the hub.
func (b *bench) apart() context.Context {
	b.Helper()
	apart, err := b.set.Share(b.Context())
	if apart == nil || err != nil {
		b.Fatalf("watches are shared, or %v", err)
	}
	return apart
}

// awaitRegime waits until the Set has found out about upstream. It returns between two probes: one that is answered both before and
// after a change of authentication has seen a regime that was never there, and the next one ends what that began.
func (b *bench) awaitRegime() { time.Sleep(4*probeInterval + probeInterval/4) }

func (b *bench) wantRejoined(apart context.Context) {
	b.Helper()
	select {
	case <-apart.Done():
	case <-time.After(2 * probeInterval):
		b.Fatal("what was forwarded is not ended when sharing begins")
	}
	if err := context.Cause(apart); status.Code(err) != codes.Unavailable {
		b.Errorf("clients are told %v, with which they do not come again", err)
	}
	if again, err := b.set.Share(b.Context()); again != nil || err != nil {
		b.Errorf("watches are not shared: %v, %v", again, err)
	}
}

func TestWhatIsForwardedEndsWhenSharingBegins(t *testing.T) {
	for name, begin := range map[string]func(*bench){
		"authentication is off": func(b *bench) { b.cluster.setAuth(false) },
		"the proxy is known":    func(b *bench) { b.cluster.know() },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 1, nil, func(b *bench) {
				b.cluster.setAuth(true)
				b.awaitRegime()
				apart := b.apart()
				begin(b)
				b.wantRejoined(apart)
			})
		})
	}
}

func TestWhatIsForwardedGoesOnWhileNothingIsShared(t *testing.T) {
	inBubble(t, 3, nil, func(b *bench) {
		b.cluster.setAuth(true)
		b.awaitRegime()
		apart := b.apart()
		for _, m := range b.cluster.members { // each is asked anew
			time.Sleep(time.Minute)
			m.kill()
			m.start()
		}
		b.awaitRegime()
		if apart.Err() != nil {
			b.Errorf("it has ended: %v", context.Cause(apart))
		}
		if b.apart() != apart {
			b.Error("streams that come later are ended by themselves")
		}
	})
}

// What upstream allows may change faster than anybody comes again.
func TestEachTimeThatSharingBeginsEndsWhatWasForwardedBefore(t *testing.T) {
	inBubble(t, 1, nil, func(b *bench) {
		for range 20 {
			b.cluster.setAuth(true)
			b.awaitRegime()
			apart := b.apart()
			b.cluster.setAuth(false)
			b.wantRejoined(apart)
		}
	})
}

// From one regime to another under which watches are shared there is a moment at which they are not.
func TestWhatIsForwardedBetweenTwoRegimesEnds(t *testing.T) {
	inBubble(t, 1, nil, func(b *bench) {
		b.cluster.know()
		sink := &apartSink{b: b, apart: make(chan context.Context, 1)}
		s := b.set.Hub().NewStream(sink)
		defer s.Close()
		b.watch(s, "a", "")
		b.cluster.setAuth(true)
		apart := <-sink.apart
		if apart == nil {
			b.Fatal("a stream is served from the hub while what that has is ended")
		}
		b.wantRejoined(apart)
		if era, guards := b.set.Guarded(); !guards {
			b.Errorf("era %d is not guarded", era)
		}
	})
}

// apartSink asks whether watches are shared when they cease to be.
type apartSink struct {
	countingSink
	b     *bench
	apart chan context.Context
}

func (s *apartSink) Ended(error) {
	apart, err := s.b.set.Share(s.b.Context())
	if err != nil {
		s.b.Error(err)
	}
	s.apart <- apart
}

// The proxy's own name is enough once authentication has been switched on, and so it would show nothing.
func TestCheckUnderAnOldRegimeIsNotAnswered(t *testing.T) {
	inBubble(t, 1, nil, func(b *bench) {
		synctest.Wait()
		b.cluster.know()
		b.cluster.setAuth(true)
		if rev, err := b.set.Check(b.Context()); err == nil {
			b.Errorf("revision %d is said to be for everybody", rev)
		}
		if now := b.set.Standing(); now.Shared && !now.Guarded {
			b.Errorf("standing is %+v", now)
		}
		b.awaitRegime()
		if _, err := b.set.Check(b.Context()); err != nil {
			b.Errorf("a check for those who are authorised: %v", err)
		}
	})
}

func TestLateRefusalOfACheckUnderAnOldRegimeEndsNothing(t *testing.T) {
	inBubble(t, 1, nil, func(b *bench) {
		synctest.Wait()
		b.set.mu.Lock()
		old := b.set.session
		b.set.mu.Unlock()
		b.cluster.know()
		b.cluster.setAuth(true)
		b.awaitRegime()
		era, guards := b.set.Guarded()
		if _, err := b.set.askRevision(b.Context(), old, false); err == nil {
			b.Error("nobody is answered while authentication is on")
		}
		if now, still := b.set.Guarded(); !guards || !still || now != era {
			b.Errorf("era %d, guarded %v; then era %d, guarded %v", era, guards, now, still)
		}
	})
}
