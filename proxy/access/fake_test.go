package access

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.uber.org/goleak"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is an upstream of one member: etcd's auth store in its simplest form, and a record of what it was asked.
type cluster struct {
	certificate string        // the common name that the proxy shows; "" for none
	delay       time.Duration // how long each answer takes
	hangs       string        // the method that is never answered, without its service

	mu       sync.Mutex
	down     error
	failing  map[string]error // by method, without its service
	enabled  bool
	revision uint64
	store    int64
	users    map[string]*fakeUser
	roles    map[string][]*authpb.Permission
	tokens   map[string]fakeToken
	given    int
	leases   map[int64][]string
	asked    []asked
	before   func(method string) // called before an answer is made, without mu
}

type fakeUser struct {
	password string
	roles    []string
}

type fakeToken struct {
	user     string
	revision uint64 // a JWT's; 0 for others
}

type asked struct {
	at     time.Time
	method string // without its service
	token  string
}

func newCluster() *cluster {
	return &cluster{
		revision: 1, store: 1, users: map[string]*fakeUser{}, roles: map[string][]*authpb.Permission{rootRole: nil},
		tokens: map[string]fakeToken{}, leases: map[int64][]string{},
	}
}

// newGuardedCluster has authentication on, the users root and reader, who may read everything, and others with their roles.
func newGuardedCluster(users map[string][]string) *cluster {
	c := newCluster()
	c.enabled = true
	c.users["root"] = &fakeUser{"secret-of-root", []string{rootRole}}
	c.users["reader"] = &fakeUser{"secret-of-reader", []string{"everything"}}
	c.roles["everything"] = []*authpb.Permission{permission(authpb.READ, "\x00", "\x00")}
	for name, roles := range users {
		c.users[name] = &fakeUser{"secret-of-" + name, roles}
	}
	return c
}

func permission(kind authpb.Permission_Type, key, end string) *authpb.Permission {
	return &authpb.Permission{PermType: kind, Key: []byte(key), RangeEnd: []byte(end)}
}

// change changes users and roles.
func (c *cluster) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	c.revision++
}

// set changes what is not of users and roles: the auth revision stays.
func (c *cluster) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

// login gives a user a token that was not asked for through the proxy.
func (c *cluster) login(user string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.give(user)
}

func (c *cluster) give(user string) string {
	c.given++
	token := fmt.Sprintf("token-of-%s.%d", user, c.given)
	c.tokens[token] = fakeToken{user: user}
	return token
}

// jwtOf makes a JWT that names a user. It is valid once the cluster knows it.
func jwtOf(user string) string {
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	return part(`{"alg":"HS256","typ":"JWT"}`) + "." + part(fmt.Sprintf(`{"username":%q,"revision":1}`, user)) + "." + part("signature")
}

func (c *cluster) sign(token, user string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tokens[token] = fakeToken{user, c.revision}
}

// all is what was asked. The guard may be asking while it is looked at.
func (c *cluster) all() []asked {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.asked)
}

// count tells how often a method was asked.
func (c *cluster) count(method string) (n int) {
	for _, a := range c.all() {
		if a.method == method {
			n++
		}
	}
	return n
}

// times are when a method was asked.
func (c *cluster) times(method string) (all []time.Time) {
	for _, a := range c.all() {
		if a.method == method {
			all = append(all, a.at)
		}
	}
	return all
}

// Call is part of Upstream.
func (c *cluster) Call(ctx context.Context, method string, req []byte) (wire.Raw, error) {
	md, _ := metadata.FromOutgoingContext(ctx)
	token, hasToken := "", false
	for _, field := range []string{"token", "authorization"} {
		if v := md[field]; len(v) > 0 && !hasToken {
			token, hasToken = v[0], true
		}
	}
	method = method[strings.LastIndex(method, "/")+1:]
	c.mu.Lock()
	c.asked = append(c.asked, asked{time.Now(), method, token})
	before, delay, hangs := c.before, c.delay, c.hangs == method
	c.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if before != nil {
		before(method)
	}
	if delay > 0 {
		select {
		case <-time.After(delay / 2):
			defer time.Sleep(delay / 2)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := cmp.Or(c.down, c.failing[method]); err != nil {
		return nil, err
	}
	resp, err := c.answer(method, req, strings.TrimPrefix(token, "Bearer "), hasToken)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(resp)
}

// who is the user of a request; revision 0 is nobody.
func (c *cluster) who(token string, hasToken bool) (fakeToken, error) {
	switch {
	case !c.enabled:
		return fakeToken{}, nil
	case hasToken:
		t, ok := c.tokens[token]
		if !ok {
			return t, rpctypes.ErrGRPCInvalidAuthToken
		}
		if t.revision == 0 {
			t.revision = c.revision
		}
		return t, nil
	case c.certificate != "":
		return fakeToken{c.certificate, c.revision}, nil
	}
	return fakeToken{}, nil
}

func (c *cluster) permitAdmin(who fakeToken) error {
	switch u := c.users[who.user]; {
	case !c.enabled:
		return nil
	case who.user == "":
		return rpctypes.ErrGRPCUserEmpty
	case u == nil:
		return rpctypes.ErrGRPCUserNotFound
	case !slices.Contains(u.roles, rootRole):
		return rpctypes.ErrGRPCPermissionDenied
	}
	return nil
}

// may is the plainest way to tell whether permissions cover a range: each place where something may begin to be uncovered
// must be in one of them.
func (c *cluster) may(user string, write bool, key, end string) bool {
	u := c.users[user]
	if u == nil {
		return false
	}
	if slices.Contains(u.roles, rootRole) {
		return true
	}
	var all []*authpb.Permission
	for _, r := range u.roles {
		all = append(all, c.roles[r]...)
	}
	return covered(all, write, key, end)
}

func covered(all []*authpb.Permission, write bool, key, end string) bool {
	all = slices.DeleteFunc(slices.Clone(all), func(p *authpb.Permission) bool {
		return p.PermType == authpb.READ && write || p.PermType == authpb.WRITE && !write || len(p.Key) == 0
	})
	in := func(place, key, end string) bool {
		switch end {
		case "":
			return place == key
		case "\x00":
			return place >= key
		}
		return place >= key && place < end
	}
	places := []string{key}
	if end != "" {
		for _, p := range all {
			for _, edge := range []string{string(p.Key), string(p.RangeEnd)} {
				if edge != "" && in(edge, key, end) {
					places = append(places, edge)
				}
			}
			if len(p.RangeEnd) == 0 && in(string(p.Key)+"\x00", key, end) {
				places = append(places, string(p.Key)+"\x00")
			}
		}
	}
	if end == "\x00" && !slices.ContainsFunc(all, func(p *authpb.Permission) bool { return string(p.RangeEnd) == "\x00" }) {
		return false
	}
	for _, place := range places {
		if !slices.ContainsFunc(all, func(p *authpb.Permission) bool { return in(place, string(p.Key), string(p.RangeEnd)) }) {
			return false
		}
	}
	return true
}

func (c *cluster) answer(method string, req []byte, token string, hasToken bool) (proto.Message, error) {
	header := &pb.ResponseHeader{ClusterId: 1, Revision: c.store, RaftTerm: 1}
	if method == "Authenticate" {
		var r pb.AuthenticateRequest
		mustDecode(req, &r)
		u := c.users[r.Name]
		switch {
		case !c.enabled:
			return nil, rpctypes.ErrGRPCAuthNotEnabled
		case u == nil || u.password != r.Password:
			return nil, rpctypes.ErrGRPCAuthFailed
		}
		return &pb.AuthenticateResponse{Token: c.give(r.Name)}, nil
	}
	who, err := c.who(token, hasToken)
	if err != nil {
		return nil, err
	}
	switch method {
	case "AuthStatus":
		return &pb.AuthStatusResponse{Header: header, Enabled: c.enabled, AuthRevision: c.revision}, nil
	case "Range":
		return c.rangeKeys(req, who)
	case "UserGet":
		var r pb.AuthUserGetRequest
		mustDecode(req, &r)
		if err := c.permitAdmin(who); err != nil && who.user != r.Name {
			return nil, err
		}
		u := c.users[r.Name]
		if u == nil {
			return nil, rpctypes.ErrGRPCUserNotFound
		}
		return &pb.AuthUserGetResponse{Roles: u.roles}, nil
	case "RoleGet":
		var r pb.AuthRoleGetRequest
		mustDecode(req, &r)
		role, ok := c.roles[r.Role]
		if err := c.permitAdmin(who); err != nil {
			return nil, err
		}
		if !ok {
			return nil, rpctypes.ErrGRPCRoleNotFound
		}
		return &pb.AuthRoleGetResponse{Perm: role}, nil
	case "LeaseTimeToLive":
		var r pb.LeaseTimeToLiveRequest
		mustDecode(req, &r)
		if err := c.permitAdmin(who); err != nil {
			return nil, err
		}
		resp := &pb.LeaseTimeToLiveResponse{ID: r.ID, TTL: -1}
		for _, key := range c.leases[r.ID] {
			resp.TTL = 10
			resp.Keys = append(resp.Keys, []byte(key))
		}
		return resp, nil
	case "LeaseLeases":
		resp := &pb.LeaseLeasesResponse{}
		for id := range c.leases {
			resp.Leases = append(resp.Leases, &pb.LeaseStatus{ID: id})
		}
		return resp, nil
	}
	panic("unexpected method " + method)
}

func (c *cluster) rangeKeys(req []byte, who fakeToken) (proto.Message, error) {
	var r pb.RangeRequest
	mustDecode(req, &r)
	switch {
	case len(r.Key) == 0:
		return nil, rpctypes.ErrGRPCEmptyKey
	case c.enabled && who.revision == 0:
		return nil, rpctypes.ErrGRPCUserEmpty
	case c.enabled && who.revision < c.revision:
		return nil, rpctypes.ErrGRPCAuthOldRevision
	case c.enabled && !c.may(who.user, false, string(r.Key), string(r.RangeEnd)):
		return nil, rpctypes.ErrGRPCPermissionDenied
	case r.Revision > c.store:
		return nil, rpctypes.ErrGRPCFutureRev
	}
	return &pb.RangeResponse{}, nil
}

func mustDecode(raw []byte, m proto.Message) {
	if err := proto.Unmarshal(raw, m); err != nil {
		panic(err)
	}
}

// newGuard makes a guard that has been told the regime. The proxy is user, with the right password; "" for none.
func newGuard(t *testing.T, c *cluster, user string, change func(*Config)) *Guard {
	t.Helper()
	cfg := Config{
		Upstream: c, User: user, Key: []byte{0}, End: []byte{0}, Logger: slog.New(slog.DiscardHandler),
		Certificate: c.certificate != "", Name: c.certificate,
	}
	if user != "" {
		cfg.Password = "secret-of-" + user
	}
	if change != nil {
		change(&cfg)
	}
	g := New(cfg)
	t.Cleanup(g.Close)
	mustRegime(t, g, c)
	return g
}

// mustRegime has the guard ask.
func mustRegime(t *testing.T, g *Guard, c *cluster) Regime {
	t.Helper()
	r, err := g.Regime(t.Context(), c.Call)
	if err != nil {
		t.Fatalf("Regime: %v", err)
	}
	return r
}

// withTokenIn is the context of an RPC of who shows a token.
func withTokenIn(ctx context.Context, token string) context.Context {
	return metadata.NewIncomingContext(ctx, metadata.Pairs("token", token, "user-agent", "test"))
}

// withCertificateIn is the context of an RPC of who shows a certificate.
func withCertificateIn(ctx context.Context, name string) context.Context {
	chain := []*x509.Certificate{{Subject: pkix.Name{CommonName: name}}}
	state := tls.ConnectionState{PeerCertificates: chain, VerifiedChains: [][]*x509.Certificate{chain}}
	return peer.NewContext(ctx, &peer.Peer{AuthInfo: credentials.TLSInfo{State: state}})
}

func keys(pairs ...string) (all []Range) {
	for i := 0; i < len(pairs); i += 2 {
		all = append(all, Range{[]byte(pairs[i]), []byte(pairs[i+1])})
	}
	return all
}

func authenticateRequest(user string) *pb.AuthenticateRequest {
	return &pb.AuthenticateRequest{Name: user, Password: "secret-of-" + user}
}

func encode(t *testing.T, m proto.Message) wire.Raw {
	t.Helper()
	raw, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func tokenOf(resp wire.Raw) string {
	var r pb.AuthenticateResponse
	mustDecode(resp, &r)
	return r.Token
}
