package main

import (
	"context"
	"fmt"
	"sync"

	"weir/cmd/internal/process"
	"weir/cmd/internal/tlsfiles"
)

// live are the flags that count anew while the member runs, when the file has other values for them.
var live = []string{"log-level"}

// tlsPart is what certificates, authorities and revocation lists are called in logs and metrics.
const tlsPart = "tls"

// reload keeps a member true to the files that it was started with.
type reload struct {
	*process.Reloader
	log   *process.Log
	files *tlsfiles.Set
}

// newReload makes one for the options that args and environ came to.
func newReload(o options, args, environ []string, log *process.Log) *reload {
	r := &reload{Reloader: process.NewReloader(log), log: log}
	r.files = tlsfiles.NewSet(log.Logger, func(err error) { r.Note(tlsPart, err) })
	r.Add(tlsPart, func(forced bool) error {
		_, err := r.files.Look(forced)
		return err
	})
	if _, err := process.ReadRegular(o.configFile); err != nil { // options cannot change
		return r
	}
	r.AddOptions(process.Options{Live: live, Read: func() (map[string]string, func([]string) error, error) {
		if _, err := process.ReadRegular(o.configFile); err != nil {
			return nil, nil, fmt.Errorf("read --config-file: %w", err)
		}
		o, err := parseOptions(args, environ)
		if err != nil {
			return nil, nil, err
		}
		return o.flags.Values(), func([]string) error { return log.Configure(o.log.Level) }, nil
	}}, o.flags.Values())
	return r
}

// start looks after the files until the returned function is called.
func (r *reload) start() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	return func() {
		cancel()
		running.Wait()
	}
}
