package auth

import (
	"regexp"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// logIn hands out a token for a user.
func logIn(t testing.TB, s *Store, user string, index uint64) string {
	t.Helper()
	prefix, err := s.TokenPrefix()
	if err != nil {
		t.Fatal(err)
	}
	token, err := s.AssignToken(user, prefix, index)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// openWithUsers has authentication on, and the users ann and bob, with passwords.
func openWithUsers(t testing.TB, cfg Config) *Store {
	t.Helper()
	s := open(t, cfg)
	apply(t, s, withRoot()...)
	apply(t, s, addUserWithPassword(t, s, "ann", "secret"), addUserWithPassword(t, s, "bob", "secret"))
	return s
}

func TestASimpleTokenHasEtcdsForm(t *testing.T) {
	s := openWithUsers(t, Config{})
	seen := map[string]bool{}
	for range 100 {
		token := logIn(t, s, "ann", 42)
		if !regexp.MustCompile(`^[a-zA-Z]{16}\.42$`).MatchString(token) || seen[token] {
			t.Errorf("got %q", token)
		}
		seen[token] = true
	}
}

func TestASimpleTokenLivesATTLBeyondItsLastUse(t *testing.T) {
	for ttl, want := range map[time.Duration]time.Duration{0: 300 * time.Second, -1: 300 * time.Second, time.Minute: time.Minute} {
		clock := newClock()
		s := openWithUsers(t, Config{TokenTTL: ttl, Clock: clock})
		token := logIn(t, s, "ann", 1)
		for range 3 {
			clock.advance(want)
			if id, ok := s.Identify(token); !ok || id != (Identity{"ann", s.Revision()}) {
				t.Errorf("TTL %v: after %v the token is %v, %v", ttl, want, id, ok)
			}
		}
		clock.advance(want + 1)
		if id, ok := s.Identify(token); ok || id != (Identity{}) {
			t.Errorf("TTL %v: after more than that it is %v, %v", ttl, id, ok)
		}
	}
}

func TestChangesEndTheSimpleTokensThatTheyMust(t *testing.T) {
	for name, c := range map[string]struct {
		request  proto.Message
		ann, bob bool
	}{
		"password changed":        {&pb.AuthUserChangePasswordRequest{Name: "ann"}, false, true},
		"user deleted":            {&pb.AuthUserDeleteRequest{Name: "ann"}, false, true},
		"role granted":            {grantRole("ann", root), true, true},
		"authentication disabled": {disable(), false, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := openWithUsers(t, Config{})
			ann, bob := logIn(t, s, "ann", 1), logIn(t, s, "bob", 2)
			apply(t, s, c.request, enable())
			for token, want := range map[string]bool{ann: c.ann, bob: c.bob} {
				if id, ok := s.Identify(token); ok != want || ok && id.Revision != s.Revision() {
					t.Errorf("%s is %v, %v", token, id, ok)
				}
			}
		})
	}
}

func TestARefusedChangeEndsNoToken(t *testing.T) {
	s := openWithUsers(t, Config{})
	token := logIn(t, s, "ann", 1)
	if _, err := s.Apply(&pb.AuthUserChangePasswordRequest{Name: "ann", HashedPassword: "!"}); err == nil {
		t.Fatal("the change was granted")
	}
	if _, ok := s.Identify(token); !ok {
		t.Error("the token has ended")
	}
}

func TestATokenThatIsAssignedAgainIsTheSame(t *testing.T) {
	s := openWithUsers(t, Config{})
	first, _ := s.AssignToken("ann", "prefix", 7)
	again, err := s.AssignToken("ann", "prefix", 7)
	if err != nil || again != first {
		t.Errorf("got %s and %v, not %s", again, err, first)
	}
	checkRing(t, s.tokens.(*simpleTokens), 1)
}

func TestTooManySimpleTokensEndTheOneUnusedForLongest(t *testing.T) {
	clock := newClock()
	tokens := newSimpleTokens(clock, time.Hour, 1000)
	for i := range uint64(1000) {
		_, _ = tokens.assign("ann", "p", i, 1)
	}
	tokens.identify("p.0", 1)
	_, _ = tokens.assign("ann", "p", 1000, 1)
	for token, want := range map[string]bool{"p.0": true, "p.1": false, "p.2": true, "p.1000": true} {
		if _, ok := tokens.identify(token, 1); ok != want {
			t.Errorf("%s: %v", token, ok)
		}
	}
	checkRing(t, tokens, 1000)
}

func TestExpiredSimpleTokensAreTakenAway(t *testing.T) {
	clock := newClock()
	tokens := newSimpleTokens(clock, time.Minute, 1000)
	for i := range uint64(100) {
		_, _ = tokens.assign("ann", "p", i, 1)
	}
	clock.advance(time.Hour)
	for i := range uint64(100) {
		_, _ = tokens.assign("bob", "q", i, 1)
	}
	checkRing(t, tokens, 100)
	tokens.drop("bob")
	checkRing(t, tokens, 0)
}

// checkRing holds that the ring has what the map has, in the order of use.
func checkRing(t *testing.T, tokens *simpleTokens, want int) {
	t.Helper()
	n := 0
	for s := tokens.ring.next; s != &tokens.ring; s = s.next {
		if tokens.tokens[s.token] != s || s.next.prev != s {
			t.Fatalf("token %s is not in its place", s.token)
		}
		if s.next != &tokens.ring && s.next.used.Before(s.used) {
			t.Fatalf("token %s is before one that was used longer ago", s.token)
		}
		n++
	}
	if n != want || len(tokens.tokens) != want {
		t.Errorf("%d tokens in the ring and %d in the map, want %d", n, len(tokens.tokens), want)
	}
}

// TestAnEndedTokenNeverHasTheNewRevision asks for a token while the user's password changes.
func TestAnEndedTokenNeverHasTheNewRevision(t *testing.T) {
	s := openWithUsers(t, Config{})
	change := &pb.AuthUserChangePasswordRequest{Name: "ann", HashedPassword: hash(t, s, "secret")}
	for i := range uint64(500) {
		token, before := logIn(t, s, "ann", i), s.Revision()
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				id, ok := s.Identify(token)
				if !ok {
					return
				}
				if id.Revision != before {
					t.Errorf("the token of revision %d is %v", before, id)
					return
				}
			}
		})
		apply(t, s, change)
		wg.Wait()
	}
}

func BenchmarkIdentifySimple(b *testing.B) {
	s := openWithUsers(b, Config{})
	token := logIn(b, s, "ann", 1)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			s.Identify(token)
		}
	})
}
