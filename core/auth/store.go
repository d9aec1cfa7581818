package auth

import (
	"cmp"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/crypto/bcrypt"
)

// root is the name of the user that must exist before authentication can be turned on, and of the role that may do
// everything.
const root = "root"

// Store is the users, roles and tokens of one member. One goroutine at a time, the applier, may call Apply and
// AssignToken; everything else may be called concurrently, with them too.
//
// The users and roles are one immutable state, which a change replaces by another. A reader thus needs no lock and
// cannot see a user of one revision with a role of the next. A change copies two maps of pointers, about a millisecond for
// 10,000 users, which is little beside the hashing of a password. With a lock around maps that change in place, every
// request would write to the lock's cache line.
type Store struct {
	logger *slog.Logger
	tokens issuer

	bcryptCost int
	hashing    chan struct{} // one element for each password that is being hashed

	state atomic.Pointer[state]
}

// Config is what a Store is told at start. Zero values mean etcd's defaults.
type Config struct {
	// Token is etcd's --auth-token: "simple", or "jwt" with the options sign-method, pub-key, priv-key and ttl, as in
	// "jwt,sign-method=ES256,priv-key=/etc/weir/jwt.pem,ttl=10m". The keys are files.
	Token      string
	TokenTTL   time.Duration // how long a simple token lives after its last use; default 300 s
	BcryptCost int           // of new passwords, 4 to 31; default 10, also when out of range
	Clock      Clock         // tokens live by it; default the machine's
	Logger     *slog.Logger  // default none
}

// Clock is the time that tokens live by.
type Clock interface {
	// Now returns the present. A JWT ends by its wall clock, a simple token by the differences between its results.
	Now() time.Time
}

type systemClock struct{}

func (systemClock) Now() time.Time { return time.Now() }

// Identity is who asks. The zero value is nobody: no token was shown, or authentication is off.
type Identity struct {
	User     string
	Revision uint64 // the one of the users and roles that the identity was found at
}

// Open returns the Store that the records make; nil stands for no records. The error is one line that says what is
// wrong with the token options or with the records.
func Open(cfg Config, records iter.Seq[Record]) (*Store, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = systemClock{}
	}
	cfg.Token = cmp.Or(cfg.Token, tokenSimple)
	cfg.BcryptCost = cmp.Or(cfg.BcryptCost, bcrypt.DefaultCost)
	if cfg.BcryptCost < bcrypt.MinCost || cfg.BcryptCost > bcrypt.MaxCost {
		cfg.Logger.Warn("the bcrypt cost is out of range: the default is taken", "cost", cfg.BcryptCost,
			"min", bcrypt.MinCost, "max", bcrypt.MaxCost, "default", bcrypt.DefaultCost)
		cfg.BcryptCost = bcrypt.DefaultCost
	}
	tokens, err := newIssuer(cfg)
	if err != nil {
		return nil, fmt.Errorf("--auth-token %q: %w", cfg.Token, err)
	}
	st, err := loadState(records)
	if err != nil {
		return nil, err
	}
	s := &Store{
		logger:     cfg.Logger,
		tokens:     tokens,
		bcryptCost: cfg.BcryptCost,
		hashing:    make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
	}
	s.state.Store(st)
	return s, nil
}

// Close forgets every token.
func (s *Store) Close() { s.tokens.clear() }

// Enabled tells whether authentication is on.
func (s *Store) Enabled() bool { return s.state.Load().enabled }

// Revision counts the changes to users and roles. It is at least 1.
func (s *Store) Revision() uint64 { return s.state.Load().revision }

// User returns the roles of a user in their order, not to be changed. Error: ErrGRPCUserNotFound.
func (s *Store) User(name string) (roles []string, err error) {
	u := s.state.Load().users[name]
	if u == nil {
		return nil, rpctypes.ErrGRPCUserNotFound
	}
	return u.stored.Roles, nil
}

// Users returns the names of all users in their order.
func (s *Store) Users() []string { return slices.Sorted(maps.Keys(s.state.Load().users)) }

// Role returns the permissions of a role in the order of their keys, not to be changed. That of the role root is to
// read and write everything, whatever was granted to it. Error: ErrGRPCRoleNotFound.
func (s *Store) Role(name string) ([]*authpb.Permission, error) {
	r := s.state.Load().roles[name]
	if r == nil {
		return nil, rpctypes.ErrGRPCRoleNotFound
	}
	if name == root {
		return []*authpb.Permission{{PermType: authpb.Permission_READWRITE, RangeEnd: []byte{0}}}, nil
	}
	return r.KeyPermission, nil
}

// Roles returns the names of all roles in their order.
func (s *Store) Roles() []string { return slices.Sorted(maps.Keys(s.state.Load().roles)) }

// HasRole tells whether there is such a user and it has the role.
func (s *Store) HasRole(user, role string) bool {
	u := s.state.Load().users[user]
	return u != nil && slices.Contains(u.stored.Roles, role)
}
