package feed

import (
	"testing"
	"testing/synctest"
	"time"

	"weir/coalesce"
)

func TestAStateIsProvenOnlyByWhatItHas(t *testing.T) {
	inBubble(t, 1, nil, func(b *bench) {
		synctest.Wait()
		var at []time.Time // by number of the check
		var revs []int64
		for range 100 {
			b.cluster.write(fakeOp{key: "a", value: []byte("v")})
			time.Sleep(proofInterval)
			at = append(at, time.Now())
			rev, err := b.set.Check(b.Context())
			if err != nil {
				b.Fatal(err)
			}
			revs = append(revs, rev)
		}
		for i, rev := range revs {
			proven := b.set.ProvenAt(rev)
			if i+1 < len(at) && proven.After(at[i+1]) {
				b.Errorf("revision %d is proven at %v, when revision %d was there", rev, proven, revs[i+1])
			}
			if i > len(revs)-maxProofs/2 && proven.Before(at[i]) {
				b.Errorf("revision %d is proven only at %v, and was checked at %v", rev, proven, at[i])
			}
		}
		if proven := b.set.ProvenAt(revs[0] - 1); !proven.IsZero() && proven.After(at[0]) {
			b.Errorf("revision %d is proven at %v", revs[0]-1, proven)
		}
	})
}

func TestQuietUpstreamIsProvenFreshEachSecond(t *testing.T) {
	inBubble(t, 1, nil, func(b *bench) {
		for range 10 {
			time.Sleep(quorumInterval)
			synctest.Wait()
			if age := time.Since(b.set.ProvenAt(b.cluster.head())); age > 2*quorumInterval {
				b.Errorf("nothing has been proven for %v", age)
			}
			if now := b.set.Standing(); !now.Shared || !now.Confirmed || !now.Connected {
				b.Errorf("standing is %+v", now)
			}
		}
	})
}

func TestWithoutAMemberACheckFailsAtOnce(t *testing.T) {
	inBubble(t, 1, nil, func(b *bench) {
		synctest.Wait()
		era := b.set.Era()
		b.cluster.members[0].kill()
		for b.set.Standing().Connected {
			time.Sleep(time.Millisecond)
		}
		began := time.Now()
		if rev, err := b.set.Check(b.Context()); err == nil || time.Since(began) > 0 {
			b.Errorf("revision %d, %v after %v", rev, err, time.Since(began))
		}
		time.Sleep(2 * trust)
		if now := b.set.Standing(); !now.Shared || now.Confirmed || now.Era != era {
			b.Errorf("standing is %+v, era was %d", now, era)
		}
	})
}

func TestACheckWithoutAnswerIsWaitedForOnlyOnce(t *testing.T) {
	inBubble(t, 1, nil, func(b *bench) {
		synctest.Wait()
		m := b.cluster.members[0]
		isolate := func(is bool) { m.set(func() { m.isolated = is }) }
		isolate(true)
		for i, most := range []time.Duration{2 * checkPatience, 0, 0, 0} {
			began := time.Now()
			if rev, err := b.set.Check(b.Context()); err == nil || time.Since(began) > most {
				b.Errorf("check %d: revision %d, %v after %v, want at most %v", i, rev, err, time.Since(began), most)
			}
		}
		isolate(false)
		began := time.Now()
		for _, err := b.set.Check(b.Context()); err != nil; _, err = b.set.Check(b.Context()) {
			if time.Since(began) > 2*checkPatience {
				b.Fatalf("no check succeeds: %v", err)
			}
			time.Sleep(time.Millisecond)
		}
	})
}

func TestAuthenticationBeginsAnotherEra(t *testing.T) {
	inBubble(t, 1, nil, func(b *bench) {
		synctest.Wait()
		era := b.set.Era()
		b.cluster.setAuth(true)
		if _, err := b.set.Check(b.Context()); err == nil {
			b.Error("a check was answered without an identity")
		}
		if now := b.set.Standing(); now.Shared || now.Confirmed || now.Era == era {
			b.Errorf("standing is %+v, era was %d", now, era)
		}
		if at := b.set.ProvenAt(1 << 60); !at.IsZero() {
			b.Errorf("proven at %v", at)
		}
	})
}

// The feed's range is quiet, so that only progress can bring it to where the store is.
func TestWhoKnowsARevisionNeedNotAskForIt(t *testing.T) {
	inBubble(t, 1, nil, func(b *bench) {
		sink := &progressSink{told: make(chan int64, 1)}
		s := b.set.Hub().NewStream(sink)
		defer s.Close()
		b.watch(s, "quiet", "")
		synctest.Wait()
		for range 10 {
			b.cluster.write(fakeOp{key: "a", value: []byte("v")})
			head, asked := b.cluster.head(), b.set.now.sent.Load()
			began := time.Now()
			s.Await(head)
			if rev := <-sink.told; rev < head {
				b.Errorf("told %d, want %d", rev, head)
			}
			if took := time.Since(began); took > progressRetry {
				b.Errorf("progress took %v", took)
			}
			if n := b.set.now.sent.Load() - asked; n > 0 {
				b.Errorf("upstream was asked %d times where it is", n)
			}
		}
	})
}

// progressSink tells the progress of its stream.
type progressSink struct {
	countingSink
	told chan int64
}

func (s *progressSink) Progress(_ *coalesce.Watcher, rev int64, _ int) bool {
	s.told <- rev
	return true
}
