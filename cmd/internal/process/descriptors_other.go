//go:build !linux

package process

import "github.com/prometheus/client_golang/prometheus"

// descriptorMetrics are only there on Linux, as at etcd.
func descriptorMetrics() []prometheus.Collector { return nil }
