package access

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"weir/grpcapi/wire"
)

const (
	// authenticateInterval is the least time between two Authenticate. Each is a write to etcd's log, and has a password hashed.
	authenticateInterval = time.Second
	// callTimeout bounds a call on the proxy's own errand.
	callTimeout = 5 * time.Second
)

// ownToken is the token of the proxy's own user. It is asked for when it is needed, by one Authenticate for all who wait, and
// kept until upstream refuses it.
type ownToken struct {
	ctx            context.Context // of Authenticate
	tasks          *sync.WaitGroup
	clock          clock
	call           Call // without any identity
	user, password string
	off            *atomic.Bool // authentication is off, as far as is known: there are no tokens
	complaint      *complaint

	token  atomic.Pointer[string] // nil: there is none
	asked  atomic.Uint64          // how often
	mu     sync.Mutex             // guards what follows
	asking chan struct{}          // closed when the Authenticate under way has ended; nil if none is
	sent   time.Duration          // when the last one was
	failed error                  // why it failed
}

// get returns the token, or "" while there are none. Its error is for a client.
func (o *ownToken) get(ctx context.Context) (string, error) {
	for {
		if o.off.Load() {
			return "", nil
		}
		if t := o.token.Load(); t != nil {
			return *t, nil
		}
		done, wait, err := o.ask()
		if err != nil {
			return "", err
		}
		var pause <-chan time.Time
		if done == nil {
			pause = time.After(wait)
		}
		select {
		case <-done:
			err = o.failure() // to ask again is for another request: this one would wait for ever while upstream hangs
		case <-pause:
		case <-ctx.Done():
			err = status.FromContextError(ctx.Err()).Err()
		case <-o.ctx.Done():
			err = errClosed
		}
		if err != nil {
			return "", err
		}
	}
}

// ask begins to authenticate, or tells what to wait for: the end of one, or some time if done is nil. It fails while one that
// has failed is too young to be repeated.
func (o *ownToken) ask() (done chan struct{}, wait time.Duration, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.clock.now()
	switch {
	case o.asking != nil:
		return o.asking, 0, nil
	case o.token.Load() != nil:
		return nil, 0, nil
	case now-o.sent < authenticateInterval && o.failed != nil:
		return nil, 0, o.failed
	case now-o.sent < authenticateInterval:
		return nil, authenticateInterval - (now - o.sent), nil
	}
	o.asking, o.sent = make(chan struct{}), now
	o.asked.Add(1)
	o.tasks.Go(o.authenticate)
	return o.asking, 0, nil
}

// failure is why the last Authenticate failed; nil if it did not.
func (o *ownToken) failure() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.failed
}

func (o *ownToken) authenticate() {
	ctx, cancel := context.WithTimeout(o.ctx, callTimeout)
	defer cancel()
	token, err := authenticate(ctx, o.call, o.user, o.password)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.failed = nil
	switch {
	case says(err, rpctypes.ErrGRPCAuthNotEnabled):
		o.off.Store(true)
	case err != nil:
		o.failed = &failure{"authenticate the proxy upstream", err}
		mend := "it is tried again"
		if isRejected(o.failed) {
			mend = "see that --user and --password are right"
		}
		if o.ctx.Err() == nil {
			o.complaint.about(o.user, o.failed, mend)
		}
	default:
		o.token.Store(&token)
	}
	close(o.asking)
	o.asking = nil
}

func authenticate(ctx context.Context, call Call, user, password string) (string, error) {
	req, err := proto.Marshal(&pb.AuthenticateRequest{Name: user, Password: password})
	if err != nil {
		return "", errors.New("encode the request: the name or password is not UTF-8") // its own text may quote it
	}
	raw, err := call(ctx, pb.Auth_Authenticate_FullMethodName, req)
	if err != nil {
		return "", err
	}
	var resp pb.AuthenticateResponse
	if err := proto.Unmarshal(raw, &resp); err != nil {
		return "", fmt.Errorf("decode the answer: %w", err)
	}
	if resp.Token == "" {
		return "", errors.New("upstream has given no token")
	}
	return resp.Token, nil
}

// forget drops a token that upstream has refused, if it is still the present one. With "" a request without a token was
// refused: authentication is on.
func (o *ownToken) forget(token string) {
	if token == "" {
		o.off.Store(false)
		return
	}
	if t := o.token.Load(); t != nil && *t == token {
		o.token.CompareAndSwap(t, nil)
	}
}

// HasIdentity tells whether upstream knows the proxy as a user while authentication is on.
func (g *Guard) HasIdentity() bool { return g.cfg.User != "" || g.cfg.Certificate }

// ownKey marks a context with the own token that is in it, "" for none: so it can be told from a client's.
type ownKey struct{}

// Own returns ctx for a call upstream in the proxy's own name. It authenticates first where there is no token, at most once a
// second, and waits for that. Without an identity, or with that of a certificate only, nothing is added. What ctx had of
// another token is gone. The error is Unavailable, or of ctx.
func (g *Guard) Own(ctx context.Context) (context.Context, error) {
	if g.cfg.User == "" {
		if g.cfg.Certificate {
			ctx = context.WithValue(ctx, ownKey{}, "")
		}
		return ctx, nil
	}
	token, err := g.own.get(ctx)
	if err != nil {
		return ctx, err
	}
	if token != "" {
		ctx = withToken(ctx, token)
	}
	return context.WithValue(ctx, ownKey{}, token), nil
}

// IsOwn tells whether a context from Own, Outgoing or Judge is of a call in the proxy's own name.
func (g *Guard) IsOwn(ctx context.Context) bool { return g.HasIdentity() && ctx.Value(ownKey{}) != nil }

// Renew takes the error of a call upstream, with a context from Own, Outgoing or Judge. It returns whether the call may succeed
// with a new one, because the proxy's token is not good any more, or something has changed of which the guard did not know.
// Upstream has then done nothing, writes included. For a client's own token it is always false. The error may also be a text of
// upstream's, as reasons of cancelled watches are.
func (g *Guard) Renew(ctx context.Context, err error) bool {
	if !isRefusal(err) {
		return false
	}
	sent := tokenIn(ctx)
	if sent == nobodysToken {
		if isTokenRefused(err) {
			g.off.Store(false) // it has been turned on
			return true
		}
		return false
	}
	own, ok := ctx.Value(ownKey{}).(string)
	switch {
	case !ok:
		return false
	case g.cfg.User == "": // a certificate's rights are those of the moment, but may change while upstream answers
		return says(err, rpctypes.ErrGRPCAuthOldRevision)
	case isTokenRefused(err), own == "" && says(err, rpctypes.ErrGRPCUserEmpty):
		g.own.forget(own)
		return true
	}
	return false
}

// AsOwn calls upstream in the proxy's own name: twice, if its token turns out to be no longer good.
func AsOwn[V any](ctx context.Context, g *Guard, call func(context.Context) (V, error)) (V, error) {
	for again := false; ; again = true {
		own, err := g.Own(ctx)
		if err != nil {
			var none V
			return none, err
		}
		resp, err := call(own)
		if err == nil || again || !g.Renew(own, err) {
			return resp, err
		}
	}
}

// callOwn calls the current member in the proxy's own name, with nothing of a client's.
func (g *Guard) callOwn(ctx context.Context, method string, req []byte) (wire.Raw, error) {
	return AsOwn(withoutIdentity(ctx), g, func(ctx context.Context) (wire.Raw, error) { return g.cfg.Upstream.Call(ctx, method, req) })
}

// withoutIdentity is ctx without anything of a client's in what goes upstream.
func withoutIdentity(ctx context.Context) context.Context {
	return metadata.NewOutgoingContext(ctx, metadata.MD{})
}
