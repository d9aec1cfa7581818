package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"weir/cmd/internal/process"
	"weir/grpcapi"
	"weir/grpcapi/statuspage"
	"weir/proxy"
)

func main() {
	if err := run(os.Args[1:], os.Environ(), os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "proxy: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
		os.Exit(1)
	}
}

// stopTimeout is how long RPCs in progress may take when something fails that the proxy needs. One that was told to stop drains.
const stopTimeout = 3 * time.Second

func run(args, environ []string, stdout io.Writer) error {
	if len(args) > 0 && args[0] == checkConfigCommand {
		return checkConfig(args[1:], environ, stdout)
	}
	args = process.WordsAsFlags(args)
	o, err := parseOptions(args, environ)
	switch {
	case errors.Is(err, process.ErrHelp):
		o.usage(stdout)
		return nil
	case err != nil:
		return err
	}
	if o.version {
		fmt.Fprint(stdout, process.VersionText("proxy"))
		return nil
	}
	defer process.SurviveSignals()()
	log, err := process.OpenLog(process.LogConfig{Level: o.logLevel})
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // nothing is left to tell it to
	logger := log.Logger
	process.LogGRPC(logger)
	process.TuneMemory()
	if o.memoryLimit > 0 {
		debug.SetMemoryLimit(o.memoryLimit)
	}
	for _, name := range o.unused {
		logger.Warn("flag has no effect", "flag", name)
	}
	var doubts process.Mistakes
	o.doubtReach(&doubts)
	process.WarnOf(logger, doubts.Err())
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return serve(ctx, o, newReload(o, args, environ, log), stdout)
}

// serve runs the proxy until ctx ends or something that it needs fails.
func serve(ctx context.Context, o options, r *reload, stdout io.Writer) (err error) {
	logger := r.log.Logger
	defer func() {
		if err == nil {
			logger.Info("stopped")
		}
	}()
	certs, err := o.loadCertificates(r.files, logger)
	if err != nil {
		return err
	}
	l, err := listen(o)
	if err != nil {
		return err
	}
	defer l.close() // a second close of what a server closed does nothing

	cfg := o.proxyConfig(certs, logger)
	var coreFailed <-chan struct{} // nil without a core
	var coreErr func() error
	if o.embedded {
		e, startErr := startEmbedded(ctx, o, l.clients.Addr(), logger)
		if ctx.Err() != nil && errors.Is(startErr, context.Canceled) {
			return nil // told to stop
		}
		if startErr != nil {
			return startErr
		}
		defer func() {
			if closeErr := e.close(); err == nil { // what ended the core is also why its files do not close
				err = closeErr
			}
		}()
		cfg.Endpoints, cfg.Dial = []string{embeddedEndpoint}, e.dial
		coreFailed, coreErr = e.node.Failed(), e.node.Err
	}
	p, err := proxy.New(cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	defer r.start(p)()
	sparing, cancelSparing := context.WithCancel(ctx)
	var tuner sync.WaitGroup
	defer tuner.Wait()
	defer cancelSparing()
	tuner.Go(func() { process.SpareMemory(sparing) })

	logger.Info("weir proxy", "version", process.Version, "endpoints", o.endpoints, "embedded", o.embedded,
		"feeds", o.feeds, "watch-history-bytes", o.watchHistoryBytes, "cache-prefixes", o.cachePrefixes, "cache-bytes", o.cacheBytes,
		"max-staleness", o.maxStaleness.String(), "read-check-interval", o.readCheckInterval.String(),
		"max-range-keys", o.maxRangeKeys, "max-range-bytes", o.maxRangeBytes)
	var server *grpcapi.Server
	var page *statuspage.Page
	stopPage := func() {}
	if o.statusPage {
		page = newPage(p, func() *grpcapi.Server { return server }, l.clients.Addr().String(), r)
		defer page.Close()
		stopPage = page.Close
	}
	if server, err = newServer(o, p, page, r); err != nil {
		return err
	}
	ended := l.start(o, certs, server)
	if o.discovery.balance {
		tuner.Go(func() { p.Balance(sparing, server) })
	}
	logger.Info("started gRPC proxy", "address", l.clients.Addr().String(), "tls", o.listen.HasCertificate())
	if o.embedded {
		greet(stdout, o, l.clients.Addr())
	}
	if err := process.NotifyReady(); err != nil {
		logger.Error(err.Error())
	}
	select {
	case <-ctx.Done():
		drain(o.drain, p, server, stopPage, logger)
		return nil
	case err = <-ended:
	case <-coreFailed:
		err = coreErr()
	}
	p.Withdraw() // before clients are refused
	stopPage()   // for which the server would wait
	stopping, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	server.Stop(stopping)
	return err
}
