package grpcapi

import (
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
)

// Metrics counts what a Server does under the names that etcd's servers have: RPCs as
// github.com/grpc-ecosystem/go-grpc-middleware does (grpc_server_*), the bytes and versions of clients, streams that broke,
// and checks of health. It is a prometheus.Collector. Several Servers may share one; all methods may be called concurrently.
//
// Each method's counters are found when it is registered, and an RPC then adds to them without a lock, a look into a map or
// an allocation. Rejected: an interceptor, as go-grpc-middleware has it, which looks its counters up by name for every RPC
// and every message, and a stats.Handler, which is given a new object for each.
//
// Clients cannot make counters by making up names: what is not known is counted as "unknown".
type Metrics struct {
	received, sent atomic.Uint64 // bytes of messages

	versions versionCounts
	failures *prometheus.CounterVec // of streams
	checks   healthCounts
	duration *prometheus.HistogramVec // of RPCs; nil if it is not measured

	mu      sync.Mutex // guards methods
	methods map[string]*methodMetrics
	unknown *methodMetrics // of methods that no Server has
}

// NewMetrics makes Metrics of etcd's --metrics=basic.
func NewMetrics() *Metrics { return newMetrics(nil) }

// NewExtensiveMetrics makes Metrics of etcd's --metrics=extensive, which also tell how long RPCs took. That costs each RPC
// two looks at the clock.
func NewExtensiveMetrics() *Metrics {
	return newMetrics(prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "grpc_server_handling_seconds",
		Help: "How long RPCs took on the server until they ended, in seconds.",
	}, rpcLabels))
}

func newMetrics(duration *prometheus.HistogramVec) *Metrics {
	m := &Metrics{
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "etcd_network_server_stream_failures_total",
			Help: "Streams of clients that broke otherwise than by the client's wish.",
		}, []string{"Type", "API"}),
		checks:   newHealthCounts(),
		duration: duration,
		methods:  map[string]*methodMetrics{},
	}
	m.unknown = m.newMethod("unknown", "unknown", true, true)
	return m
}

var rpcLabels = []string{"grpc_type", "grpc_service", "grpc_method"}

var (
	descStarted  = prometheus.NewDesc("grpc_server_started_total", "RPCs started on the server.", rpcLabels, nil)
	descHandled  = prometheus.NewDesc("grpc_server_handled_total", "RPCs ended on the server, by the code they ended with.", append(rpcLabels, "grpc_code"), nil)
	descReceived = prometheus.NewDesc("grpc_server_msg_received_total", "Messages of RPCs received on the server.", rpcLabels, nil)
	descSent     = prometheus.NewDesc("grpc_server_msg_sent_total", "Messages of RPCs sent by the server.", rpcLabels, nil)

	descReceivedBytes = prometheus.NewDesc("etcd_network_client_grpc_received_bytes_total", "Bytes of messages received from gRPC clients.", nil, nil)
	descSentBytes     = prometheus.NewDesc("etcd_network_client_grpc_sent_bytes_total", "Bytes of messages sent to gRPC clients.", nil, nil)

	descRequests = prometheus.NewDesc("etcd_server_client_requests_total", "RPCs of clients, by the version of etcd's API that a client states.",
		[]string{"type", "client_api_version"}, nil)
)

// Describe is part of prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descStarted, descHandled, descReceived, descSent, descReceivedBytes, descSentBytes, descRequests,
	} {
		ch <- d
	}
	for _, c := range m.counted() {
		c.Describe(ch)
	}
}

// counted are the metrics that count by themselves.
func (m *Metrics) counted() []prometheus.Collector {
	all := append(m.checks.all(), m.failures)
	if m.duration != nil {
		all = append(all, m.duration)
	}
	return all
}

// Collect is part of prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	for _, c := range m.all() {
		received, sent := c.messages()
		count(descStarted, c.started.Load(), c.labels...)
		count(descReceived, received, c.labels...)
		count(descSent, sent, c.labels...)
		for code := range c.handled {
			count(descHandled, c.handled[code].Load(), append(c.labels, codes.Code(code).String())...)
		}
	}
	count(descReceivedBytes, m.received.Load())
	count(descSentBytes, m.sent.Load())
	requests := func(v *versionCount, version string) {
		for kind := range v.rpcs {
			if n := v.rpcs[kind].Load(); n > 0 {
				count(descRequests, n, rpcKind(kind).String(), version)
			}
		}
	}
	requests(&m.versions.unknown, unknownVersion)
	for _, v := range m.versions.all() {
		requests(v, v.version)
	}
	for _, c := range m.counted() {
		c.Collect(ch)
	}
}
