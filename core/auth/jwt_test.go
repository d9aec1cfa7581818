package auth

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// keyFile writes a file for one test.
func keyFile(t testing.TB, name string, content []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// keyFiles writes a pair of keys.
func keyFiles(t testing.TB, private, public any) (privateFile, publicFile string) {
	t.Helper()
	priv, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return keyFile(t, "private.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: priv})),
		keyFile(t, "public.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pub}))
}

func newEC(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newEd(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// rsaKey is made once, since it takes a while.
var rsaKey = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

func TestEveryMethodSignsWhatItVerifies(t *testing.T) {
	files := map[string][2]string{}
	add := func(name string, private, public any) {
		priv, pub := keyFiles(t, private, public)
		files[name] = [2]string{priv, pub}
	}
	add("RSA", rsaKey(), &rsaKey().PublicKey)
	for name, curve := range map[string]elliptic.Curve{"256": elliptic.P256(), "384": elliptic.P384(), "512": elliptic.P521()} {
		key := newEC(t, curve)
		add("ES"+name, key, &key.PublicKey)
	}
	ed := newEd(t)
	add("EdDSA", ed, ed.Public())
	files["HMAC"] = [2]string{keyFile(t, "hmac", []byte("secret\n")), ""}

	for method, key := range map[string]string{
		"RS256": "RSA", "RS384": "RSA", "RS512": "RSA", "PS256": "RSA", "PS384": "RSA", "PS512": "RSA",
		"ES256": "ES256", "ES384": "ES384", "ES512": "ES512", "EdDSA": "EdDSA", "HS256": "HMAC", "HS384": "HMAC", "HS512": "HMAC",
	} {
		t.Run(method, func(t *testing.T) {
			private, public := files[key][0], files[key][1]
			signer := openWithUsers(t, Config{Token: "jwt,sign-method=" + method + ",priv-key=" + private})
			token := logIn(t, signer, "ann", 1)
			want := Identity{"ann", signer.Revision()}
			checkIdentity(t, signer, token, want)
			if public == "" {
				return
			}
			both := openWithUsers(t, Config{Token: "jwt,sign-method=" + method + ",priv-key=" + private + ",pub-key=" + public})
			checkIdentity(t, both, token, want)
			verifier := openWithUsers(t, Config{Token: "jwt,sign-method=" + method + ",pub-key=" + public})
			checkIdentity(t, verifier, token, want)
			if _, err := verifier.AssignToken("ann", "", 1); err != errVerifyOnly {
				t.Errorf("signing with a public key: %v", err)
			}
		})
	}
}

func checkIdentity(t *testing.T, s *Store, token string, want Identity) {
	t.Helper()
	for range 2 { // as it is verified, and as it is remembered
		if got, ok := s.Identify(token); !ok || got != want {
			t.Errorf("%s is %v, %v, want %v", token, got, ok, want)
		}
	}
}

func TestKeysThatDoNotFitAreRefusedAtStart(t *testing.T) {
	p256, p384, ed := newEC(t, elliptic.P256()), newEC(t, elliptic.P384()), newEd(t)
	priv256, pub256 := keyFiles(t, p256, &p256.PublicKey)
	priv384, pub384 := keyFiles(t, p384, &p384.PublicKey)
	privEd, pubEd := keyFiles(t, ed, ed.Public())
	privRSA, pubRSA := keyFiles(t, rsaKey(), &rsaKey().PublicKey)
	for options, want := range map[string]string{
		"sign-method=ES256,priv-key=" + priv384:                        "ES256 needs a key of 256 bits, not of curve P-384",
		"sign-method=ES384,pub-key=" + pub256:                          "ES384 needs a key of 384 bits, not of curve P-256",
		"sign-method=ES384,priv-key=" + priv384 + ",pub-key=" + pub256: "pub-key does not belong to priv-key",
		"sign-method=ES256,priv-key=" + priv256 + ",pub-key=" + pub384: "pub-key does not belong to priv-key",
		"sign-method=RS256,priv-key=" + priv256:                        "priv-key ",
		"sign-method=RS256,pub-key=" + pubEd:                           "pub-key ",
		"sign-method=EdDSA,priv-key=" + privRSA:                        "priv-key ",
		"sign-method=EdDSA,pub-key=" + pubRSA:                          "pub-key ",
		"sign-method=ES256,priv-key=" + privEd:                         "priv-key ",
		"sign-method=ES256,pub-key=" + priv256:                         "pub-key ",
	} {
		if _, err := Open(Config{Token: "jwt," + options}, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", options, err)
		}
	}
}

const hmacKey = "secret"

// openJWT has tokens of HS256 with hmacKey.
func openJWT(t testing.TB, clock Clock, options string) *Store {
	t.Helper()
	return openWithUsers(t, Config{Token: "jwt,sign-method=HS256,priv-key=" + keyFile(t, "hmac", []byte(hmacKey)) + options, Clock: clock})
}

func TestAJWTEndsByItsClockHoweverOftenItIsUsed(t *testing.T) {
	for options, ttl := range map[string]time.Duration{"": 5 * time.Minute, ",ttl=1h": time.Hour} {
		clock := newClock()
		s := openJWT(t, clock, options)
		token, unseen := logIn(t, s, "ann", 1), logIn(t, s, "bob", 1)
		want := Identity{"ann", s.Revision()}
		checkIdentity(t, s, token, want)
		clock.advance(ttl - 1)
		checkIdentity(t, s, token, want)
		clock.advance(1)
		for _, token := range []string{token, unseen} {
			if id, ok := s.Identify(token); ok {
				t.Errorf("after %v the token is %v", ttl, id)
			}
		}
	}
}

func TestAJWTHasTheRevisionOfItsSigning(t *testing.T) {
	s := openJWT(t, newClock(), "")
	token := logIn(t, s, "ann", 1)
	signed := Identity{"ann", s.Revision()}
	apply(t, s, &pb.AuthUserChangePasswordRequest{Name: "ann", HashedPassword: hash(t, s, "new")})
	checkIdentity(t, s, token, signed)
	if err := s.PermitRange(signed, []byte("a"), nil); err != rpctypes.ErrGRPCAuthOldRevision {
		t.Errorf("with it: %v", err)
	}
}

func TestOnlyATokenOfTheKeyAndTheMethodIsTaken(t *testing.T) {
	clock := newClock()
	s := openJWT(t, clock, "")
	later := clock.Now().Add(time.Minute).Unix()
	sign := func(method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
		token, err := jwt.NewWithClaims(method, claims).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	good := jwt.MapClaims{"username": "ann", "revision": 3, "exp": later}
	for name, c := range map[string]struct {
		token string
		ok    bool
	}{
		"as we sign it":             {sign(jwt.SigningMethodHS256, []byte(hmacKey), good), true},
		"without an end":            {sign(jwt.SigningMethodHS256, []byte(hmacKey), jwt.MapClaims{"username": "ann", "revision": 3}), true},
		"with claims of others":     {sign(jwt.SigningMethodHS256, []byte(hmacKey), jwt.MapClaims{"username": "ann", "revision": 3, "iss": 5}), true},
		"another key":               {sign(jwt.SigningMethodHS256, []byte(hmacKey+"\n"), good), false},
		"another method":            {sign(jwt.SigningMethodHS512, []byte(hmacKey), good), false},
		"no signature":              {sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, good), false},
		"not valid yet":             {sign(jwt.SigningMethodHS256, []byte(hmacKey), jwt.MapClaims{"username": "ann", "revision": 3, "nbf": later}), false},
		"no user":                   {sign(jwt.SigningMethodHS256, []byte(hmacKey), jwt.MapClaims{"revision": 3}), false},
		"a user that is no string":  {sign(jwt.SigningMethodHS256, []byte(hmacKey), jwt.MapClaims{"username": 1, "revision": 3}), false},
		"a user in another case":    {sign(jwt.SigningMethodHS256, []byte(hmacKey), jwt.MapClaims{"Username": "ann", "revision": 3}), false},
		"no revision":               {sign(jwt.SigningMethodHS256, []byte(hmacKey), jwt.MapClaims{"username": "ann"}), false},
		"a revision that is a text": {sign(jwt.SigningMethodHS256, []byte(hmacKey), jwt.MapClaims{"username": "ann", "revision": "3"}), false},
		"a revision below zero":     {sign(jwt.SigningMethodHS256, []byte(hmacKey), jwt.MapClaims{"username": "ann", "revision": -3}), false},
		"a revision beyond 64 bits": {sign(jwt.SigningMethodHS256, []byte(hmacKey), jwt.MapClaims{"username": "ann", "revision": 1e20}), false},
		"nothing":                   {"", false},
		"a simple token":            {"abcdefghijklmnop.1", false},
		"a signature that was cut":  {sign(jwt.SigningMethodHS256, []byte(hmacKey), good)[:80], false},
		"an end that is not a time": {sign(jwt.SigningMethodHS256, []byte(hmacKey), jwt.MapClaims{"username": "ann", "revision": 3, "exp": "x"}), false},
	} {
		if c.ok {
			checkIdentity(t, s, c.token, Identity{"ann", 3})
		} else if id, ok := s.Identify(c.token); ok {
			t.Errorf("%s: the token is %v", name, id)
		}
	}
}

func TestThePublicKeyIsNoSecret(t *testing.T) {
	private, public := keyFiles(t, rsaKey(), &rsaKey().PublicKey)
	s := openWithUsers(t, Config{Token: "jwt,sign-method=RS256,priv-key=" + private})
	known, err := os.ReadFile(public)
	if err != nil {
		t.Fatal(err)
	}
	forged, err := jwt.NewWithClaims(jwt.SigningMethodHS256, jwt.MapClaims{"username": root, "revision": 9}).SignedString(known)
	if err != nil {
		t.Fatal(err)
	}
	if id, ok := s.Identify(forged); ok {
		t.Errorf("the token is %v", id)
	}
}

func TestVerifiedTokensTakeBoundedMemory(t *testing.T) {
	s := openJWT(t, newClock(), "")
	tokens := s.tokens.(*jwtTokens)
	for i := range maxVerified + 100 {
		token, err := tokens.assign(fmt.Sprint("user", i), "", 0, 3)
		if err != nil {
			t.Fatal(err)
		}
		checkIdentity(t, s, token, Identity{fmt.Sprint("user", i), 3})
	}
	if len(tokens.valid) != maxVerified {
		t.Errorf("%d are kept", len(tokens.valid))
	}
	long, err := tokens.assign(strings.Repeat("x", maxVerifiedBytes), "", 0, 3)
	if err != nil {
		t.Fatal(err)
	}
	checkIdentity(t, s, long, Identity{strings.Repeat("x", maxVerifiedBytes), 3})
	if _, kept := tokens.valid[long]; kept {
		t.Error("a long one is kept")
	}
	if s.Close(); len(tokens.valid) > 0 {
		t.Error("some are kept after the end")
	}
}

func BenchmarkIdentifyJWT(b *testing.B) {
	key := newEC(b, elliptic.P256())
	private, _ := keyFiles(b, key, &key.PublicKey)
	s := openWithUsers(b, Config{Token: "jwt,sign-method=ES256,priv-key=" + private})
	token := logIn(b, s, "ann", 1)
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			s.Identify(token)
		}
	})
}
