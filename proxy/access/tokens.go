package access

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/golang-jwt/jwt/v5"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/wire"
)

// tokens are whose the clients' tokens are, as far as that is known. Upstream tells nobody. But who authenticates through the
// proxy names a user and is given the token; and a JWT names the user itself, which counts when upstream has been seen to
// take the token for valid.
//
// That a token is found here says nothing of whether it is still valid. It is bounded: what has not been used for long gives
// way, and its owner is then unknown.
type tokens struct {
	clock clock

	mu     sync.RWMutex // guards what follows
	byText map[string]*token
	byID   map[uint64]*token
	lastID uint64
	bytes  int
}

// token is one.
type token struct {
	id   uint64 // never used again for another
	text string
	used atomic.Bool // since eviction last came by
	// seen is when upstream was first seen to have given or taken the token. What was known of its user before says nothing:
	// there may have been another one of that name, who has been deleted.
	seen time.Duration

	mu     sync.Mutex // guards what follows
	name   string     // of the user; "" if it is not known
	proven bool       // it is that user's
	// A JWT may be anybody's work, and while authentication is off upstream takes every token. So that upstream has taken it
	// proves something only if authentication has been on all the time, from before the question to after the answer:
	// if the generation in which it was asked has been shown by an AuthStatus sent afterwards.
	taken    *generation
	answered time.Duration
}

const (
	maxTokens     = 1 << 17
	maxTokenBytes = 64 << 20
)

func newTokens(c clock) *tokens {
	return &tokens{clock: c, byText: map[string]*token{}, byID: map[uint64]*token{}}
}

func (t *tokens) find(text string) *token {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byText[text]
}

// userOf returns whose the token with an id is, as token.user does.
func (t *tokens) userOf(id uint64) (name string, ok bool) {
	t.mu.RLock()
	k := t.byID[id]
	t.mu.RUnlock()
	if k == nil {
		return "", false
	}
	return k.user()
}

// get finds a token or adds it. Only tokens that upstream has given or taken are to be added.
func (t *tokens) get(text string) *token {
	if k := t.find(text); k != nil {
		k.use()
		return k
	}
	k := &token{text: text, name: claimOf(text), seen: t.clock.now()}
	t.mu.Lock()
	defer t.mu.Unlock()
	if was := t.byText[text]; was != nil {
		return was
	}
	for len(t.byText) >= maxTokens || len(t.byText) > 0 && t.bytes+k.size() > maxTokenBytes {
		t.evict()
	}
	t.lastID++
	k.id = t.lastID
	t.byText[text], t.byID[k.id] = k, k
	t.bytes += k.size()
	return k
}

// evict drops one token of a few that the map happens to begin with, if possible one that was not used since it was last
// looked at. t.mu is held.
func (t *tokens) evict() {
	const looks = 8
	var victim *token
	n := 0
	for _, victim = range t.byText {
		if n++; !victim.used.Swap(false) || n == looks {
			break
		}
	}
	delete(t.byText, victim.text)
	delete(t.byID, victim.id)
	t.bytes -= victim.size()
}

func (k *token) size() int { return 320 + 2*len(k.text) } // a name in a JWT is a part of it

// use is called for each use. Most find it used already.
func (k *token) use() {
	if !k.used.Load() {
		k.used.Store(true)
	}
}

// user returns whose the token is; false if that is not known for certain.
func (k *token) user() (name string, ok bool) {
	k.use()
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.proven && k.name != "" && k.taken != nil && k.taken.enabled && time.Duration(k.taken.shown.Load()) > k.answered {
		k.proven = true
	}
	return k.name, k.proven
}

// give records that upstream has given the token to a user.
func (k *token) give(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.name, k.proven = name, true
}

// take records that upstream, asked in this generation, has taken the token for valid.
func (k *token) take(asked *generation, answered time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if asked != nil && asked != k.taken { // the first answer of a generation is the first to be confirmed
		k.taken, k.answered = asked, answered
	}
}

// took is told of each token that upstream has allowed something.
func (t *tokens) took(c client, asked *generation, answered time.Duration) {
	k := t.find(c.credential())
	if k == nil {
		if claimOf(c.credential()) == "" {
			return // nothing is to be learned
		}
		k = t.get(c.credential())
	}
	if _, known := k.user(); !known {
		k.take(asked, answered)
	}
}

// claimOf is the user that a JWT names; "" for every other token. Nothing is verified.
func claimOf(text string) string {
	var claims struct {
		jwt.RegisteredClaims
		Username string `json:"username"`
	}
	if _, _, err := jwt.NewParser().ParseUnverified(text, &claims); err != nil {
		return ""
	}
	return claims.Username
}

// Authenticated learns whose a token is from a client's Authenticate that upstream has answered with success.
func (g *Guard) Authenticated(req, resp wire.Raw) {
	var (
		asked    pb.AuthenticateRequest
		answered pb.AuthenticateResponse
	)
	if proto.Unmarshal(req, &asked) != nil || proto.Unmarshal(resp, &answered) != nil || answered.Token == "" {
		return
	}
	g.tokens.get(answered.Token).give(asked.Name)
}
