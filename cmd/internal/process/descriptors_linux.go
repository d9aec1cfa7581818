package process

import (
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// descriptorMetrics tells how many file descriptors are open, and how many may be, under etcd's names. Prometheus's own are
// process_open_fds and process_max_fds.
func descriptorMetrics() []prometheus.Collector {
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "os_fd_used", Help: "File descriptors that are open."}, usedDescriptors),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "os_fd_limit", Help: "File descriptors that may be open."}, maxDescriptors),
	}
}

func usedDescriptors() float64 {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return float64(len(entries))
}

func maxDescriptors() float64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return float64(limit.Cur)
}
