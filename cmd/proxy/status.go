package main

import (
	"context"

	"weir/cmd/internal/process"
	"weir/grpcapi"
	"weir/grpcapi/statuspage"
	"weir/proxy"
)

// slowest is how many slow watches are shown.
const slowest = 10

// newPage makes the status page of a proxy, which listens at an address. server tells of its watches, and must be there before
// the page is asked for.
func newPage(p *proxy.Proxy, server func() *grpcapi.Server, address string, r *reload) *statuspage.Page {
	return statuspage.New(statuspage.Config{
		View: func(ctx context.Context) statuspage.View {
			d := p.Detail(ctx, server().Clients())
			v := d.View(address, grpcapi.SlowestTable(server().SlowestWatches(slowest, p.Who)))
			v.Notices = r.Reloads().Notices(!server().Ready())
			return v
		},
		Status: func(ctx context.Context) any {
			return struct {
				proxy.Detail
				Draining bool                  `json:"draining"`
				Slowest  []grpcapi.ListedWatch `json:"slowest_watches"`
				process.Reloads
			}{p.Detail(ctx, server().Clients()), !server().Ready(), server().SlowestWatches(slowest, p.Who), r.Reloads()}
		},
		Counts: func(context.Context) any {
			s := p.Status()
			s.Clients.Usage = nil // it names tenants
			return s
		},
		Watches: func(q statuspage.Query) (any, error) { return server().Watches(q, p.Who) },
		Charts:  proxy.Charts(),
		Sample:  p.Sample,
		Permit:  p.PermitStatus,
		Login:   p.Login,
		Logger:  r.log.Logger,
	})
}
