package access

import (
	"context"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/wire"
)

// Outgoing tells in whose name a unary request goes upstream. ctx is of a client's RPC, with the metadata that is to go
// upstream already in it. It comes back as it is for a client with a token, and for nobody: upstream judges them. Who has
// shown a certificate to the proxy is judged here, and so is nobody where upstream would take the proxy's own certificate for
// theirs; if they may, the proxy asks in its own name, so that ctx comes back with its token. Else the error is etcd's.
//
// A certificate counts only if the proxy's own identity has the role root. Otherwise who shows one is nobody.
//
// The policy that decides is at most a second old when Outgoing returns, whatever it has waited for. A call with the result that fails
// may be called again if Renew says so.
func (g *Guard) Outgoing(ctx context.Context, method string, req wire.Raw) (context.Context, error) {
	return g.Judge(ctx, method, req)
}

// Judge does the same for a message of a client's stream. With nil in its place it tells in whose name a stream is opened each
// of whose messages will be judged: Watch and LeaseKeepAlive.
func (g *Guard) Judge(ctx context.Context, method string, req wire.Raw) (context.Context, error) {
	if !g.HasIdentity() {
		return ctx, nil
	}
	if g.off.Load() && !g.IsOwn(ctx) { // a stream that is the proxy's own is judged to its end
		return g.Nobody(ctx), nil
	}
	c := clientOf(ctx)
	if c.hasToken() || c.isNobody() && !g.cfg.Certificate {
		return ctx, nil
	}
	g.judged.Add(1)
	own, ownErr := g.Own(ctx) // first, because nothing that waits may come between the decision and its use
	j, err := g.decide(ctx, c.subject(), method, req)
	switch {
	case err != nil:
		return ctx, err
	case !j.own:
		return g.Nobody(ctx), nil
	}
	return own, ownErr
}

// Lends tells whether what Judge or Outgoing has returned may go upstream on a stream that is the proxy's own: it was judged for
// that, or authentication is off. Else upstream is to judge it as nobody's, and would take it for the proxy's.
func (g *Guard) Lends(judged context.Context) bool {
	return g.off.Load() || g.IsOwn(judged)
}

// Nobody has upstream take a request for nobody's, so that what needs a right succeeds only while authentication is off. It is
// nobody's already unless the proxy shows a certificate. A token that is in ctx stays the first, and only the first counts.
func (g *Guard) Nobody(ctx context.Context) context.Context {
	if !g.cfg.Certificate {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, tokenFields[0], nobodysToken)
}

// judge has a policy decide that still counts. Who is refused by one from before the question came is judged again by a newer
// one: what has just been granted counts at once.
func (g *Guard) judge(ctx context.Context, s subject, decide func(*policy, subject) error) error {
	if !g.HasIdentity() {
		return rpctypes.ErrGRPCUserEmpty
	}
	came := g.clock.now()
	for since := longAgo; ; since = came {
		p, err := g.roster.need(ctx, s, since)
		if err != nil {
			return err
		}
		judged := s
		if p.enabled && p.own != rootRights {
			judged = subject{} // what this user may do is not known
		}
		if err = decide(p, judged); !isRefusal(err) || p.status.sent > came {
			return err
		}
	}
}

// judgement is what a rule has to judge by. It is all in memory: a rule that would have to know something of leases that is not
// found permits what it cannot judge, and what it lacks is then found out.
type judgement struct {
	guard *Guard
	*policy
	who   subject
	own   bool // the request, if it is permitted, goes upstream in the proxy's own name. Else upstream judges it as nobody's
	found leaseFindings
}

// decide has the rule of a method judge a request by a policy that still counts when it returns, however long it takes to find out
// what is to be known of leases.
func (g *Guard) decide(ctx context.Context, s subject, method string, req wire.Raw) (*judgement, error) {
	rule, ok := rules[method]
	if !ok {
		rule = adminOnly
	}
	j := &judgement{guard: g}
	judge := func(ctx context.Context) error {
		return g.judge(ctx, s, func(p *policy, s subject) error {
			j.policy, j.who = p, s
			j.found.lacking, j.found.list = nil, false
			j.own = p.enabled && (p.own == rootRights || g.cfg.Certificate)
			if !j.own {
				return nil // upstream judges nobody by itself
			}
			return rule(j, req)
		})
	}
	if err := judge(ctx); err != nil || !j.found.lack() {
		return j, err
	}
	patient, cancel := context.WithTimeout(ctx, leasePatience)
	defer cancel()
	for j.found.lack() {
		err := j.findOut(patient, s.name, len(req))
		if err == nil {
			err = judge(patient)
		}
		switch {
		case err != nil && patient.Err() != nil && ctx.Err() == nil && !isRefusal(err):
			return j, errLeases
		case err != nil:
			return j, err
		}
	}
	return j, nil
}

func (j *judgement) known() error                { return j.permitKnown(j.who) }
func (j *judgement) admin() error                { return j.permitAdmin(j.who) }
func (j *judgement) read(key, end []byte) error  { return j.permitRead(j.who, key, end) }
func (j *judgement) write(key, end []byte) error { return j.permitWrite(j.who, key, end) }
func (j *judgement) isAdmin() bool               { return j.admin() == nil }
func (j *judgement) writeOne(key []byte) error   { return j.write(key, nil) }
func (j *judgement) readOne(key []byte) error    { return j.read(key, nil) }
func (j *judgement) decode(req wire.Raw, m proto.Message) error {
	if proto.Unmarshal(req, m) != nil {
		return errMalformed
	}
	return j.understood(!hasUnknown(m.ProtoReflect()))
}

// understood refuses a request of which something is not known here, so that it might do more than was judged, to all but
// administrators.
func (j *judgement) understood(all bool) error {
	if all {
		return nil
	}
	return j.admin()
}
