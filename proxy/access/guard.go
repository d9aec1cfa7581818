package access

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// Guard decides for a proxy what each of its clients may be given, and in whose name a request goes upstream.
//
// It gives to nobody what upstream would not have given to them within the last second. So whatever it has not been told
// that recently it has to ask: one question for all who want to know the same. See the package for how.
//
// Other ways were rejected. To verify tokens here would take upstream's keys, for JWTs, and is impossible for simple tokens;
// and it would not tell what has been revoked. To read users and roles for everybody, instead of asking for verdicts, needs
// the role root, and costs a write to etcd's log for each user and role.
//
// All methods may be called concurrently, Close only after the last other call has returned.
type Guard struct {
	cfg    Config
	log    *slog.Logger
	clock  clock
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	off        atomic.Bool  // authentication is, as the last answer was that could tell
	remembered atomic.Int32 // a Regime
	regimeMu   sync.Mutex   // guards changes of remembered, and opening
	opening    bool         // upstream has been found Open once, after Guarded

	own       ownToken
	complaint complaint // of the own identity
	verdicts  verdicts
	tokens    *tokens
	roster    roster
	grants    grants
	watching  atomic.Int64 // streams of watches that are open

	leaseSlots *coalesce.Slots // for questions for the keys of leases
	goneLeases goneLeases

	hits, shortcuts, judged atomic.Uint64
}

// Config says who the proxy is upstream, and what is shared.
type Config struct {
	// Upstream is asked about users, roles and clients' rights.
	Upstream Upstream
	// User and Password are the proxy's own, "" without.
	User, Password string
	// Certificate says that upstream sees a client certificate of the proxy. It counts as the proxy's identity where there is no
	// User, and upstream would take nobody for the proxy. One without a name too: to etcd its owner is somebody.
	Certificate bool
	// Name is the common name in it.
	Name string
	// Key and End are the range of all that is to be shared, as in etcd's requests.
	Key, End []byte
	// Changed is called when rights may have been taken away: open watches are then to be looked at with PermitUser, before it
	// returns. It must not call any other method of the Guard, and may be called concurrently. May be nil.
	Changed func()
	// Logger is slog.Default() when nil.
	Logger *slog.Logger
}

// Upstream is the member that requests go to now.
type Upstream interface {
	// Call does a unary RPC: ctx's outgoing metadata goes along, and nothing is added. It may be called concurrently.
	Call(ctx context.Context, method string, req []byte) (wire.Raw, error)
}

// New makes a guard, which asks nothing by itself.
func New(cfg Config) *Guard {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	now := clock{time.Now()}
	g := &Guard{
		cfg: cfg, log: cfg.Logger, clock: now, cancel: cancel, tokens: newTokens(now), leaseSlots: coalesce.NewSlots(maxLeaseCalls, maxLeaseCallsOfOne, maxLeaseBytes),
	}
	call := cfg.Upstream.Call
	g.complaint.log, g.complaint.clock = g.log, g.clock
	g.own = ownToken{
		ctx: ctx, tasks: &g.tasks, clock: g.clock, call: call, user: cfg.User, password: cfg.Password,
		off: &g.off, complaint: &g.complaint, sent: longAgo,
	}
	g.verdicts = verdicts{
		ctx: ctx, tasks: &g.tasks, clock: g.clock, call: call, era: g.generation, answer: g.tokens.took,
		slots: make(chan struct{}, maxCalls), askers: map[string]*asker{},
	}
	g.verdicts.forget()
	g.roster = roster{
		ctx: ctx, call: g.callOwn, status: call, ownName: g.ownName(), off: &g.off, clock: g.clock, log: g.log,
		watched: func() bool { return g.watching.Load() > 0 && g.regime() == Guarded },
		before:  g.verdicts.forget, changed: cfg.Changed,
		wake: make(chan struct{}, 1), pace: pace{sent: longAgo}, round: newRound(),
	}
	g.roster.used.Store(int64(longAgo))
	g.roster.stirred.Store(int64(longAgo))
	if g.HasIdentity() {
		g.tasks.Go(g.roster.run)
	}
	return g
}

// Close ends what the guard has begun, and waits for it.
func (g *Guard) Close() {
	g.cancel()
	g.tasks.Wait()
}

// ownName is the name that upstream knows the proxy by.
func (g *Guard) ownName() string {
	if g.cfg.User != "" {
		return g.cfg.User
	}
	return g.cfg.Name
}

// generation is the present one of users and roles; nil if that is not known.
func (g *Guard) generation() *generation {
	if p := g.roster.policy(); p != nil {
		return p.generation
	}
	return nil
}

// Status is what the guard has done, in counts since it was made, and under which regime it is.
type Status struct {
	Regime string `json:"regime"`
	// Error says what keeps the proxy's own identity from being of use: it cannot authenticate, or may not read what is to be
	// shared. "" if nothing does, or authentication is off.
	Error string `json:"error"`
	// Verdicts are questions upstream whether a token may read a range, VerdictHits reads that were allowed by one that had been
	// answered already, and PolicyHits reads that were allowed by what is known of users and roles.
	Verdicts    uint64 `json:"verdicts"`
	VerdictHits uint64 `json:"verdict_hits"`
	PolicyHits  uint64 `json:"policy_hits"`
	// Judged are requests that upstream could not judge, and the guard has.
	Judged uint64 `json:"judged"`
	// AuthStatuses, UserReads, RoleReads and Authentications are requests about authentication on the proxy's own behalf, each of
	// which is a write to etcd's log.
	AuthStatuses    uint64 `json:"auth_statuses"`
	UserReads       uint64 `json:"user_reads"`
	RoleReads       uint64 `json:"role_reads"`
	Authentications uint64 `json:"authentications"`
	// Changes is how often users or roles were found to be others than before.
	Changes uint64 `json:"changes"`
}

// Status is as of now.
func (g *Guard) Status() Status {
	return Status{
		Regime: g.regime().String(), Error: g.complaint.text(),
		Verdicts: g.verdicts.asked.Load(), VerdictHits: g.hits.Load(), PolicyHits: g.shortcuts.Load(), Judged: g.judged.Load(),
		AuthStatuses: g.roster.stats.statuses.Load(), UserReads: g.roster.stats.users.Load(), RoleReads: g.roster.stats.roles.Load(),
		Authentications: g.own.asked.Load(), Changes: g.roster.stats.changes.Load(),
	}
}
