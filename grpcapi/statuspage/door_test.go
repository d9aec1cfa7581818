package statuspage

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"

	"weir/grpcapi/wire"
	"weir/internal/bubble"
)

var errDenied = rpctypes.ErrGRPCPermissionDenied

// lobby is a door, and upstream as it judges.
type lobby struct {
	*door
	tokens map[string]error // what upstream says of each; nobody's is ""
	away   bool
	asked  int // for permission
	logins int
}

func newLobby() *lobby {
	l := &lobby{tokens: map[string]error{"": rpctypes.ErrGRPCUserEmpty, "of-root": nil, "of-alice": errDenied}}
	l.door = newDoor(Config{
		Permit: func(ctx context.Context) error {
			l.asked++
			if l.away {
				return rpctypes.ErrGRPCTimeout
			}
			err, ok := l.tokens[tokenOf(ctx)]
			if !ok {
				return rpctypes.ErrGRPCInvalidAuthToken
			}
			return err
		},
		Login: func(_ context.Context, name, password string) (string, error) {
			l.logins++
			switch {
			case l.away:
				return "", rpctypes.ErrGRPCTimeout
			case l.tokens[""] == nil:
				return "", rpctypes.ErrGRPCAuthNotEnabled
			case password != name+"'s":
				return "", rpctypes.ErrGRPCAuthFailed
			}
			return "of-" + name, nil
		},
	})
	return l
}

// knock is the code with which somebody is answered.
func (l *lobby) knock(show func(*http.Request)) (code int, challenge string) {
	r := httptest.NewRequest(http.MethodGet, "/weir/status", nil)
	show(r)
	err := l.admit(r)
	if err == nil {
		return 200, ""
	}
	w := httptest.NewRecorder()
	refuse(w, err)
	return w.Code, w.Header().Get("WWW-Authenticate")
}

func nothing(*http.Request) {}

func token(t string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", t) }
}

func password(name, word string) func(*http.Request) {
	return func(r *http.Request) { r.SetBasicAuth(name, word) }
}

func TestOnlyRootIsLetIn(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l := newLobby()
		for _, c := range []struct {
			name string
			show func(*http.Request)
			want int
		}{
			{"nobody", nothing, 401}, {"root's token", token("of-root"), 200}, {"root's as a bearer's", token("Bearer of-root"), 200},
			{"another's token", token("of-alice"), 403}, {"a token that is none", token("x"), 401},
			{"root's password", password("root", "root's"), 200}, {"a wrong one", password("root", "x"), 401}, {"another's password", password("alice", "alice's"), 403},
		} {
			code, challenge := l.knock(c.show)
			if code != c.want || (challenge != "") != (code == 401) {
				t.Errorf("%s: got %d %q, want %d", c.name, code, challenge, c.want)
			}
		}
	})
}

func TestEverybodyIsLetInWhileAuthenticationIsOff(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l := newLobby()
		l.tokens = map[string]error{"": nil}
		for _, show := range []func(*http.Request){nothing, password("root", "whatever")} {
			if code, _ := l.knock(show); code != 200 {
				t.Errorf("got %d", code)
			}
		}
	})
}

func TestRightThatIsTakenAwayEndsWithinASecondAndUpstreamIsAskedOnceInOne(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l := newLobby()
		for range 10 {
			l.knock(token("of-root"))
		}
		if l.asked != 1 {
			t.Errorf("upstream was asked %d times", l.asked)
		}
		l.tokens["of-root"] = errDenied
		time.Sleep(passLife)
		if code, _ := l.knock(token("of-root")); code != 403 {
			t.Errorf("got %d", code)
		}
		l.away = true
		if code, _ := l.knock(token("of-root")); code != 503 {
			t.Errorf("who was refused is let in when upstream is away: got %d", code)
		}
	})
}

func TestWhoWasKnownStaysWhileUpstreamIsAway(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l := newLobby()
		l.knock(password("root", "root's"))
		l.away = true
		time.Sleep(5 * time.Minute)
		asked := l.asked
		for range 10 {
			if code, _ := l.knock(password("root", "root's")); code != 200 {
				t.Errorf("root: got %d", code)
			}
		}
		if l.asked != asked+1 {
			t.Errorf("root waited %d times for upstream", l.asked-asked)
		}
		if code, _ := l.knock(password("root", "guess")); code != 503 {
			t.Errorf("a stranger: got %d", code)
		}
		time.Sleep(outageLife)
		if code, _ := l.knock(password("root", "root's")); code != 503 {
			t.Errorf("root, much later: got %d", code)
		}
	})
}

func TestTokenOfAPasswordIsRenewedWhenItHasExpired(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l := newLobby()
		l.knock(password("root", "root's"))
		delete(l.tokens, "of-root")
		time.Sleep(passLife)
		if code, _ := l.knock(password("root", "root's")); code != 401 || l.logins != 2 {
			t.Errorf("got %d after %d logins", code, l.logins)
		}
		l.tokens["of-root"] = nil
		time.Sleep(passLife)
		if code, _ := l.knock(password("root", "root's")); code != 200 {
			t.Errorf("got %d", code)
		}
	})
}

func TestStrangersHaveAFewTriesASecondAndWhoIsKnownDoesNotWait(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l := newLobby()
		l.knock(password("root", "root's"))
		busy := 0
		for range 50 {
			if code, _ := l.knock(password("root", "guess")); code == 429 {
				busy++
			}
		}
		if busy != 50-(triesRate-1) || l.logins != triesRate {
			t.Errorf("%d were told to come later, and %d passwords tried", busy, l.logins)
		}
		if code, _ := l.knock(password("root", "root's")); code != 200 {
			t.Errorf("root: got %d", code)
		}
		time.Sleep(time.Second)
		if code, _ := l.knock(token("of-root")); code != 200 {
			t.Errorf("root with a token, a second later: got %d", code)
		}
	})
}

func TestCertificateCountsAsForAnRPC(t *testing.T) {
	named := func(name string) func(*http.Request) {
		return func(r *http.Request) {
			cert := &x509.Certificate{Raw: []byte(name), Subject: pkix.Name{CommonName: name}}
			r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{cert}}}
		}
	}
	l := newLobby()
	l.permit = func(ctx context.Context) error {
		if wire.CredentialsOf(ctx).CommonName == "root" {
			return nil
		}
		return errDenied
	}
	for name, want := range map[string]int{"root": 200, "alice": 403} {
		for range 2 {
			if code, _ := l.knock(named(name)); code != want {
				t.Errorf("%s: got %d, want %d", name, code, want)
			}
		}
	}
}

func TestWhoIsKnownIsBounded(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		l := newLobby()
		for i := range 2 * maxPasses {
			l.keep([32]byte{byte(i), byte(i >> 8)}, pass{checked: time.Now()})
			time.Sleep(time.Millisecond)
		}
		if _, ok := l.find([32]byte{byte(2*maxPasses - 1)}); len(l.known) != maxPasses || !ok {
			t.Errorf("%d are known, the last of them is %v", len(l.known), ok)
		}
	})
}

// tokenOf is what an RPC with this context would show.
func tokenOf(ctx context.Context) string {
	if t := metadata.ValueFromIncomingContext(ctx, rpctypes.TokenFieldNameGRPC); len(t) > 0 {
		return t[0]
	}
	return ""
}
