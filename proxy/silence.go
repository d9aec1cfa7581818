package proxy

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// requestTimeout is how long etcd takes a read or write to be agreed on: 5 s and two election timeouts.
	requestTimeout = 7 * time.Second
	// silence is how long a member answers nothing that it is asked each second before it counts as hanging: linearizable reads,
	// or, while nothing is shared, who may read.
	silence = 5 * time.Second
)

// patience ends a call that hangs with its member, which says nothing as long as the connection stands, and may still be
// doing what it was asked. A call of which it is known that the member is alive may take as long as it likes: it may
// be a long answer.
type patience struct {
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu    sync.Mutex // guards timer
	timer *time.Timer
}

// newPatience begins with a call. end must be called when the call has ended.
func (p *Proxy) newPatience(ctx context.Context) *patience {
	w := &patience{}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(requestTimeout, func() {
		if p.isSilent() {
			w.cancel(rpctypes.ErrGRPCTimeout)
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.ctx.Err() == nil {
			w.timer.Reset(time.Second)
		}
	})
	return w
}

// end returns the error of the call, err, or why it was ended.
func (w *patience) end(err error) error {
	silent := errors.Is(context.Cause(w.ctx), rpctypes.ErrGRPCTimeout)
	w.cancel(nil)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer.Stop()
	if err != nil && silent {
		return rpctypes.ErrGRPCTimeout
	}
	return err
}

// isSilent tells whether the member hangs, as far as the proxy's own questions show.
func (p *Proxy) isSilent() bool {
	if p.feeds.Standing().Shared {
		answered := p.feeds.ProvenAt(math.MaxInt64)
		return !answered.IsZero() && time.Since(answered) > silence
	}
	t := p.upstream.current.Load()
	return t != nil && time.Since(*t.member.heard.Load()) > silence
}

// isSilence tells whether err says only that a member has not answered.
func isSilence(err error) bool {
	code := status.Code(err)
	return code == codes.Unavailable || code == codes.DeadlineExceeded || code == codes.Canceled || errors.Is(err, context.DeadlineExceeded)
}
