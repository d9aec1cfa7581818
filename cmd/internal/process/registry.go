package process

import (
	"fmt"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// NewRegistry makes the registry of one server's metrics: what each of parts has, which program and version it is, core or proxy, and
// those of Go and of the operating system about the process.
func NewRegistry(program string, parts ...prometheus.Collector) (*prometheus.Registry, error) {
	r := prometheus.NewRegistry()
	process := append(descriptorMetrics(),
		buildInfo(program),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	for _, c := range slices.Concat(parts, process) {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return r, nil
}

// buildInfo is 1: what it says is in its labels.
func buildInfo(program string) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "weir_build_info", Help: "1; the labels say which version of which program of weir this is.",
		ConstLabels: prometheus.Labels{"program": program, "version": Version},
	}, func() float64 { return 1 })
}
