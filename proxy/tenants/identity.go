package tenants

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"weir/grpcapi/wire"
)

// Identity is whom limits, and turns upstream, are counted for: a tenant, or a user, a common name or an address. It is comparable.
type Identity struct {
	kind kind
	name string
	net  netip.Prefix
}

type kind uint8

const (
	ofTenant kind = iota
	ofUser
	ofCommonName
	ofAddress // or local, if it has none
)

// String is unambiguous.
func (i Identity) String() string {
	switch i.kind {
	case ofTenant:
		return "tenant:" + i.name
	case ofUser:
		return "user:" + i.name
	case ofCommonName:
		return "cn:" + i.name
	}
	switch {
	case !i.net.IsValid():
		return "local"
	case i.net.IsSingleIP():
		return "address:" + i.net.Addr().String()
	}
	return "address:" + i.net.String()
}

// client is who makes an RPC.
type client struct {
	tenant *tenant
	who    Identity
	user   string // as upstream knows it; "" if nobody is known
	// shown is who it would be without tenants. doubtful says that this is only an address, because a token is not known to be good.
	shown    Identity
	doubtful bool
}

// clientOf finds out who makes ctx's RPC. If that is denied only its address is known.
//
// A token that is not known to be valid is nobody's, and counts for the address that it comes from. With a tenants file it is
// refused with the error after which etcd's client gets a new one, by an Authenticate that comes through here: to take its
// owner for somebody who is no tenant would be to show it other keys under the same names.
func (t *Table) clientOf(ctx context.Context, in *standing) (c client, no *denial) {
	return t.clientAs(ctx, in, true)
}

// clientAs is clientOf, but may be told not to ask upstream whose a token is.
func (t *Table) clientAs(ctx context.Context, in *standing, ask bool) (c client, no *denial) {
	c.tenant = in.members.others
	switch shown := wire.CredentialsOf(ctx); {
	case shown.HasToken:
		name, ok, wait := t.userOf(ctx, in, ask)
		switch {
		case wait > 0:
			return in.stranger(ctx), &denial{why: overRate, wait: wait}
		case ok:
			c.user, c.who = name, Identity{kind: ofUser, name: name}
			if own := in.members.users[name]; own != nil {
				c.tenant = own
			}
		case in.members.closed:
			return in.stranger(ctx), &denial{why: forbidden, err: rpctypes.ErrGRPCInvalidAuthToken}
		default:
			c.who, c.doubtful = addressOf(ctx), true
		}
	case shown.HasCertificate && shown.CommonName != "":
		name := shown.CommonName
		c.user, c.who = name, Identity{kind: ofCommonName, name: name}
		if own := in.members.commonNames[name]; own != nil {
			c.tenant = own
		}
	default:
		c.who = addressOf(ctx)
	}
	c.shown = c.who
	if c.tenant == nil {
		return in.stranger(ctx), &denial{why: forbidden, err: rpctypes.ErrGRPCPermissionDenied}
	}
	if c.tenant.name != "" {
		c.who = Identity{kind: ofTenant, name: c.tenant.name}
	}
	return c, nil
}

// denial is why it does not matter who somebody is.
type denial struct {
	why  refusal
	wait time.Duration // for what is over a rate
	err  error         // for everything else
}

// tell is the error for ctx's client.
func (d *denial) tell(ctx context.Context) error {
	if d.why == overRate {
		return tooMany(ctx, d.wait)
	}
	return d.err
}

// userOf is the user of the token that ctx's client shows; not ok if it is not known to be anybody's. What a token says of
// itself is for upstream to confirm, and anybody can write such tokens: each question counts for the address that it comes from,
// until the answer is yes. If that are too many already, there is a time to wait.
func (t *Table) userOf(ctx context.Context, in *standing, ask bool) (name string, ok bool, wait time.Duration) {
	name, ok = t.cfg.Users.UserOf(ctx)
	if ok || name == "" || !ask {
		return name, ok, 0
	}
	address := t.accounts.look(addressOf(ctx), in.strangers)
	if wait = address.doubt(); wait > 0 {
		return "", false, wait
	}
	if ok = t.cfg.Users.IsValid(ctx); ok {
		address.believe()
	}
	return name, ok, 0
}

// stranger is somebody of whom no more than the address counts.
func (s *standing) stranger(ctx context.Context) client {
	who := addressOf(ctx)
	return client{tenant: s.strangers, who: who, shown: who}
}

// addressOf is where an RPC comes from: an IPv4 address, or the 64 bits of an IPv6 address that its owner cannot choose.
//
// What comes through the JSON gateway of this server is known by the address that the gateway has added at the end of
// x-forwarded-for. All other metadata is the client's to invent.
func addressOf(ctx context.Context) Identity {
	var text string
	switch p, ok := peer.FromContext(ctx); {
	case !ok || p.Addr == nil:
	case p.Addr.Network() == gatewayNetwork:
		if all := metadata.ValueFromIncomingContext(ctx, "x-forwarded-for"); len(all) > 0 {
			last := all[len(all)-1]
			text = strings.TrimSpace(last[strings.LastIndexByte(last, ',')+1:])
		}
	default:
		if tcp, ok := p.Addr.(*net.TCPAddr); ok {
			return ofIP(tcp.AddrPort().Addr())
		}
		text = p.Addr.String()
		if host, _, err := net.SplitHostPort(text); err == nil {
			text = host
		}
	}
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return Identity{kind: ofAddress}
	}
	return ofIP(ip)
}

// gatewayNetwork is that of the connections between a server and its own JSON gateway, which are in memory.
const gatewayNetwork = "bufconn"

func ofIP(ip netip.Addr) Identity {
	ip = ip.Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return Identity{kind: ofAddress}
	}
	return Identity{kind: ofAddress, net: p}
}
