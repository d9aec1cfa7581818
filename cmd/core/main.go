package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"

	"weir/cmd/internal/process"
	"weir/cmd/internal/tracing"
	"weir/core"
)

func main() {
	if err := run(os.Args[1:], os.Environ()); err != nil {
		fmt.Fprintf(os.Stderr, "core: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
		os.Exit(1)
	}
}

func run(args, environ []string) (err error) {
	if len(args) > 0 && args[0] == snapshotCommand {
		return runSnapshot(args[1:], os.Stdout)
	}
	if len(args) > 0 && args[0] == checkConfigCommand {
		return checkConfig(args[1:], environ, os.Stdout)
	}
	args = process.WordsAsFlags(args)
	o, err := parseOptions(args, environ)
	switch {
	case errors.Is(err, process.ErrHelp):
		o.usage(os.Stdout)
		return nil
	case err != nil:
		return err
	case o.version:
		fmt.Print(process.VersionText("core"))
		return nil
	}
	defer process.SurviveSignals()()
	log, err := process.OpenLog(o.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	logger := log.Logger
	process.LogGRPC(logger)
	process.TuneMemory()
	if o.configFile != "" {
		logger.Info("loaded server configuration, other configuration command line flags and environment variables will be ignored if provided",
			"path", o.configFile, "ignored", o.ignored)
	}
	for _, flag := range slices.Sorted(maps.Keys(o.ineffective)) {
		logger.Warn("flag has no effect", "flag", flag, "why", o.ineffective[flag])
	}
	for _, variable := range o.unknownVariables {
		logger.Warn("unrecognized environment variable", "environment-variable", variable)
	}
	var doubts process.Mistakes
	o.doubtReach(&doubts)
	process.WarnOf(logger, doubts.Err())
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return serve(ctx, o, newReload(o, args, environ, log))
}

// serve runs the member until ctx ends or the member fails. That it has been removed from its cluster is no failure, as at etcd: to
// start it again would not help.
func serve(ctx context.Context, o options, r *reload) (err error) {
	logger := r.log.Logger
	defer func() {
		if errors.Is(err, core.ErrRemoved) {
			logger.Warn("stopping", "reason", err)
			err = nil
		}
	}()
	if err := o.core.Check(); err != nil { // before sockets and certificates are made
		return err
	}
	l, err := o.listen.open()
	if err != nil {
		return err
	}
	defer l.close() // a second close of what a server closed does nothing
	certificates, err := loadCertificates(o, r.files, logger)
	if err != nil {
		return err
	}
	if o.tracing != nil {
		tracer, err := tracing.Start(ctx, *o.tracing, logger)
		if err != nil {
			return err
		}
		defer closeTracer(tracer, logger)
		o.api.Tracing = tracer.Handler()
	}

	o.core.Logger, o.api.Logger = logger, logger
	if o.core.PeerTLS, err = o.peerTLS.Dial(r.files); err != nil {
		return err
	}
	if o.discovery != nil {
		o.discovery.logger = logger
		o.core.Discover = o.discovery.find
		if o.core.PeerTLS != nil && o.peerTLS.TrustedCAFile == "" {
			o.core.PeerTLS = named(o.core.PeerTLS, o.discovery.domain) // as at etcd: who can forge DNS has no certificate for it
		}
	}
	defer r.start()() // before the member is ready, which may take long
	sparing, cancelSparing := context.WithCancel(ctx)
	var tuner sync.WaitGroup
	defer tuner.Wait()
	defer cancelSparing()
	tuner.Go(func() { process.SpareMemory(sparing) })
	node, err := core.Open(o.core)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := node.Close(); err == nil { // what ended the node is also why its files do not close
			err = closeErr
		}
	}()
	logger.Info("weir core", "version", process.Version, "name", o.core.Name, "data-dir", o.core.DataDir,
		"advertise-client-urls", o.core.ClientURLs, "quota", o.core.QuotaBytes, "max-request-bytes", o.api.MaxRequestBytes)
	s, err := newServers(o, node, certificates, r)
	if err != nil {
		return err
	}
	defer s.stop()
	s.startPeers(l, logger)
	if err := node.WaitReady(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // told to stop
		}
		return err
	}
	s.startClients(l, logger)
	logger.Info("ready to serve client requests")
	if err := process.NotifyReady(); err != nil {
		logger.Error(err.Error())
	}
	select {
	case <-ctx.Done():
		s.drain(o.drain, logger)
		return nil
	case err := <-s.failed:
		return err
	case <-node.Failed():
		return node.Err()
	}
}

// named is connections to whom has a certificate for this name.
func named(config func() *tls.Config, name string) func() *tls.Config {
	return func() *tls.Config {
		cfg := config()
		cfg.ServerName = name
		return cfg
	}
}

// closeTracer sends what has been traced, unless the collector is away.
func closeTracer(t *tracing.Tracer, logger *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := t.Close(ctx); err != nil {
		logger.Warn("some traces are lost", "error", err)
	}
}
