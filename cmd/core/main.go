package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"weir/cmd/internal/process"
	"weir/core"
	"weir/grpcapi"
)

func main() {
	if err := run(os.Args[1:], os.Environ()); err != nil {
		fmt.Fprintf(os.Stderr, "core: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
		os.Exit(1)
	}
}

// stopTimeout is how long requests in progress may take after SIGTERM. Watches have no end of their own.
const stopTimeout = 3 * time.Second

func run(args, environ []string) (err error) {
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
	logger, closeLog, err := process.NewLogger(o.logLevel, o.logOutputs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeLog()) }()
	process.TuneMemory()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return serve(ctx, o, logger)
}

// serve runs the member until ctx ends or the member fails.
func serve(ctx context.Context, o options, logger *slog.Logger) (err error) {
	listeners, err := listen(o.listenClientURLs)
	if err != nil {
		return err
	}
	defer closeAll(listeners) // a second close of what the server closed does nothing

	o.core.Logger = logger
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
		"quota", o.core.QuotaBytes, "max-request-bytes", o.maxRequestBytes)
	if err := node.WaitReady(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // told to stop
		}
		return err
	}
	return serveAPI(ctx, o, node, listeners, logger)
}

func serveAPI(ctx context.Context, o options, node *core.Node, listeners []net.Listener, logger *slog.Logger) error {
	server := grpcapi.NewBackendServer(grpcapi.Config{
		MaxRequestBytes:       o.maxRequestBytes,
		MaxTxnOps:             o.maxTxnOps,
		WatchProgressInterval: o.progressInterval,
		HTTP:                  grpcapi.BackendHTTP(node),
		Logger:                logger,
	}, node)
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		logger.Info("serving client traffic insecurely", "address", l.Addr().String())
		go func() {
			if err := server.Serve(l); err != nil {
				failed <- err
			}
		}()
	}
	logger.Info("ready to serve client requests")
	var err error
	select {
	case <-ctx.Done():
		logger.Info("told to stop")
	case err = <-failed:
	case <-node.Failed():
		err = node.Err()
	}
	stopping, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	server.Stop(stopping)
	return err
}

func closeAll(listeners []net.Listener) {
	for _, l := range listeners {
		l.Close()
	}
}
