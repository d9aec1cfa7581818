package suite

import (
	"context"
	"path"

	"google.golang.org/grpc/stats"
)

// direct are the requests of one method over connections of DialStore.
type direct struct {
	sent     float64
	underWay float64 // calls that were begun and have not ended: of their requests the store may not know yet
}

// directCounter counts them.
type directCounter struct{ *System }

// methodKey is for the method of an RPC in its context.
type methodKey struct{}

// TagRPC has the method be known to HandleRPC.
func (directCounter) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	return context.WithValue(ctx, methodKey{}, path.Base(info.FullMethodName))
}

// HandleRPC counts.
func (d directCounter) HandleRPC(ctx context.Context, s stats.RPCStats) {
	var change direct
	switch s.(type) {
	case *stats.Begin:
		change.underWay = 1
	case *stats.OutPayload:
		change.sent = 1
	case *stats.End:
		change.underWay = -1
	default:
		return
	}
	method, _ := ctx.Value(methodKey{}).(string)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.direct == nil {
		d.direct = map[string]direct{}
	}
	n := d.direct[method]
	d.direct[method] = direct{n.sent + change.sent, n.underWay + change.underWay}
}

// TagConn is not needed.
func (directCounter) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn is not needed.
func (directCounter) HandleConn(context.Context, stats.ConnStats) {}
