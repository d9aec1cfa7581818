package differential

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// Few, so that requests meet. The first is the one that may everything.
var (
	users     = []string{"root", "alice", "bob", "no password"}
	roles     = []string{"root", "r1", "r2"}
	passwords = []string{"secret", "secret 2", "\u00fcber"}
)

// identity is what a request shows of who asks. nil is nobody.
type identity struct {
	user   string
	tokens [2]string // of each side
}

func (i *identity) String() string {
	if i == nil {
		return "nobody"
	}
	return fmt.Sprintf("%q with token %q", i.user, i.tokens[0])
}

// auth is what is known of users and their tokens.
type auth struct {
	enabled   bool
	passwords map[string]string // of users, as last set
	root      *identity         // nil while authentication is off
	others    []*identity       // that were good once, the newest last
}

// anyone is who asks in a step: mostly one who may, so that other steps go on as they do without authentication.
func (r *runner) anyone() *identity {
	n := r.rng.IntN(20)
	switch {
	case !r.auth.enabled && n < 18, n == 0:
		return nil
	case n == 1:
		token := pick(r, "", "nonsense", "nonsense.1", "nonsense.99999999999999999999", "a.b.c", "Bearer nonsense.1")
		return &identity{user: "", tokens: [2]string{token, token}}
	case n < 12 || len(r.auth.others) == 0:
		return r.auth.root
	default:
		return pick(r, r.auth.others...)
	}
}

// login gets root's token, of which there may be a good one: but one of the kind that states its own revision becomes
// void with any change of users or roles.
func (r *runner) login(ctx context.Context) error {
	if !r.auth.enabled {
		return nil
	}
	defer r.asRoot()()
	r.who = nil
	root, err := r.authenticate(ctx, users[0], r.auth.passwords[users[0]])
	if err == nil && root == nil {
		err = errors.New("root cannot log in")
	}
	if err != nil {
		return err
	}
	r.remember(r.auth.root)
	r.auth.root = root
	return nil
}

// remember keeps an identity for other steps to ask as: two of each user.
func (r *runner) remember(id *identity) {
	if id == nil {
		return
	}
	same := func(other *identity) bool { return other.user == id.user }
	if i := slices.IndexFunc(r.auth.others, same); i >= 0 && slices.ContainsFunc(r.auth.others[i+1:], same) {
		r.auth.others = slices.Delete(r.auth.others, i, i+1)
	}
	r.auth.others = append(r.auth.others, id)
}

// authenticate asks for a token. It is nil if there is none.
func (r *runner) authenticate(ctx context.Context, user, password string) (*identity, error) {
	answers, err := r.ask(ctx, &pb.AuthenticateRequest{Name: user, Password: password})
	if err != nil || answers[0].err != nil {
		return nil, err
	}
	id := &identity{user: user}
	for i, a := range answers {
		id.tokens[i] = a.resp.(*pb.AuthenticateResponse).Token
	}
	return id, nil
}

// stepAuth sends a request of the Auth service.
func (r *runner) stepAuth(ctx context.Context) (err error) {
	switch {
	case !r.auth.enabled && r.chance(12):
		return r.enable(ctx)
	case r.auth.enabled && r.chance(25), r.chance(200):
		return r.toggle(ctx, &pb.AuthDisableRequest{})
	case r.chance(200):
		return r.toggle(ctx, &pb.AuthEnableRequest{})
	case r.chance(4):
		return r.stepAuthenticate(ctx)
	}
	req := r.authRequest()
	if r.auth.enabled && mayRevoke(req) {
		if err := r.endStreams(ctx); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, r.openPings(ctx)) }()
	}
	answers, err := r.ask(ctx, req)
	if err != nil || answers[0].err != nil {
		return err
	}
	switch req := req.(type) {
	case *pb.AuthUserAddRequest:
		r.auth.passwords[req.Name] = req.Password
	case *pb.AuthUserChangePasswordRequest:
		r.auth.passwords[req.Name] = req.Password
	case *pb.AuthUserGetRequest, *pb.AuthUserListRequest, *pb.AuthRoleGetRequest, *pb.AuthRoleListRequest, *pb.AuthStatusRequest:
		return nil
	}
	return r.login(ctx)
}

// mayRevoke tells whether a request may take a right from somebody. etcd goes on serving open watches, and a core ends them.
func mayRevoke(req proto.Message) bool {
	switch req.(type) {
	case *pb.AuthUserDeleteRequest, *pb.AuthUserRevokeRoleRequest, *pb.AuthRoleDeleteRequest,
		*pb.AuthRoleGrantPermissionRequest, *pb.AuthRoleRevokePermissionRequest:
		return true
	}
	return false
}

func (r *runner) stepAuthenticate(ctx context.Context) error {
	user := pick(r, append([]string{"nobody", ""}, users...)...)
	password := r.auth.passwords[user]
	if r.chance(4) {
		password = pick(r, append([]string{""}, passwords...)...)
	}
	id, err := r.authenticate(ctx, user, password)
	r.remember(id)
	return err
}

// enable sees to users of which each may something else, mostly, and switches authentication on.
func (r *runner) enable(ctx context.Context) error {
	if !r.chance(4) {
		var requests []proto.Message
		for i, user := range users[:3] {
			r.auth.passwords[user] = passwords[0]
			requests = append(requests,
				&pb.AuthUserAddRequest{Name: user, Password: passwords[0]},
				&pb.AuthUserChangePasswordRequest{Name: user, Password: passwords[0]},
				&pb.AuthRoleAddRequest{Name: roles[i]},
				&pb.AuthUserGrantRoleRequest{User: user, Role: roles[i]},
				&pb.AuthRoleGrantPermissionRequest{Name: roles[i], Perm: r.permission()})
		}
		for _, req := range requests {
			if err := r.both(ctx, req); err != nil {
				return err
			}
		}
	}
	if err := r.toggle(ctx, &pb.AuthEnableRequest{}); err != nil || !r.auth.enabled {
		return err
	}
	for _, user := range users[1:3] {
		id, err := r.authenticate(ctx, user, r.auth.passwords[user])
		if err != nil {
			return err
		}
		r.remember(id)
	}
	return nil
}

// toggle switches authentication on or off. Streams end before: what becomes of one that was opened under other rules, and
// when, differs between a member and a proxy, which has to hold others to what etcd holds only new requests to.
func (r *runner) toggle(ctx context.Context, req proto.Message) error {
	if err := r.endStreams(ctx); err != nil {
		return err
	}
	answers, err := r.ask(ctx, req)
	if err != nil {
		return err
	}
	if answers[0].err == nil {
		if _, r.auth.enabled = req.(*pb.AuthEnableRequest); !r.auth.enabled {
			r.auth.root, r.auth.others = nil, r.auth.others[:min(1, len(r.auth.others))]
			if err := r.disabled(ctx); err != nil {
				return err
			}
		} else if err := r.enabled(ctx); err != nil {
			return err
		}
	}
	return r.openPings(ctx)
}

// disabled waits until proxies share again: then they end what was opened before.
func (r *runner) disabled(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	for _, s := range r.sides {
		if err := s.target.WaitShared(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) enabled(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	for _, s := range r.sides {
		if err := s.target.WaitUnshared(ctx); err != nil {
			return err
		}
	}
	return r.login(ctx)
}

func (r *runner) authRequest() proto.Message {
	user, role := pick(r, users...), pick(r, roles...)
	if r.chance(12) {
		user, role = pick(r, "", "nobody"), pick(r, "", "no role")
	}
	switch r.rng.IntN(16) {
	case 0, 1, 2:
		req := &pb.AuthUserAddRequest{Name: user, Password: pick(r, passwords...)}
		if user == users[3] { // and never root, who could not switch authentication off then
			req.Options, req.Password = &authpb.UserAddOptions{NoPassword: true}, pick(r, "", "", passwords[0])
		}
		return req
	case 3:
		return &pb.AuthUserDeleteRequest{Name: user}
	case 4:
		req := &pb.AuthUserChangePasswordRequest{Name: user, Password: pick(r, passwords...)}
		if user != users[0] && r.chance(4) {
			req.Password = ""
		}
		return req
	case 5, 6:
		return &pb.AuthUserGrantRoleRequest{User: user, Role: role}
	case 7:
		return &pb.AuthUserRevokeRoleRequest{Name: user, Role: role}
	case 8:
		return &pb.AuthRoleAddRequest{Name: role}
	case 9, 10, 11:
		return &pb.AuthRoleGrantPermissionRequest{Name: role, Perm: r.permission()}
	case 12:
		p := r.permission()
		return &pb.AuthRoleRevokePermissionRequest{Role: role, Key: p.GetKey(), RangeEnd: p.GetRangeEnd()}
	case 13:
		if r.chance(3) {
			return &pb.AuthRoleDeleteRequest{Role: role}
		}
		return &pb.AuthRoleGetRequest{Role: role}
	case 14:
		return pick[proto.Message](r, &pb.AuthUserListRequest{}, &pb.AuthRoleListRequest{}, &pb.AuthStatusRequest{})
	default:
		return &pb.AuthUserGetRequest{Name: user}
	}
}

// permissionEnds are the ends of permissions, by key; others are on one key. A key has always the same end: with two, etcd does
// not find the permission that a new one is to replace, and keeps both.
var permissionEnds = map[string]string{"a": "c", "c": "m", "aa": "\x00", "c\xff": "c", "\x00": "a", "l/1": "l0", "": "b"}

func (r *runner) permission() *authpb.Permission {
	if r.chance(30) {
		return nil
	}
	p := &authpb.Permission{PermType: authpb.Permission_Type(r.rng.IntN(3)), Key: r.badKey()}
	p.RangeEnd = []byte(permissionEnds[string(p.Key)])
	if r.chance(40) {
		p.PermType = 7
	}
	return p
}
