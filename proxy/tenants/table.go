package tenants

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"

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
	cfg      Config // but for what Reload replaces
	now      atomic.Pointer[standing]
	accounts *accounts
	lasting  lasting
	refused  refusalCounts

	ctx    context.Context // of what it does in the background
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	mu     sync.Mutex           // held by Reload; guards what follows
	counts map[string]*tracking // by namespace
	ledger *ledger              // nil as long as everybody may use every lease
}

// Config says who the clients are.
type Config struct {
	// File is the tenants file, see tenantsFile; without one everybody is for himself.
	File string
	// Namespace goes before every key of every client, and before the tenants' own.
	Namespace string
	// Limits are everybody's, as far as the file does not say otherwise.
	Limits Limits
	// Reloads says that Reload may be called without a File, too: then streams are known for which nothing is to be judged yet.
	Reloads bool
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
//
// Unlike a proxy's other parts a Table may be told to be another, see Reload.
func New(cfg Config) (*Table, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	text, err := cfg.read()
	if err != nil {
		return nil, err
	}
	t := &Table{cfg: cfg, accounts: newAccounts(maxAccounts), counts: map[string]*tracking{}}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	if err := t.Reload(cfg.File, text, cfg.Limits); err != nil {
		t.Close()
		return nil, err
	}
	return t, nil
}

// Check tells what New would refuse, and starts nothing.
func (cfg Config) Check() error {
	text, err := cfg.read()
	if err == nil && cfg.File != "" {
		_, err = parseFileOf(&cfg, text)
	}
	return errors.Join(cfg.Limits.check(), err)
}

// read reads the tenants file, if there is one.
func (cfg *Config) read() ([]byte, error) {
	if cfg.File == "" {
		return nil, nil
	}
	text, err := os.ReadFile(cfg.File)
	if err != nil {
		return nil, fmt.Errorf("read the tenants file: %w: give a file that this user can read", err)
	}
	return text, nil
}

// Close ends what the Table does in the background, and waits for it. Nothing that grows is admitted where there is a quota
// from then on.
func (t *Table) Close() {
	t.cancel()
	t.tasks.Wait()
}

// Identify tells for whom ctx's RPC counts, and in proportion to what its share of upstream is.
func (t *Table) Identify(ctx context.Context) (who Identity, weight int) {
	c, _ := t.clientOf(ctx, t.now.Load()) // who is refused is known by the address
	return c.who, c.tenant.weight
}

// Enter admits an RPC; see grpcapi.Gate. It waits only for upstream, to find out whose a lease is, or whose
// a token.
func (t *Table) Enter(ctx context.Context, method string, req wire.Raw) (wire.Visit, error) {
	in := t.now.Load()
	lasts := in.mayChange && isLasting(method)
	if in.anyone != nil && !lasts {
		return in.anyone, nil
	}
	c, err := t.visitor(ctx, in, method)
	if err != nil {
		return nil, err
	}
	var stream *stream
	if lasts {
		if stream, err = t.lasting.enter(ctx, t, in, c, method); err != nil {
			return nil, err
		}
		ctx = stream.ctx
	}
	if c.tenant.free != nil {
		if stream == nil {
			return c.tenant.free, nil
		}
		return freeStream{plain(c.tenant.namespace), stream}, nil
	}
	v := &visit{table: t, in: in, client: c, ctx: ctx, stream: stream, method: method, lane: laneOf(method)}
	// The limits come first: to judge a request may cost more than to count it.
	if err := v.count(len(req)); err != nil {
		stream.leave()
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
func (t *Table) visitor(ctx context.Context, in *standing, method string) (client, error) {
	if method == pb.Auth_Authenticate_FullMethodName {
		return in.stranger(ctx), nil
	}
	// A stream about which there is nothing to judge is known for the sake of tenants that may come: nobody is asked, or refused, for that.
	c, no := t.clientAs(ctx, in, in.anyone == nil)
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
	for _, own := range t.now.Load().members.all {
		if own.usage != nil && !own.guest {
			s.Usage = append(s.Usage, own.usage.stat(own.name))
		}
	}
	return s
}
