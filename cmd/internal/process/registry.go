package process

import (
	"fmt"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// NewRegistry makes the registry of one server's metrics: what each of parts has, and those of Go and of the operating
// system about the process.
func NewRegistry(parts ...prometheus.Collector) (*prometheus.Registry, error) {
	r := prometheus.NewRegistry()
	process := append(descriptorMetrics(),
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
