package tenants

import (
	"context"
	"fmt"
	"strings"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"weir/grpcapi/lockpb"
	"weir/grpcapi/wire"
)

// standing is what a tenants file and limits come to. It does not change: a reload makes another one, by which RPCs are judged that
// come from then on. Those that are there go on by the one that they came under; those that last are looked at, see lasting.
type standing struct {
	file      string // "" is none
	marked    bool   // its last line says that it is whole
	members   *members
	names     map[string]*tenant
	strangers *tenant    // of whom no more than the address is known
	anyone    wire.Visit // of everybody, if it does not matter who comes; else nil
	ledger    *ledger    // nil if everybody may use every lease
	mayChange bool
}

// Reload replaces the tenants file, whose text is given, and the limits: by none if file is "". Everything counts at once, or nothing
// does and the error says why, in one line that names the line in the file.
//
// What a tenant has open goes on, and counts for the limits, but for streams that may not be any more what they are: of who is
// no tenant any more, has other keys under the same names, or may not write any more what the stream writes. These end, with an error of
// which clients do not try again by themselves. Calls that are under way end as they would have.
//
// What a namespace holds stays counted, whosever it is now. A quota for one that had none is counted first, which takes a moment
// in which nothing is let through that could grow it.
func (t *Table) Reload(file string, text []byte, limits Limits) error {
	if err := limits.check(); err != nil {
		return fmt.Errorf("limits: %w", err)
	}
	cfg := t.cfg
	cfg.File, cfg.Limits = file, limits
	next := &standing{file: file, members: withoutFile(&cfg), mayChange: file != "" || cfg.Reloads}
	if file != "" {
		var err error
		if next.members, err = parseFileOf(&cfg, text); err != nil {
			return err
		}
		next.marked = isMarked(text)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if was := t.now.Load(); was != nil {
		if was.file == file && was.marked && !next.marked {
			return fmt.Errorf("tenants file %s: it has been cut off: it does not end with the line %q, as it did before", file, endMark)
		}
		next.mayChange = next.mayChange || was.mayChange
	}
	if t.ctx.Err() != nil {
		return errStopped
	}
	t.count(next.members)
	t.stand(next, limits)
	t.now.Store(next)
	t.accounts.relimit(next)
	t.lasting.review(next)
	return nil
}

// endMark is YAML's own for the end of a document. A file that has it once must have it always: one that is cut off between two tenants
// could be a file, too.
const endMark = "..."

func isMarked(text []byte) bool {
	lines := strings.Split(strings.TrimRight(string(text), "\r\n\t "), "\n")
	return strings.TrimRight(lines[len(lines)-1], "\r\t ") == endMark
}

// count has the namespaces with a quota counted, as they are already where they were before, and no others. t.mu is held.
func (t *Table) count(m *members) {
	before := t.counts
	t.counts = map[string]*tracking{}
	for _, own := range m.all {
		if own.usage == nil || own.guest {
			continue
		}
		if k := before[own.namespace]; k != nil {
			k.usage.allow(own.usage.maxKeys, own.usage.maxBytes)
			for _, other := range m.all {
				if other != own && other.usage == own.usage {
					other.usage = k.usage
				}
			}
			own.usage = k.usage
			t.counts[own.namespace] = k
			continue
		}
		ctx, cancel := context.WithCancel(t.ctx)
		k := newTracker(own, &t.cfg)
		t.tasks.Go(func() { k.run(ctx) })
		t.counts[own.namespace] = &tracking{own.usage, cancel}
	}
	for namespace, k := range before {
		if t.counts[namespace] != k {
			k.stop()
		}
	}
}

// stand fills in the rest of a standing, whose members are there. t.mu is held.
func (t *Table) stand(s *standing, limits Limits) {
	if s.strangers = s.members.others; s.strangers == nil {
		s.strangers = &tenant{namespace: t.cfg.Namespace, weight: 1, limits: limits}
	}
	s.names = map[string]*tenant{}
	longest := 0
	for _, own := range s.members.all {
		if own.name != "" {
			s.names[own.name] = own
		}
		if own.confined {
			longest = max(longest, len(own.namespace))
		}
	}
	switch {
	case t.ledger != nil:
		t.ledger.ask(longest)
	case longest > 0:
		t.ledger = newLedger(t.cfg.Upstream, maxClaims, longest)
	}
	s.ledger = t.ledger
	for _, own := range s.members.all {
		if s.ledger == nil && !own.restricted() && own.limits.none() {
			own.free = plain(own.namespace)
		}
	}
	if !s.members.closed {
		s.anyone = s.members.others.free
	}
}

// limitsOf are those of an account; of a tenant that is not there any more those that it had.
func (s *standing) limitsOf(who Identity, had Limits) Limits {
	if who.kind != ofTenant {
		return s.strangers.limits
	}
	if own := s.names[who.name]; own != nil {
		return own.limits
	}
	return had
}

// tenantOf is who somebody is now, nil if nobody.
func (s *standing) tenantOf(shown Identity) *tenant {
	own := s.members.others
	switch shown.kind {
	case ofUser:
		if u := s.members.users[shown.name]; u != nil {
			own = u
		}
	case ofCommonName:
		if c := s.members.commonNames[shown.name]; c != nil {
			own = c
		}
	case ofTenant, ofAddress:
	}
	return own
}

// What lasting streams end with. Of the first two a client does not try again by itself: its keys are not what they were.
var (
	errNotTenant  = status.Error(codes.PermissionDenied, "weir: the tenants have changed, and you are none of them any more")
	errOtherKeys  = status.Error(codes.PermissionDenied, "weir: the tenants have changed, and your keys are others now")
	errReadsOnly  = status.Error(codes.PermissionDenied, "weir: the tenants have changed, and you may only read")
	errNamedAgain = status.Error(codes.Unavailable, "weir: there are tenants now, and it is not known which of them you are: come again")
)

// lasting is the RPCs that last as long as the client wants: streams of watches, pings and elections, who waits for a lock, and who takes
// a long range, of which upstream is asked for a part when the one before is taken.
type lasting struct {
	mu   sync.Mutex // guards all
	open map[*stream]struct{}
}

// stream is one of them. A nil one is an RPC that is none.
type stream struct {
	all    *lasting
	client client
	method string
	ctx    context.Context // ends with the RPC, or before it with the client's error
	cancel context.CancelCauseFunc
}

func isLasting(method string) bool {
	switch method {
	case pb.Watch_Watch_FullMethodName, pb.KV_RangeStream_FullMethodName, pb.Lease_LeaseKeepAlive_FullMethodName, wire.PingsMethod, pb.Maintenance_Snapshot_FullMethodName,
		lockpb.Lock_Lock_FullMethodName, lockpb.Election_Campaign_FullMethodName, lockpb.Election_Observe_FullMethodName:
		return true
	}
	return false
}

// enter takes a stream that was judged by a standing. The error is the client's: it may have changed meanwhile.
func (l *lasting) enter(ctx context.Context, t *Table, in *standing, c client, method string) (*stream, error) {
	s := &stream{all: l, client: c, method: method}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	l.mu.Lock()
	if l.open == nil {
		l.open = map[*stream]struct{}{}
	}
	l.open[s] = struct{}{}
	l.mu.Unlock()
	if now := t.now.Load(); now != in { // review may not have seen it
		if err := s.judge(now); err != nil {
			s.leave()
			return nil, err
		}
	}
	return s, nil
}

// leave says that the stream has ended. It may be called again.
func (s *stream) leave() {
	if s == nil {
		return
	}
	s.all.mu.Lock()
	delete(s.all.open, s)
	s.all.mu.Unlock()
	s.cancel(nil)
}

// context is wire.Visit's.
func (s *stream) context() context.Context {
	if s == nil {
		return nil
	}
	return s.ctx
}

// review ends those that may not be any more what they are.
func (l *lasting) review(now *standing) {
	l.mu.Lock()
	all := make([]*stream, 0, len(l.open))
	for s := range l.open {
		all = append(all, s)
	}
	l.mu.Unlock()
	for _, s := range all {
		if err := s.judge(now); err != nil {
			s.cancel(err)
		}
	}
}

// judge returns why the stream may not go on, nil if it may.
func (s *stream) judge(now *standing) error {
	was, is := s.client.tenant, now.tenantOf(s.client.shown)
	switch {
	case s.client.doubtful && now.members.closed:
		return errNamedAgain
	case is == nil:
		return errNotTenant
	case is.namespace != was.namespace || is.confined != was.confined:
		return errOtherKeys
	case is.readOnly && !readsOnly(classOf(s.method)):
		return errReadsOnly
	}
	return nil
}

// freeStream is the visit of a stream for which nothing is judged or counted.
type freeStream struct {
	plain
	*stream
}

// Context is part of wire.Visit.
func (f freeStream) Context() context.Context { return f.context() }

// Leave is part of wire.Visit.
func (f freeStream) Leave(wire.Raw, error) { f.leave() }
