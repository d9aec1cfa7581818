package main

import (
	"log/slog"
	"sync"

	"weir/cmd/internal/process"
	"weir/grpcapi"
	"weir/proxy"
)

// drain ends a proxy that was told to stop: those who look for it by its registration or its health go elsewhere first, then those
// who are there. stopPage ends what viewers of the status page have open, which would be waited for.
func drain(d process.Drain, p *proxy.Proxy, server *grpcapi.Server, stopPage func(), logger *slog.Logger) {
	server.Unready("draining")
	g := d.Begin(logger)
	defer g.Close()
	var withdrawing sync.WaitGroup
	defer withdrawing.Wait()
	withdrawing.Go(p.Withdraw) // for which upstream may have to be waited for
	g.WaitDelay()
	stopPage()
	server.Drain(g.Over(), g.Spread())
}
