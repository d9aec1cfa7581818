package main

import (
	"weir/cmd/internal/process"
	"weir/cmd/internal/tracing"
)

// tracingFlags are where traces of requests go.
type tracingFlags struct {
	enable bool
	config tracing.Config
}

func (t *tracingFlags) define(f *process.Flags) {
	f.BoolVar(&t.enable, "enable-distributed-tracing", false, "Trace requests with OpenTelemetry.")
	f.StringVar(&t.config.Address, "distributed-tracing-address", "localhost:4317", "Address of the OpenTelemetry collector.")
	f.StringVar(&t.config.Service, "distributed-tracing-service-name", "etcd", "Name of the service in traces, the same for all members.")
	f.StringVar(&t.config.Instance, "distributed-tracing-instance-id", "", "Name of this member in traces.")
	f.IntVar(&t.config.PerMillion, "distributed-tracing-sampling-rate", 0, "How many of a million requests are traced that no caller has decided about.")
}

func (t *tracingFlags) apply(_ *process.Flags, o *options) error {
	if !t.enable {
		return nil
	}
	if err := t.config.Check(); err != nil {
		return err
	}
	o.tracing = &t.config
	return nil
}
