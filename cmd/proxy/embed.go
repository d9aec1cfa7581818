package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strconv"

	"google.golang.org/grpc/test/bufconn"

	"weir/cmd/internal/process"
	"weir/core"
	"weir/grpcapi"
)

// embeddedEndpoint is the endpoint by which the proxy knows the core in its own process.
const embeddedEndpoint = "unix://embedded"

// embedded is a core of one member in this process. The proxy talks to it as to any other, over pipes instead of a
// network.
type embedded struct {
	node   *core.Node
	server *grpcapi.Server
	pipes  *bufconn.Listener
	served chan error
}

// startEmbedded opens the core and waits until it serves or ctx ends. address is where the proxy listens.
func startEmbedded(ctx context.Context, o options, address net.Addr, logger *slog.Logger) (*embedded, error) {
	node, err := core.Open(o.coreConfig([]string{advertised(o, address)}, logger))
	if err != nil {
		return nil, err
	}
	if err := node.WaitReady(ctx); err != nil {
		_ = node.Close() // what ended the node is also why its files do not close
		return nil, err
	}
	metrics := grpcapi.NewMetrics()
	registry, err := process.NewRegistry("core", node, metrics)
	if err != nil {
		return nil, errors.Join(err, node.Close())
	}
	e := &embedded{
		node: node,
		server: grpcapi.NewBackendServer(grpcapi.Config{
			MaxRequestBytes: o.maxSendBytes, WatchProgressInterval: o.progressInterval,
			Metrics: metrics, Gatherer: registry, Logger: logger,
		}, node),
		pipes:  bufconn.Listen(64 << 10),
		served: make(chan error, 1),
	}
	go func() { e.served <- e.server.Serve(e.pipes, grpcapi.Port{}) }()
	return e, nil
}

// coreConfig is that of the embedded core.
func (o *options) coreConfig(clientURLs []string, logger *slog.Logger) core.Config {
	return core.Config{
		DataDir:    o.dataDir,
		PeerURLs:   []string{"http://localhost:2380"}, // nobody dials it: it makes the member's id
		ClientURLs: clientURLs,
		Logger:     logger,
	}
}

// advertised is the URL that the core names to clients as its own.
func advertised(o options, address net.Addr) string {
	if o.advertiseClientURL != "" {
		return o.advertiseClientURL
	}
	scheme := "http://"
	if o.listen.HasCertificate() {
		scheme = "https://"
	}
	if tcp, ok := address.(*net.TCPAddr); ok && tcp.IP.IsUnspecified() {
		return scheme + net.JoinHostPort("localhost", strconv.Itoa(tcp.Port))
	}
	return scheme + address.String()
}

// dial is for proxy.Config.
func (e *embedded) dial(ctx context.Context, _ string) (net.Conn, error) {
	return e.pipes.DialContext(ctx)
}

// close ends the core. Nobody talks to it any more.
func (e *embedded) close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	e.server.Stop(ctx)
	return errors.Join(<-e.served, e.node.Close())
}
