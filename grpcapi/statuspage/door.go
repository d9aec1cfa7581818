package statuspage

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// door lets in who may see the page, by what a request shows: a token, as the JSON gateway takes it, a name and password, which
// browsers ask for, or a certificate.
//
// Who has been let in is known by a hash of what was shown, so that it takes equally long to look for what is nearly right, and
// for a second nobody is asked again. What is not known costs a question upstream, and a password its hashing, so that all
// strangers together have a few a second; who is known does not wait for them. When nobody can be asked, who was known lately
// stays: that is when the page is needed most.
type door struct {
	permit func(context.Context) error
	login  func(ctx context.Context, name, password string) (token string, err error)
	tries  *rate.Limiter // of strangers

	mu    sync.Mutex // guards known
	known map[[sha256.Size]byte]pass
}

// pass is of somebody who was let in.
type pass struct {
	token   string    // for a name and password
	checked time.Time // when upstream last said yes
	again   time.Time // from when on it is asked again
}

const (
	passLife    = time.Second      // until upstream is asked again
	outagePause = 5 * time.Second  // the same, if it did not answer
	outageLife  = 10 * time.Minute // for how long it need not
	maxPasses   = 64
	triesRate   = 10 // a second, and at once
	// A stranger waits for upstream and for the hashing of a password; who is known only for upstream, and not for long: he is
	// waiting for what is wrong with it.
	strangerPatience = 5 * time.Second
	knownPatience    = time.Second
)

func newDoor(cfg Config) *door {
	return &door{permit: cfg.Permit, login: cfg.Login, tries: rate.NewLimiter(triesRate, triesRate), known: map[[sha256.Size]byte]pass{}}
}

var errTooManyTries = errors.New("too many attempts: come again in a second")

// admit returns nil if who sent r may see the page, else why not.
func (d *door) admit(r *http.Request) error {
	id := identify(r)
	now := time.Now()
	p, known := d.find(id)
	patience := strangerPatience
	switch {
	case known && now.Before(p.again):
		return nil
	case known:
		patience = knownPatience
	case !d.tries.Allow():
		return errTooManyTries
	}
	ctx, cancel := context.WithTimeout(caller(r), patience)
	defer cancel()
	token, err := d.ask(ctx, r, p.token)
	switch {
	case err == nil:
		d.keep(id, pass{token, now, now.Add(passLife)})
		return nil
	case isRefusal(err):
		d.forget(id)
		return err
	case known && now.Sub(p.checked) < outageLife:
		p.again = time.Now().Add(outagePause)
		d.keep(id, p)
		return nil
	}
	return err
}

// ask asks upstream. token is what a name and password have been good for, if they have, and what is returned is what they are
// good for now.
func (d *door) ask(ctx context.Context, r *http.Request, token string) (string, error) {
	name, password, hasPassword := r.BasicAuth()
	if !hasPassword {
		return "", d.permit(withToken(ctx, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")))
	}
	if token != "" {
		err := d.permit(withToken(ctx, token))
		if !isRefusal(err) || status.Code(rpcError(err)) == codes.PermissionDenied {
			return token, err
		}
		// It has expired, as tokens do; the password may be as good as before. Who was let in by it is no stranger.
	}
	token, err := d.login(ctx, name, password)
	if status.Code(rpcError(err)) == codes.FailedPrecondition { // authentication is off
		return "", d.permit(ctx)
	}
	if err != nil {
		return "", err
	}
	return token, d.permit(withToken(ctx, token))
}

func (d *door) find(id [sha256.Size]byte) (pass, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p, ok := d.known[id]
	return p, ok
}

func (d *door) keep(id [sha256.Size]byte, p pass) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.known[id]; !ok && len(d.known) >= maxPasses {
		oldest := id
		for other, q := range d.known {
			if oldest == id || q.checked.Before(d.known[oldest].checked) {
				oldest = other
			}
		}
		delete(d.known, oldest)
	}
	d.known[id] = p
}

func (d *door) forget(id [sha256.Size]byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.known, id)
}

// identify is a hash of what r shows of who sends it.
func identify(r *http.Request) [sha256.Size]byte {
	h := sha256.New()
	h.Write([]byte(r.Header.Get("Authorization")))
	h.Write([]byte{0})
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 && len(r.TLS.VerifiedChains[0]) > 0 {
		h.Write(r.TLS.VerifiedChains[0][0].Raw)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// caller is r's context as that of an RPC from the same client.
func caller(r *http.Request) context.Context {
	from := &peer.Peer{}
	if at, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		from.Addr = net.TCPAddrFromAddrPort(at)
	}
	if r.TLS != nil {
		from.AuthInfo = credentials.TLSInfo{State: *r.TLS}
	}
	return metadata.NewIncomingContext(peer.NewContext(r.Context(), from), metadata.MD{})
}

func withToken(ctx context.Context, token string) context.Context {
	if token == "" {
		return ctx
	}
	return metadata.NewIncomingContext(ctx, metadata.Pairs(rpctypes.TokenFieldNameGRPC, token))
}

// isRefusal tells whether upstream has answered that somebody may not, rather than not answered.
func isRefusal(err error) bool {
	switch status.Code(rpcError(err)) {
	case codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument:
		return true
	}
	return false
}

// rpcError is err with the code that it has for clients.
func rpcError(err error) error {
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		return status.Error(e.Code(), e.Error())
	}
	return err
}

// refuse answers who is not let in.
func refuse(w http.ResponseWriter, err error) {
	code := http.StatusServiceUnavailable
	switch {
	case errors.Is(err, errTooManyTries):
		code = http.StatusTooManyRequests
		w.Header().Set("Retry-After", "1")
	case status.Code(rpcError(err)) == codes.PermissionDenied:
		code = http.StatusForbidden
	case isRefusal(err):
		code = http.StatusUnauthorized
		w.Header().Set("WWW-Authenticate", `Basic realm="weir: a user with the role root", charset="UTF-8"`)
	}
	text := cmp.Or(status.Convert(rpcError(err)).Message(), err.Error())
	if code == http.StatusServiceUnavailable {
		text = "it cannot be asked who may see this, see /readyz: " + text
	}
	http.Error(w, text, code)
}
