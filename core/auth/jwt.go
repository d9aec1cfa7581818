package auth

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const defaultJWTTTL = 5 * time.Minute

// errVerifyOnly is what etcd says when only the public key is known.
var errVerifyOnly = status.Error(codes.Unknown, "auth: token signing attempted with verify-only key")

// jwtTokens signs tokens (RFC 7519) that hold the user and the revision, and needs to remember none of them. So a token
// cannot be ended before its time, but it is of no use on keys after the next change of users and roles, being of an old
// revision. The claims are etcd's, so both accept what the other has signed.
//
// A token comes with every request, and to verify it may cost several times what the request does. So those that were
// found valid are kept with what they say. Nobody without the key can fill that memory.
type jwtTokens struct {
	clock  Clock
	ttl    time.Duration
	method jwt.SigningMethod
	key    jwtKey
	parser *jwt.Parser

	mu    sync.RWMutex // guards valid
	valid map[string]verified
}

// verified is what a valid token says.
type verified struct {
	id      Identity
	expires time.Time // zero for never
}

// What is kept of verified tokens takes at most 5 MiB. A longer token, which etcd and weir do not make, is verified each time.
const (
	maxVerified      = 4096
	maxVerifiedBytes = 1024 // of one token
)

// newJWT reads the options of a JWT. Those that are not known are ignored with a warning, as at etcd.
func newJWT(options map[string]string, clock Clock, logger *slog.Logger) (*jwtTokens, error) {
	t := &jwtTokens{clock: clock, ttl: defaultJWTTTL, valid: map[string]verified{}}
	var err error
	if ttl := options["ttl"]; ttl != "" {
		if t.ttl, err = time.ParseDuration(ttl); err != nil || t.ttl <= 0 {
			return nil, fmt.Errorf("ttl %q is not a time above zero: give one such as 5m", ttl)
		}
	}
	name := options["sign-method"]
	if t.method = jwt.GetSigningMethod(name); t.method == nil || t.method == jwt.SigningMethodNone {
		return nil, fmt.Errorf("sign-method %q is not known: give one of RS256, RS384, RS512, PS256, PS384, PS512, "+
			"ES256, ES384, ES512, HS256, HS384, HS512 and EdDSA", name)
	}
	if t.key, err = readJWTKey(t.method, options["priv-key"], options["pub-key"]); err != nil {
		return nil, err
	}
	t.parser = jwt.NewParser(jwt.WithValidMethods([]string{t.method.Alg()}), jwt.WithTimeFunc(clock.Now))
	if _, err := t.assign("", "", 0, 0); err != nil && !errors.Is(err, errVerifyOnly) {
		return nil, fmt.Errorf("the key does not fit sign-method %s: %w", name, err)
	}
	known := map[string]bool{"ttl": true, "sign-method": true, "priv-key": true, "pub-key": true}
	for _, name := range slices.Sorted(maps.Keys(options)) {
		if !known[name] {
			logger.Warn("an option of --auth-token is not known: it is ignored", "option", name)
		}
	}
	return t, nil
}

func (t *jwtTokens) prefix() string { return "" }

func (t *jwtTokens) assign(user, _ string, _, revision uint64) (string, error) {
	if t.key.sign == nil {
		return "", errVerifyOnly
	}
	token, err := jwt.NewWithClaims(t.method, jwt.MapClaims{
		"username": user,
		"revision": revision,
		"exp":      t.clock.Now().Add(t.ttl).Unix(),
	}).SignedString(t.key.sign)
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	return token, nil
}

func (t *jwtTokens) identify(token string, _ uint64) (Identity, bool) {
	t.mu.RLock()
	v, ok := t.valid[token]
	t.mu.RUnlock()
	if !ok {
		if v, ok = t.verify(token); ok && len(token) <= maxVerifiedBytes {
			t.keep(token, v)
		}
		return v.id, ok
	}
	if !v.expires.IsZero() && !t.clock.Now().Before(v.expires) {
		return Identity{}, false
	}
	return v.id, true
}

// keep forgets some other token when there are too many. Which one does not matter: it is verified again.
func (t *jwtTokens) keep(token string, v verified) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.valid) >= maxVerified {
		for other := range t.valid {
			delete(t.valid, other)
			break
		}
	}
	t.valid[token] = v
}

// verify returns what a token says if it is signed with the key, is valid now, and says user and revision.
func (t *jwtTokens) verify(token string) (v verified, ok bool) {
	// Not a struct: names must match in case too, and claims that are not looked at may be of any kind.
	claims := jwt.MapClaims{}
	if _, err := t.parser.ParseWithClaims(token, claims, func(*jwt.Token) (any, error) { return t.key.verify, nil }); err != nil {
		return verified{}, false
	}
	user, isString := claims["username"].(string)
	revision, isNumber := claims["revision"].(float64)
	if !isString || !isNumber || revision < 0 || revision >= math.MaxUint64 {
		return verified{}, false
	}
	v.id = Identity{User: user, Revision: uint64(revision)}
	if expires, err := claims.GetExpirationTime(); err == nil && expires != nil {
		v.expires = expires.Time
	}
	return v, true
}

func (t *jwtTokens) drop(string) {}

func (t *jwtTokens) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.valid)
}
