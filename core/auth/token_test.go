package auth

import (
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

func TestOptionsOfATokenThatAreWrongAreToldInOneLine(t *testing.T) {
	hmac := "priv-key=" + keyFile(t, "hmac", []byte("secret"))
	empty := keyFile(t, "empty", nil)
	for option, want := range map[string]string{
		"none":                                    `the type of token "none" is not known: give simple or jwt`,
		"simple,foo":                              `the option "foo" is not of the form name=value`,
		"simple,":                                 `the option "" is not of the form name=value`,
		"jwt,a=b=c":                               `the option "a=b=c" is not of the form name=value`,
		"jwt,ttl=1m,ttl=2m":                       "the option ttl is there twice",
		"jwt":                                     `sign-method "" is not known: give one of RS256`,
		"jwt,sign-method=none":                    `sign-method "none" is not known`,
		"jwt,sign-method=hs256":                   `sign-method "hs256" is not known`,
		"jwt,sign-method=HS256":                   "sign-method HS256 needs a key: give its file with priv-key",
		"jwt,sign-method=ES256":                   "sign-method ES256 needs a key: give its file with priv-key, or with pub-key",
		"jwt,sign-method=HS256,ttl=x," + hmac:     `ttl "x" is not a time above zero`,
		"jwt,sign-method=HS256,ttl=0s," + hmac:    `ttl "0s" is not a time above zero`,
		"jwt,sign-method=HS256,priv-key=/none":    "read priv-key: open /none: ",
		"jwt,sign-method=RS256,pub-key=/none":     "read pub-key: open /none: ",
		"jwt,sign-method=HS256,priv-key=" + empty: "is empty",
		"jwt,sign-method=ES256," + hmac:           "priv-key ",
		"jwt,sign-method=RS256," + hmac:           "priv-key ",
		"jwt,sign-method=EdDSA," + hmac:           "priv-key ",
	} {
		_, err := Open(Config{Token: option}, nil)
		if err == nil {
			t.Errorf("%s is taken", option)
			continue
		}
		if msg := err.Error(); !strings.Contains(msg, "--auth-token") || !strings.Contains(msg, want) || strings.Contains(msg, "\n") {
			t.Errorf("%s: %s", option, msg)
		}
	}
}

func TestOptionsOfATokenThatAreUnknownAreIgnored(t *testing.T) {
	for _, option := range []string{"simple,foo=bar", "jwt,foo=bar,sign-method=HS256,priv-key=" + keyFile(t, "hmac", []byte("secret"))} {
		s, err := Open(Config{Token: option}, nil)
		if err != nil {
			t.Errorf("%s: %v", option, err)
			continue
		}
		s.Close()
	}
}

func TestAssignTokenGivesEtcdsErrors(t *testing.T) {
	s := open(t, Config{})
	apply(t, s, addUser("none"), addUserWithPassword(t, s, "ann", "secret"))
	if _, err := s.AssignToken("ann", "p", 1); err != rpctypes.ErrGRPCAuthNotEnabled {
		t.Errorf("while authentication is off: %v", err)
	}
	apply(t, s, withRoot()...)
	for user, want := range map[string]error{"ann": nil, "none": rpctypes.ErrGRPCAuthFailed, "eve": rpctypes.ErrGRPCAuthFailed} {
		if _, err := s.AssignToken(user, "p", 1); err != want {
			t.Errorf("%s: %v, want %v", user, err, want)
		}
	}
}

func TestIdentitiesHaveThePresentRevision(t *testing.T) {
	s := open(t, Config{})
	apply(t, s, withRoot()...)
	if got, want := s.IdentifyCN("ann"), (Identity{"ann", s.Revision()}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

// FuzzIdentify holds that no token stands for anybody but the user to whom the only ones were handed out. (The signature of
// one may be written in several ways.)
func FuzzIdentify(f *testing.F) {
	simple := open(f, Config{})
	signed := open(f, Config{Token: "jwt,sign-method=HS256,priv-key=" + keyFile(f, "hmac", []byte("secret"))})
	var ann Identity
	for _, s := range []*Store{simple, signed} {
		apply(f, s, withRoot()...)
		apply(f, s, addUserWithPassword(f, s, "ann", "secret"))
		token, err := s.AssignToken("ann", "abcdefghijklmnop", 7)
		if err != nil {
			f.Fatal(err)
		}
		ann = Identity{"ann", s.Revision()}
		f.Add(token)
		f.Add(strings.ToUpper(token))
		f.Add(token[:len(token)-1])
	}
	for _, token := range []string{"", ".", "abcdefghijklmnop.", "abcdefghijklmnop.07", "abcdefghijklmnop.+7", "..", "a.b.c", "e30.e30."} {
		f.Add(token)
	}
	f.Fuzz(func(t *testing.T, token string) {
		for _, s := range []*Store{simple, signed} {
			if id, ok := s.Identify(token); ok && id != ann {
				t.Errorf("%q is %v", token, id)
			}
		}
	})
}

// FuzzTokenOption holds that a refused option gives one line.
func FuzzTokenOption(f *testing.F) {
	for _, option := range []string{"", "simple", "jwt,sign-method=HS256,ttl=5m", "jwt,,=", "jwt,a=b,a=c", "simple,\n", "x=y"} {
		f.Add(option)
	}
	f.Fuzz(func(t *testing.T, option string) {
		if strings.Contains(option, "-key") {
			t.Skip("would read files")
		}
		s, err := Open(Config{Token: option}, nil)
		if err == nil {
			apply(t, s, &pb.AuthDisableRequest{})
			s.Close()
		} else if strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v", option, err)
		}
	})
}
