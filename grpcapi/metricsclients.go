package grpcapi

import (
	"context"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// rpcKind is what an RPC counts as in etcd_server_client_requests_total.
type rpcKind int

const (
	unaryRPC rpcKind = iota
	streamRPC
	rpcKinds
)

func (k rpcKind) String() string {
	if k == streamRPC {
		return "stream"
	}
	return "unary"
}

// versionCounts counts RPCs by the version that the client states, which etcd's client library does. Nobody has more than
// a few versions of it, so they are looked through one by one, in a list that is replaced when one is added.
type versionCounts struct {
	list    atomic.Pointer[[]*versionCount]
	unknown versionCount // of clients that state none, or one that is not in list
	mu      sync.Mutex   // held to replace list
}

type versionCount struct {
	version string
	rpcs    [rpcKinds]atomic.Uint64
}

const (
	unknownVersion = "unknown" // etcd's name for none
	// What clients can make us remember. Longer versions, and those that come when there are maxVersions, are unknown.
	maxVersions      = 20
	maxVersionLength = 64 // bytes
)

// count counts an RPC. v may be nil.
func (v *versionCounts) count(ctx context.Context, kind rpcKind) {
	if v == nil {
		return
	}
	c := &v.unknown
	if stated := incomingMetadata(ctx)[rpctypes.MetadataClientAPIVersionKey]; len(stated) > 0 {
		c = v.of(stated[0])
	}
	c.rpcs[kind].Add(1)
}

// of takes no lock once a version is in the list, or the list is full.
func (v *versionCounts) of(version string) *versionCount {
	list := v.all()
	if c := find(list, version); c != nil {
		return c
	}
	if len(list) >= maxVersions || len(version) > maxVersionLength || version == unknownVersion || !utf8.ValidString(version) {
		return &v.unknown
	}
	return v.add(version)
}

func (v *versionCounts) add(version string) *versionCount {
	v.mu.Lock()
	defer v.mu.Unlock()
	list := v.all()
	if c := find(list, version); c != nil {
		return c
	}
	if len(list) >= maxVersions {
		return &v.unknown
	}
	c := &versionCount{version: version}
	list = append(list[:len(list):len(list)], c) // others may be reading the old one
	v.list.Store(&list)
	return c
}

func (v *versionCounts) all() []*versionCount {
	if list := v.list.Load(); list != nil {
		return *list
	}
	return nil
}

func find(list []*versionCount, version string) *versionCount {
	for _, c := range list {
		if c.version == version {
			return c
		}
	}
	return nil
}

// healthCounts counts checks of health, as etcd's HTTP endpoints do.
type healthCounts struct {
	healthy, unhealthy prometheus.Counter     // answers of /health
	last               *prometheus.GaugeVec   // of each check of /livez and /readyz: 1 if it held
	checks             *prometheus.CounterVec // likewise, by outcome
}

func newHealthCounts() healthCounts {
	return healthCounts{
		healthy: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "etcd_server_health_success", Help: "Answers of /health that the server is healthy.",
		}),
		unhealthy: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "etcd_server_health_failures", Help: "Answers of /health that the server is not healthy.",
		}),
		last: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "etcd_server_healthcheck", Help: "Whether a check of /livez or /readyz held when it was made last.",
		}, []string{"type", "name"}),
		checks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "etcd_server_healthchecks_total", Help: "Checks of /livez and /readyz that were made.",
		}, []string{"type", "name", "status"}),
	}
}

func (h healthCounts) all() []prometheus.Collector {
	return []prometheus.Collector{h.healthy, h.unhealthy, h.last, h.checks}
}

// answeredHealth counts an answer of /health. m may be nil.
func (m *Metrics) answeredHealth(healthy bool) {
	switch {
	case m == nil:
	case healthy:
		m.checks.healthy.Inc()
	default:
		m.checks.unhealthy.Inc()
	}
}

// checkedHealth counts a check of that name for an endpoint ("livez", "readyz"). m may be nil.
func (m *Metrics) checkedHealth(endpoint, name string, err error) {
	if m == nil {
		return
	}
	if err != nil {
		m.checks.last.WithLabelValues(endpoint, name).Set(0)
		m.checks.checks.WithLabelValues(endpoint, name, "error").Inc()
		return
	}
	m.checks.last.WithLabelValues(endpoint, name).Set(1)
	m.checks.checks.WithLabelValues(endpoint, name, "success").Inc()
}
