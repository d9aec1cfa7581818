package access

import (
	"context"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"

	"weir/grpcapi/wire"
)

// client is who an RPC is from: a token counts before a certificate, as at etcd.
type client struct {
	token    string // as it was sent
	field    string // of the metadata in which it was; "" without a token
	name     string // of the certificate
	verified bool   // there is a certificate
}

// tokenFields are the metadata in which a token may be, in the order in which they count.
var tokenFields = [...]string{rpctypes.TokenFieldNameGRPC, rpctypes.TokenFieldNameSwagger}

// clientOf reads an RPC's metadata and certificate. The token is kept as it came, with whatever etcd may cut off: what is
// known of one spelling is not known of another.
func clientOf(ctx context.Context) client {
	for _, field := range tokenFields { // it is found at once, where to find that there is none takes longer
		if v := metadata.ValueFromIncomingContext(ctx, field); len(v) > 0 {
			return client{token: v[0], field: field}
		}
	}
	c := wire.CredentialsOf(ctx)
	return client{name: c.CommonName, verified: c.HasCertificate}
}

func (c client) hasToken() bool { return c.field != "" }

// isNobody tells whether the client shows nothing.
func (c client) isNobody() bool { return !c.hasToken() && !c.verified }

// credential is the token itself, without what may stand before it.
func (c client) credential() string { return strings.TrimPrefix(c.token, "Bearer ") }

// subject is whom a policy is to judge. It is not for clients with a token.
func (c client) subject() subject { return subject{name: c.name, known: c.verified} }

// question is a context for asking upstream something under the client's token, with nothing else of the client's.
func (c client) question(ctx context.Context) context.Context {
	return metadata.NewOutgoingContext(ctx, metadata.Pairs(c.field, c.token, uncachedField, "true"))
}

// uncachedField has a proxy that is upstream ask the member behind it, and not answer from memory.
const uncachedField = "weir-uncached"

// nobodysToken is no token of anybody's. It lets a proxy that upstream knows by its certificate ask as nobody: while
// authentication is off upstream does not look at tokens, and while it is on it refuses this one before it looks at the
// certificate. It has neither the dot of etcd's simple tokens nor the two of a JWT.
const nobodysToken = "weir-nobody"

// withToken is ctx with this token and no other in what goes upstream.
func withToken(ctx context.Context, token string) context.Context {
	md, _ := metadata.FromOutgoingContext(ctx) // a copy
	if md == nil {
		md = metadata.MD{}
	}
	delete(md, rpctypes.TokenFieldNameSwagger)
	md[rpctypes.TokenFieldNameGRPC] = []string{token}
	return metadata.NewOutgoingContext(ctx, md)
}

// tokenIn is the token in what goes upstream; "" if there is none.
func tokenIn(ctx context.Context) string {
	md, _ := metadata.FromOutgoingContext(ctx)
	if v := md[rpctypes.TokenFieldNameGRPC]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// UserOf tells who the client of ctx is: the user of a token, if that is known for certain, or the certificate's common name
// where there is no token. It is false for who shows nothing, and for a token of which it is not known whose it is: one of
// etcd's simple tokens that was not given through this proxy, one that is not valid, and any while authentication is off. A name
// that is not verified is what a JWT claims; whether that is true IsValid asks. UserOf asks nobody.
//
// The name tells whom to count a request for. It is no right to anything: the token may have expired since.
func (g *Guard) UserOf(ctx context.Context) (name string, verified bool) {
	c := clientOf(ctx)
	switch {
	case !c.hasToken():
		return c.name, c.verified && c.name != ""
	case g.off.Load():
		return "", false
	}
	if k := g.tokens.find(c.credential()); k != nil {
		if name, ok := k.user(); ok {
			return name, true
		}
	}
	name = claimOf(c.credential())
	return name, name != "" && g.verdicts.isValid(c.token, g.clock.now())
}

// IsValid asks upstream whether it takes the token that the client of ctx shows for somebody's.
func (g *Guard) IsValid(ctx context.Context) bool {
	c := clientOf(ctx)
	err := g.verdicts.wait(ctx, g.verdicts.ask(c, Range{Key: []byte{0}}, false))
	return err == nil || says(err, rpctypes.ErrGRPCPermissionDenied)
}
