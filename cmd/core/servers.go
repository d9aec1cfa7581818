package main

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"weir/cmd/internal/process"
	"weir/cmd/internal/tlsfiles"
	"weir/core"
	"weir/grpcapi"
	"weir/grpcapi/statuspage"
)

// certificates are the configurations of ports with TLS, by the flag whose URLs they are for.
type certificates map[string]*tls.Config

// loadCertificates reads those that a URL needs. As at etcd the files of others are not looked at.
func loadCertificates(o options, tlsFiles *tlsfiles.Set, logger *slog.Logger) (certificates, error) {
	c, warned := certificates{}, map[tlsfiles.Side]bool{}
	for _, list := range o.listen.byFlag() {
		files := o.certificateFiles(list.flag)
		for _, doubt := range unusedCertificates(files, list) {
			logger.Warn(doubt)
		}
		if !slices.ContainsFunc(list.urls, isSecure) {
			continue
		}
		loaded, err := files.Load(tlsFiles)
		if err != nil {
			return nil, err
		}
		c[list.flag] = loaded
		if !warned[files.Side] {
			warned[files.Side] = true
			files.Warn(logger)
		}
	}
	return c, nil
}

// servers answer what arrives at the listeners.
type servers struct {
	node         *core.Node
	api, peers   *grpcapi.Server
	page         *statuspage.Page // nil if there is none
	certificates certificates
	failed       chan error // the first failure of a listener
	running      sync.WaitGroup
}

const (
	// stopTimeout is how long requests in progress may take when a member fails. One that was told to stop has drained.
	stopTimeout = 3 * time.Second
)

func newServers(o options, node *core.Node, c certificates, r *reload) (*servers, error) {
	o.api.Metrics = grpcapi.NewMetrics()
	if o.extensiveMetrics {
		o.api.Metrics = grpcapi.NewExtensiveMetrics()
	}
	registry, err := process.NewRegistry("core", node, r, o.api.Metrics, featureMetric(o.features))
	if err != nil {
		return nil, err
	}
	o.api.Gatherer, o.api.Standing = registry, node
	s := &servers{
		node:         node,
		peers:        grpcapi.NewPeerServer(peerConfig(o.api.Logger), node, http.HandlerFunc(node.ServeMembers), node.RegisterPeers, core.PeerServerOptions()...),
		certificates: c,
		failed:       make(chan error, 1),
	}
	if o.statusPage {
		s.page = newPage(node, func() *grpcapi.Server { return s.api }, r)
		o.api.Status, o.api.Counts = s.page, s.page.Counts()
	}
	s.api = grpcapi.NewBackendServer(o.api, node)
	return s, nil
}

// peerConfig has what anyone may do who reaches the peer port, over HTTP. What members may is in core.PeerServerOptions.
func peerConfig(logger *slog.Logger) grpcapi.Config {
	return grpcapi.Config{MaxConcurrentStreams: 16, MaxHeaderBytes: 16 << 10, Logger: logger}
}

// startPeers serves the other members, without whom this one never becomes ready.
func (s *servers) startPeers(l listeners, logger *slog.Logger) {
	for _, one := range l["listen-peer-urls"] {
		logger.Info("serving peer traffic", "address", one.Addr().String(), "secure", one.secure)
		var port grpcapi.Port
		if one.secure {
			port.TLS = s.certificates["listen-peer-urls"]
		}
		s.run(func() error { return s.peers.Serve(s.node.PeerListener(one), port) })
	}
}

// startClients serves on every other listener until stop.
func (s *servers) startClients(l listeners, logger *slog.Logger) {
	clients, traffic := grpcapi.Both, "grpc+http"
	if len(l["listen-client-http-urls"]) > 0 {
		clients, traffic = grpcapi.OnlyGRPC, "grpc"
	}
	for _, kind := range []struct {
		flag, name string
		only       grpcapi.Traffic
	}{
		{"listen-client-urls", traffic, clients},
		{"listen-client-http-urls", "http", grpcapi.OnlyHTTP},
		{"listen-metrics-urls", "metrics", grpcapi.OnlyMonitoring},
	} {
		for _, one := range l[kind.flag] {
			port, how := grpcapi.Port{Only: kind.only, Plaintext: one.plain}, "insecurely"
			if one.secure {
				port.TLS, how = s.certificates[kind.flag], "securely"
			}
			logger.Info("serving client traffic "+how, "traffic", kind.name, "address", one.Addr().String())
			s.run(func() error { return s.api.Serve(one, port) })
		}
	}
}

func (s *servers) run(serve func() error) {
	s.running.Go(func() {
		if err := serve(); err != nil {
			select {
			case s.failed <- err:
			default: // one failure ends the process
			}
		}
	})
}

// stop lets requests in progress end, for as long as stopTimeout, and returns when nothing is served any more. After drain there
// are only the members.
func (s *servers) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if s.page != nil {
		s.page.Close() // or its viewers would be waited for
	}
	s.api.Stop(ctx)
	cancel() // what members have open has no end, and is needed until there are no requests any more
	s.peers.Stop(ctx)
	s.running.Wait()
}
