package main

import (
	"bytes"
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"

	"weir/cmd/internal/process"
	"weir/cmd/internal/tlsfiles"
	"weir/proxy"
)

// live are the flags that count anew while the proxy runs, when the file has other values for them.
var live = []string{
	"debug", "limit-bytes", "limit-in-flight", "limit-requests", "limit-watches", "log-level", "max-staleness", "max-upstream-requests",
	"memory-limit", "tenants-file",
}

// tenantsPart is what the tenants file is called in logs and metrics, and tlsPart what certificates, authorities and lists are.
const (
	tenantsPart = "tenants"
	tlsPart     = "tls"
)

// reload keeps a proxy true to the files that it was started with. Its parts belong to the goroutine of its Reloader.
type reload struct {
	*process.Reloader
	log           *process.Log
	args, environ []string
	files         *tlsfiles.Set

	proxy   *proxy.Proxy
	now     options // those that count, as far as they are live
	tenants struct {
		text    []byte // that counts
		steady  process.Steady
		refused error
	}
}

// newReload makes one for the options that args and environ came to.
func newReload(o options, args, environ []string, log *process.Log) *reload {
	r := &reload{Reloader: process.NewReloader(log), log: log, args: args, environ: environ, now: o}
	r.files = tlsfiles.NewSet(log.Logger, func(err error) { r.Note(tlsPart, err) })
	r.Add(tlsPart, func(forced bool) error {
		_, err := r.files.Look(forced)
		return err
	})
	r.Add(tenantsPart, r.lookTenants)
	if _, err := process.ReadRegular(o.configFile); err == nil { // else they cannot change
		r.AddOptions(process.Options{Live: live, Read: r.readOptions}, o.flags.Values())
	}
	if path := o.clients.tenantsFile; path != "" {
		var found string
		r.tenants.text, found, _ = readTenants(path) // who makes the proxy says what is wrong with it
		r.tenants.steady.Start(found)
	}
	return r
}

// start looks after a proxy until the returned function is called.
func (r *reload) start(p *proxy.Proxy) (stop func()) {
	r.proxy = p
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	return func() {
		cancel()
		running.Wait()
	}
}

// lookTenants takes the tenants file as it is now.
func (r *reload) lookTenants(forced bool) error {
	path, t := r.now.clients.tenantsFile, &r.tenants
	if path == "" {
		return nil
	}
	text, found, err := readTenants(path)
	if !t.steady.Judge(forced, found) {
		return t.refused
	}
	if err == nil && t.refused == nil && bytes.Equal(text, t.text) { // who has asked is told that all counts
		return nil
	}
	if err == nil {
		err = r.proxy.Reload(r.settings(r.now, text))
	}
	if t.refused = err; err != nil {
		r.Refused(tenantsPart, err)
		return err
	}
	t.text = text
	r.Applied(tenantsPart, path)
	return nil
}

// readTenants reads a tenants file. found is what is there, whatever that is.
func readTenants(path string) (text []byte, found string, err error) {
	if text, err = process.ReadRegular(path); err != nil {
		err = fmt.Errorf("read the tenants file: %w: give a file that this user can read", err)
		return nil, err.Error(), err
	}
	return text, string(text), nil
}

func (r *reload) settings(o options, text []byte) proxy.Settings {
	return proxy.Settings{
		TenantsFile: o.clients.tenantsFile, Tenants: text, Limits: o.clients.limits,
		MaxUpstreamCalls: o.clients.upstreamCalls, MaxStaleness: o.maxStaleness,
	}
}

// readOptions is process.Options.Read.
func (r *reload) readOptions() (map[string]string, func([]string) error, error) {
	if _, err := process.ReadRegular(r.now.configFile); err != nil {
		return nil, nil, fmt.Errorf("read --config-file: %w", err)
	}
	o, err := parseOptions(r.args, r.environ)
	if err != nil {
		return nil, nil, err
	}
	return o.flags.Values(), func(changed []string) error { return r.apply(o, changed) }, nil
}

// apply has options count whose flags have changed, all of them or none.
func (r *reload) apply(o options, changed []string) (err error) {
	text, has := r.tenants.text, func(name string) bool { return slices.Contains(changed, name) }
	switch {
	case has("tenants-file") && o.clients.tenantsFile == "":
		// Else everybody could do everything as soon as the file has lost that line, or all of its lines.
		return fmt.Errorf("--tenants-file: to have none %w", process.ErrNeedsRestart)
	case has("memory-limit") && o.memoryLimit == 0:
		return fmt.Errorf("--memory-limit: to have none %w", process.ErrNeedsRestart)
	case has("max-upstream-requests") && (o.clients.upstreamCalls == 0) != (r.now.clients.upstreamCalls == 0):
		return fmt.Errorf("--max-upstream-requests: to have a bound, or none, %w", process.ErrNeedsRestart)
	}
	if err := (process.LogConfig{Level: o.logLevel}).Check(); err != nil {
		return err
	}
	if has("tenants-file") {
		if text, _, err = readTenants(o.clients.tenantsFile); err != nil {
			return err
		}
	}
	if err := r.proxy.Reload(r.settings(o, text)); err != nil {
		return err
	}
	if has("tenants-file") {
		r.tenants.text, r.tenants.refused = text, nil
		r.tenants.steady.Start(string(text))
	}
	if has("memory-limit") {
		debug.SetMemoryLimit(o.memoryLimit)
	}
	r.now = o
	return r.log.Configure(o.logLevel)
}
