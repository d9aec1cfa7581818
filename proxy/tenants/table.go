package tenants

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// Table is everybody there is.
//
// The idea: an RPC is judged once, when it comes, by what it shows (a token, a certificate, an address) and by what it asks.
// Nothing of that needs upstream but two things: what a namespace with a quota holds, which a watch keeps counted, and whose
// a lease is, which is looked up when somebody uses it who must not use another's. So an RPC without tenants and limits costs
// nothing, and one with them a lock or two.
//
// Rejected: to let RPCs over a limit wait. Each would hold its memory meanwhile, and a client that is told to come again can do
// something else, or ask somebody else. Also rejected: to measure a namespace when something is written to it, which costs
// upstream a read of all its keys, and is too late for the write that comes at the same time.
//
// All methods may be called concurrently.
type Table struct {
	cfg       Config
	members   *members
	strangers *tenant    // of whom no more than the address is known
	anyone    wire.Visit // of everybody, if it does not matter who comes; else nil
	accounts  *accounts
	ledger    *ledger // nil if everybody may use every lease
	refused   refusalCounts

	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

// Config says who the clients are.
type Config struct {
	// File is the tenants file, see tenantsFile; without one everybody is for himself.
	File string
	// Namespace goes before every key of every client, and before the tenants' own.
	Namespace string
	// Limits are everybody's, as far as the file does not say otherwise.
	Limits Limits
	// Users are asked about those who show a token.
	Users Users
	// Hub is where namespaces with quotas are watched.
	Hub *coalesce.Hub
	// Upstream is asked for what quotas and leases need.
	Upstream Upstream
	// Logger is slog.Default() when nil.
	Logger *slog.Logger
}

// Users knows the users of the cluster. Its methods may be called concurrently, and with the context of a client's RPC.
type Users interface {
	// UserOf says whose the token is that the client shows, and whether upstream is known to accept it. Without that a name
	// is what the token says of itself; "" if it says nothing. It does not wait.
	UserOf(ctx context.Context) (name string, verified bool)
	// IsValid asks upstream whether it accepts the token.
	IsValid(ctx context.Context) bool
}

// Upstream is the cluster behind the proxy.
type Upstream interface {
	// Call calls the current member under the proxy's own rights, as nobody if it has none. It may be called concurrently,
	// and fails with ctx.
	Call(ctx context.Context, method string, req []byte) (wire.Raw, error)
}

// New reads the tenants file. Its error is one line that says what is wrong with it, or with Limits.
func New(cfg Config) (*Table, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if err := cfg.Limits.check(); err != nil {
		return nil, fmt.Errorf("limits: %w", err)
	}
	t := &Table{cfg: cfg, accounts: newAccounts(maxAccounts)}
	if cfg.File == "" {
		t.members = withoutFile(&cfg)
	} else {
		var err error
		if t.members, err = readFile(&cfg); err != nil {
			return nil, err
		}
	}
	t.start()
	return t, nil
}

// Check tells what New would refuse, and starts nothing.
func (cfg Config) Check() error {
	var file error
	if cfg.File != "" {
		_, file = readFile(&cfg)
	}
	return errors.Join(cfg.Limits.check(), file)
}

func (t *Table) start() {
	m := t.members
	if t.strangers = m.others; t.strangers == nil {
		t.strangers = &tenant{namespace: t.cfg.Namespace, weight: 1, limits: t.cfg.Limits}
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.cancel = cancel
	longest := 0
	for _, own := range m.all {
		if own.confined {
			longest = max(longest, len(own.namespace))
		}
		if own.usage != nil && !own.guest {
			k := newTracker(own, &t.cfg)
			t.tasks.Go(func() { k.run(ctx) })
		}
	}
	if longest > 0 {
		t.ledger = newLedger(t.cfg.Upstream, maxClaims, longest)
	}
	for _, own := range m.all {
		if t.ledger == nil && !own.restricted() && own.limits.none() {
			own.free = plain(own.namespace)
		}
	}
	if !m.closed {
		t.anyone = m.others.free
	}
}

// Close ends what the Table does in the background, and waits for it. Nothing that grows is admitted where there is a quota
// from then on.
func (t *Table) Close() {
	t.cancel()
	t.tasks.Wait()
}

// Identify tells for whom ctx's RPC counts, and in proportion to what its share of upstream is.
func (t *Table) Identify(ctx context.Context) (who Identity, weight int) {
	c, _ := t.clientOf(ctx) // who is refused is known by the address
	return c.who, c.tenant.weight
}

// Enter admits an RPC; see grpcapi.Gate. It waits only for upstream, to find out whose a lease is, or whose
// a token.
func (t *Table) Enter(ctx context.Context, method string, req wire.Raw) (wire.Visit, error) {
	if t.anyone != nil {
		return t.anyone, nil
	}
	c, err := t.visitor(ctx, method)
	if err != nil {
		return nil, err
	}
	if c.tenant.free != nil {
		return c.tenant.free, nil
	}
	v := &visit{table: t, client: c, ctx: ctx, method: method, lane: laneOf(method)}
	// The limits come first: to judge a request may cost more than to count it.
	if err := v.count(len(req)); err != nil {
		return nil, err
	}
	if err := v.admit(req); err != nil {
		v.Leave(nil, err)
		return nil, err
	}
	return v, nil
}

// visitor is whom an RPC counts for. The error is the client's.
//
// Authenticate counts for the address, whatever token is shown: etcd's client sends it before each stream that it opens, with the
// token that it has, and would spend on it what it needs for the stream.
func (t *Table) visitor(ctx context.Context, method string) (client, error) {
	if method == pb.Auth_Authenticate_FullMethodName {
		return t.stranger(ctx), nil
	}
	c, no := t.clientOf(ctx)
	if no != nil && classOf(method) != enters {
		t.refused[no.why].Add(1)
		return client{}, no.tell(ctx)
	}
	return c, nil
}

// Status is what the table has at the moment, and what it has refused since it started.
type Status struct {
	Accounts int         `json:"accounts"` // with RPCs, or with some lately
	Refused  Refused     `json:"refused"`
	Usage    []UsageStat `json:"usage"` // of each namespace with a quota
}

// Status is as of now.
func (t *Table) Status() Status {
	s := Status{Accounts: t.accounts.count(), Refused: t.refused.load()}
	for _, own := range t.members.all {
		if own.usage != nil && !own.guest {
			s.Usage = append(s.Usage, own.usage.stat(own.name))
		}
	}
	return s
}
