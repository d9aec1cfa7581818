package auth

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// issuer hands out tokens and knows whose they are. The applier calls assign, drop and clear; anybody identify.
type issuer interface {
	// prefix returns what the proposer of a token adds to its request, so that the token can be told by nobody else.
	prefix() string
	// assign returns a new token for a user at a revision, for a request at an index of the log.
	assign(user, prefix string, index, revision uint64) (string, error)
	// identify returns whose a token is. The revision is the present one.
	identify(token string, revision uint64) (Identity, bool)
	// drop ends the tokens of a user, as far as they can be ended.
	drop(user string)
	// clear ends all tokens, as far as they can be ended.
	clear()
}

// TokenPrefix returns what is to be given to AssignToken. The member that proposes the request draws it, since all
// members must come to the same token. It is empty for a JWT.
func (s *Store) TokenPrefix() (string, error) { return s.tokens.prefix(), nil }

// AssignToken returns a new token for a user whose password was checked before, for the request with this prefix at this
// index of the log. A simple token has to be assigned on every member, a JWT only where it is answered. The applier alone
// calls it. Errors: ErrGRPCAuthNotEnabled, ErrGRPCAuthFailed when the user is gone or has no password, Unknown when only
// the public key is known.
func (s *Store) AssignToken(user, prefix string, index uint64) (string, error) {
	st := s.state.Load()
	if !st.enabled {
		return "", rpctypes.ErrGRPCAuthNotEnabled
	}
	u := st.users[user]
	if u == nil || u.noPassword() {
		return "", rpctypes.ErrGRPCAuthFailed
	}
	return s.tokens.assign(u.name, prefix, index, st.revision) // u.name: the tokens of a user share one string
}

// Identify returns whose a token is, and false for one that is unknown, has expired or is not properly signed. It is to
// be asked only while authentication is on. A simple token lives on with every use; its identity has the present revision, a
// JWT's the one of its signing.
func (s *Store) Identify(token string) (Identity, bool) {
	// The revision is taken before the token is looked up, and Apply drops tokens before it shows the new revision. So
	// an identity at the new revision is never given for a token that the change has ended.
	return s.tokens.identify(token, s.Revision())
}

// IdentifyCN returns the identity for the common name of a client certificate that was verified.
func (s *Store) IdentifyCN(name string) Identity { return Identity{User: name, Revision: s.Revision()} }

// The types of tokens.
const (
	tokenSimple = "simple"
	tokenJWT    = "jwt"
)

func newIssuer(cfg Config) (issuer, error) {
	kind, options, err := parseTokenOption(cfg.Token)
	if err != nil {
		return nil, err
	}
	switch kind {
	case tokenSimple:
		if len(options) > 0 {
			cfg.Logger.Warn("a simple token has no options: they are ignored", "options", slices.Sorted(maps.Keys(options)))
		}
		return newSimpleTokens(cfg.Clock, cfg.TokenTTL, maxSimpleTokens), nil
	case tokenJWT:
		return newJWT(options, cfg.Clock, cfg.Logger)
	}
	return nil, fmt.Errorf("the type of token %q is not known: give simple or jwt", kind)
}

// parseTokenOption takes apart "type,name=value,name=value".
func parseTokenOption(s string) (kind string, options map[string]string, err error) {
	kind, rest, more := strings.Cut(s, ",")
	options = map[string]string{}
	for more {
		var option string
		option, rest, more = strings.Cut(rest, ",")
		name, value, ok := strings.Cut(option, "=")
		switch _, twice := options[name]; {
		case !ok || strings.Contains(value, "="):
			return "", nil, fmt.Errorf("the option %q is not of the form name=value", option)
		case twice:
			return "", nil, fmt.Errorf("the option %s is there twice: give it once", name)
		}
		options[name] = value
	}
	return kind, options, nil
}
