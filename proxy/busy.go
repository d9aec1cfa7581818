package proxy

import (
	"bytes"
	"context"

	"weir/grpcapi/statuspage"
	"weir/proxy/busiest"
	"weir/proxy/tenants"
)

// busy is what is asked most, and by whom. A request that is not sampled costs a random number. The zero value has seen nothing.
type busy struct {
	ranges, clients busiest.Counter
}

// read counts a read. A single key counts for the directory that it is in: of what is read most there may be too many keys, each of
// which is read seldom.
func (b *busy) read(ctx context.Context, t *tenants.Table, key, end []byte) {
	if !busiest.Sampled() {
		return
	}
	b.clients.Add(t.Known(ctx).String())
	if at := bytes.LastIndexByte(key, '/'); len(end) == 0 && at >= 0 {
		b.ranges.Add(statuspage.Key(key[:at+1]) + "*")
		return
	}
	b.ranges.Add(statuspage.Range(key, end))
}

// call counts any other request.
func (b *busy) call(ctx context.Context, t *tenants.Table) {
	if busiest.Sampled() {
		b.clients.Add(t.Known(ctx).String())
	}
}
