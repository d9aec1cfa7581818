package access

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
)

// Regime is what upstream makes possible.
type Regime int

// The regimes.
const (
	// Unknown is before the first answer.
	Unknown Regime = iota
	// Open: authentication is off. Tokens mean nothing, and what one client may have all may.
	Open
	// Guarded: authentication is on, and the proxy may read all that is to be shared. Each client is to be judged.
	Guarded
	// Closed: authentication is on, and the proxy may not. Nothing is shared, and clients' own tokens go upstream.
	Closed
)

// String is for logs.
func (r Regime) String() string {
	switch r {
	case Open:
		return "open"
	case Guarded:
		return "guarded"
	case Closed:
		return "closed"
	}
	return "unknown"
}

// Call is a unary call to one member: ctx's outgoing metadata goes along, and nothing is added.
type Call = func(ctx context.Context, method string, req []byte) (wire.Raw, error)

// patience is how long Regime waits for what takes a quorum, which may be gone.
const patience = 250 * time.Millisecond

// stillOnFor is for how long an AuthStatus which shows that authentication is on is enough to believe it.
const stillOnFor = 2 * time.Second

// Regime asks a member under which regime it is, and remembers the answer. It is to be called every 500 ms or so, and before
// anything of a member is shared. What is asked is local to the member.
//
// From Guarded the guard goes over to Open only with the second such answer: by then its caller has ended, because of the
// first, what was shared under the old regime. Every other change is at once.
func (g *Guard) Regime(ctx context.Context, call Call) (Regime, error) {
	r, err := g.askRegime(ctx, call)
	if err != nil {
		return g.regime(), err
	}
	g.remember(r)
	if r != Closed {
		g.complaint.over()
	}
	return r, nil
}

func (g *Guard) regime() Regime { return Regime(g.remembered.Load()) }

func (g *Guard) remember(r Regime) {
	g.regimeMu.Lock()
	defer g.regimeMu.Unlock()
	was := g.regime()
	if was == Guarded && r == Open && !g.opening {
		g.opening = true
		return
	}
	g.opening = false
	if was != r {
		g.roster.stir() // first: who sees the new regime is to have a policy of it
		g.remembered.Store(int32(r))
		g.verdicts.forget()
		g.roster.look()
	}
}

func (g *Guard) askRegime(ctx context.Context, call Call) (Regime, error) {
	if !g.isStillOn(ctx) {
		switch err := g.askAnything(ctx, call); {
		case err == nil:
			g.off.Store(true)
			return Open, nil
		case !isRefusal(err):
			return Unknown, err
		}
		g.off.Store(false)
		if g.regime() == Open { // what was open ends now, and not when the proxy has managed to say who it is
			return Closed, nil
		}
	}
	if !g.HasIdentity() {
		return Closed, nil
	}
	_, err := AsOwn(withoutIdentity(ctx), g, func(ctx context.Context) (wire.Raw, error) {
		ctx = metadata.AppendToOutgoingContext(ctx, uncachedField, "true")
		return nil, askRange(ctx, call, Range{g.cfg.Key, g.cfg.End}, false)
	})
	switch {
	case err == nil:
		return Guarded, nil
	case isTokenRefused(err): // the new one too: something is changing
		return Unknown, err
	case isRefusal(err), isRejected(err):
		g.complain(err)
		return Closed, nil
	}
	return Unknown, err
}

// askAnything asks for something as nobody. It succeeds if authentication is off.
func (g *Guard) askAnything(ctx context.Context, call Call) error {
	md := metadata.Pairs(uncachedField, "true")
	if g.cfg.Certificate { // which would make the proxy somebody
		md.Set(tokenFields[0], nobodysToken)
	}
	req := wire.RangeRequest{Key: []byte{0}, Serializable: true, CountOnly: true}
	_, err := call(metadata.NewOutgoingContext(ctx, md), pb.KV_Range_FullMethodName, wire.AppendRangeRequest(nil, &req))
	return err
}

// isStillOn tells whether authentication is known to be on without asking with a token that is not valid: etcd logs each of
// those. Only a proxy with a certificate has to ask like that. That it has been turned off need not be known at once, and nobody
// should have to wait for the next AuthStatus because of this one.
func (g *Guard) isStillOn(ctx context.Context) bool {
	if r := g.regime(); !g.cfg.Certificate || r != Guarded && r != Closed {
		return false
	}
	if p := g.roster.policy(); p != nil && p.enabled && g.clock.now()-p.status.sent < stillOnFor {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	p, err := g.roster.need(ctx, subject{}, longAgo)
	return err != nil || p.enabled
}

// isRejected tells whether upstream has refused to authenticate the proxy for good.
func isRejected(err error) bool {
	var f *failure
	if !errors.As(err, &f) {
		return false
	}
	switch status.Code(f.cause) {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.PermissionDenied, codes.NotFound:
		return true
	}
	return false
}

// complain is of a refusal to read what is to be shared. That the proxy could not authenticate has been said already.
func (g *Guard) complain(err error) {
	if f := new(failure); !errors.As(err, &f) {
		g.complaint.about(g.ownName(), errors.New("read all keys that are to be shared: "+textOf(err)),
			"nothing is shared while authentication is on, until it may read every key of --namespace")
	}
}
