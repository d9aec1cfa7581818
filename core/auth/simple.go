package auth

import (
	"crypto/rand"
	"strconv"
	"sync"
	"time"
)

const (
	defaultTokenTTL = 300 * time.Second
	// prefixLetters of 52 are 91 bits. It is the form of etcd's tokens.
	prefixLetters = 16
	letters       = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	// maxSimpleTokens bounds what clients that log in again and again can make the member remember: 40 MiB.
	maxSimpleTokens = 1 << 18
)

// simpleTokens remembers whose each token is until it has not been used for a TTL.
//
// All tokens have the same TTL, so their order of last use is their order of expiry. They hang in a ring in that order:
// a use moves a token to the end, and the expired ones are at the front, where every call takes a few away. No
// goroutine has to look for them, and when there are too many, the one unused for longest goes.
type simpleTokens struct {
	clock Clock
	ttl   time.Duration
	limit int // of their number

	mu     sync.Mutex // guards everything below, and the tokens
	tokens map[string]*simpleToken
	ring   simpleToken // ring.next is the front, ring.prev the end
}

// simpleToken is a token that was handed out.
type simpleToken struct {
	token, user string
	used        time.Time
	prev, next  *simpleToken
}

func newSimpleTokens(clock Clock, ttl time.Duration, limit int) *simpleTokens {
	if ttl <= 0 {
		ttl = defaultTokenTTL
	}
	t := &simpleTokens{clock: clock, ttl: ttl, limit: limit}
	t.clear()
	return t
}

func (t *simpleTokens) prefix() string {
	prefix := make([]byte, 0, prefixLetters)
	var random [2 * prefixLetters]byte
	for {
		_, _ = rand.Read(random[:]) // cannot fail
		for _, b := range random {
			// 208 is 4 times 52: beyond, the first letters would come up more often.
			if b < 208 {
				prefix = append(prefix, letters[int(b)%len(letters)])
			}
			if len(prefix) == prefixLetters {
				return string(prefix)
			}
		}
	}
}

// assign gives a token anew that is there already, as when the log is applied again after a restart.
func (t *simpleTokens) assign(user, prefix string, index, _ uint64) (string, error) {
	token := prefix + "." + strconv.FormatUint(index, 10)
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.clock.Now()
	t.sweep(now)
	if old := t.tokens[token]; old != nil {
		t.remove(old)
	}
	if len(t.tokens) >= t.limit {
		t.remove(t.ring.next)
	}
	s := &simpleToken{token: token, user: user}
	t.tokens[token] = s
	t.use(s, now)
	return token, nil
}

func (t *simpleTokens) identify(token string, revision uint64) (Identity, bool) {
	now := t.clock.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sweep(now)
	s := t.tokens[token]
	if s == nil || t.expired(s, now) {
		return Identity{}, false
	}
	s.unlink()
	t.use(s, now)
	return Identity{User: s.user, Revision: revision}, true
}

func (t *simpleTokens) drop(user string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.tokens {
		if s.user == user {
			t.remove(s)
		}
	}
}

func (t *simpleTokens) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tokens = map[string]*simpleToken{}
	t.ring.prev, t.ring.next = &t.ring, &t.ring
}

// sweepTokens is how many expired tokens a call takes away at most. Two would be enough for their number to shrink.
const sweepTokens = 8

func (t *simpleTokens) sweep(now time.Time) {
	for range sweepTokens {
		front := t.ring.next
		if front == &t.ring || !t.expired(front, now) {
			return
		}
		t.remove(front)
	}
}

func (t *simpleTokens) expired(s *simpleToken, now time.Time) bool { return now.Sub(s.used) > t.ttl }

// use puts a token that is not in the ring at its end.
func (t *simpleTokens) use(s *simpleToken, now time.Time) {
	s.used = now
	s.prev, s.next = t.ring.prev, &t.ring
	s.prev.next, s.next.prev = s, s
}

func (t *simpleTokens) remove(s *simpleToken) {
	s.unlink()
	delete(t.tokens, s.token)
}

func (s *simpleToken) unlink() { s.prev.next, s.next.prev = s.next, s.prev }
