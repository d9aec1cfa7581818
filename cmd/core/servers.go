package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"weir/cmd/internal/process"
	"weir/cmd/internal/tlsfiles"
	"weir/core"
	"weir/grpcapi"
)

// certificates are the configurations of ports with TLS, by the flag whose URLs they are for.
type certificates map[string]*tls.Config

// loadCertificates reads those that a URL needs. As at etcd the files of others are not looked at.
func loadCertificates(o options, logger *slog.Logger) (certificates, error) {
	c, warned := certificates{}, map[tlsfiles.Side]bool{}
	for _, list := range o.listen.byFlag() {
		files := o.certificateFiles(list.flag)
		for _, u := range list.urls {
			if isSecure(u) {
				continue
			}
			if files.HasCertificate() || files.AsksClients() {
				logger.Warn("certificates are given, and at this URL they are not used", "flag", list.flag, "url", u.String())
			}
		}
		if !slices.ContainsFunc(list.urls, isSecure) {
			continue
		}
		loaded, err := files.Load(logger)
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
	api          *grpcapi.Server
	peers        *http.Server
	certificates certificates
	failed       chan error // the first failure of a listener
	running      sync.WaitGroup
}

const (
	// stopTimeout is how long requests in progress may take after SIGTERM. Watches have no end of their own.
	stopTimeout = 3 * time.Second
	// What a request to a peer port may take to arrive, its header and all of it, and how long a connection may stay
	// without one.
	headerTimeout, readTimeout, idleTimeout = 10 * time.Second, time.Minute, 5 * time.Minute
)

func newServers(o options, node *core.Node, c certificates) (*servers, error) {
	o.api.Metrics = grpcapi.NewMetrics()
	if o.extensiveMetrics {
		o.api.Metrics = grpcapi.NewExtensiveMetrics()
	}
	registry, err := process.NewRegistry(node, o.api.Metrics, featureMetric(o.features))
	if err != nil {
		return nil, err
	}
	o.api.Gatherer = registry
	return &servers{
		api: grpcapi.NewBackendServer(o.api, node),
		peers: &http.Server{
			Handler:           grpcapi.PeerHTTP(node),
			ReadHeaderTimeout: headerTimeout,
			ReadTimeout:       readTimeout,
			IdleTimeout:       idleTimeout,
			TLSConfig:         c["listen-peer-urls"],
			ErrorLog:          slog.NewLogLogger(o.api.Logger.Handler(), slog.LevelDebug), // others' mistakes
		},
		certificates: c,
		failed:       make(chan error, 1),
	}, nil
}

// start serves on every listener until stop.
func (s *servers) start(l listeners, logger *slog.Logger) {
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
	for _, one := range l["listen-peer-urls"] {
		logger.Info("serving peer traffic", "address", one.Addr().String(), "secure", one.secure)
		s.run(func() error { return s.servePeers(one) })
	}
}

func (s *servers) servePeers(l *listener) error {
	serve := s.peers.Serve
	if l.secure {
		serve = func(l net.Listener) error { return s.peers.ServeTLS(l, "", "") }
	}
	if err := serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("accept on %s: %w", l.Addr(), err)
	}
	return nil
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

// stop lets requests in progress end, for as long as stopTimeout, and returns when nothing is served any more.
func (s *servers) stop() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	s.running.Go(func() {
		if s.peers.Shutdown(ctx) != nil {
			s.peers.Close()
		}
	})
	s.api.Stop(ctx)
	s.running.Wait()
}
