package main

import (
	"context"

	"weir/cmd/internal/process"
	"weir/core"
	"weir/grpcapi"
	"weir/grpcapi/statuspage"
)

// slowest is how many slow watches are shown.
const slowest = 10

// newPage makes the status page of a member. server tells of its watches, and must be there before the page is asked for.
func newPage(node *core.Node, server func() *grpcapi.Server, r *reload) *statuspage.Page {
	return statuspage.New(statuspage.Config{
		View: func(context.Context) statuspage.View {
			d := node.Detail()
			v := d.View(server().Clients(), grpcapi.SlowestTable(server().SlowestWatches(slowest, node.Who)))
			v.Notices = r.Reloads().Notices(!server().Ready())
			return v
		},
		Status: func(context.Context) any {
			return struct {
				core.Detail
				Draining    bool                  `json:"draining"`
				Connections int                   `json:"connections"`
				Slowest     []grpcapi.ListedWatch `json:"slowest_watches"`
				process.Reloads
			}{node.Detail(), !server().Ready(), server().Connections(), server().SlowestWatches(slowest, node.Who), r.Reloads()}
		},
		Counts:  func(context.Context) any { return node.Detail() },
		Watches: func(q statuspage.Query) (any, error) { return server().Watches(q, node.Who) },
		Charts:  core.Charts(),
		Sample:  node.Sampler(),
		Permit:  node.PermitStatus,
		Login:   node.Login,
		Logger:  r.log.Logger,
	})
}
