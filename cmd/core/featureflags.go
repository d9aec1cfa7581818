package main

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"weir/cmd/internal/process"
)

// featureFlags are etcd's gates of unfinished features. Weir has none of its own.
type featureFlags struct{ gates string }

// feature is what one gate opens.
type feature struct {
	stage string // alpha or beta
	on    bool   // unless something else is given
	why   string // it changes nothing here; empty if it does
}

const alpha, beta = "ALPHA", "BETA"

// features are those of etcd 3.7. The first two stand for all others of their stage.
var features = map[string]feature{
	"AllAlpha":                     {stage: alpha},
	"AllBeta":                      {stage: beta, why: "those of FastLeaseKeepAlive and TxnModeWriteWithSharedBuffer have nothing to change"},
	"CompactHashCheck":             {stage: alpha},
	"FastLeaseKeepAlive":           {stage: beta, on: true, why: "pings are always answered without waiting for what is being applied"},
	"InitialCorruptCheck":          {stage: alpha},
	"LeaseCheckpoint":              {stage: alpha, why: "leases are always checkpointed"},
	"LeaseCheckpointPersist":       {stage: alpha, why: "leases are always checkpointed"},
	"PriorityRequest":              {stage: alpha, why: "requests are never put behind others"},
	"SetMemberLocalAddr":           {stage: alpha, why: "the system chooses the address from which members are reached"},
	"StopGRPCServiceOnDefrag":      {stage: alpha},
	"TxnModeWriteWithSharedBuffer": {stage: beta, on: true, why: "transactions have no such buffer"},
}

func (g *featureFlags) define(f *process.Flags) {
	f.StringVar(&g.gates, "feature-gates", "", "List of name=true or name=false for features of etcd that are not final: "+strings.Join(slices.Sorted(maps.Keys(features)), ", ")+".")
}

func (g *featureFlags) apply(f *process.Flags, o *options) error {
	var wrong process.Mistakes
	var ineffective []string
	values := map[string]bool{}
	for _, pair := range splitList(g.gates) {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		name = strings.TrimSpace(name)
		gate, known := features[name]
		on, err := strconv.ParseBool(strings.TrimSpace(value))
		if !known || err != nil {
			wrong.Addf("malformed entry %q in --feature-gates: give name=true or name=false, with one of %s", pair, strings.Join(slices.Sorted(maps.Keys(features)), ", "))
			continue
		}
		values[name] = on
		if gate.why != "" {
			ineffective = append(ineffective, name+": "+gate.why)
		}
	}
	o.features = map[string]bool{}
	all := map[string]string{alpha: "AllAlpha", beta: "AllBeta"}
	for name, gate := range features {
		o.features[name] = gate.on
		for _, given := range []string{all[gate.stage], name} { // its own value counts more than that of all
			if on, ok := values[given]; ok {
				o.features[name] = on
			}
		}
	}
	if o.features["LeaseCheckpointPersist"] && !o.features["LeaseCheckpoint"] {
		wrong.Addf("--feature-gates has LeaseCheckpointPersist, which needs LeaseCheckpoint: give both or none")
	}
	o.api.RestToDefragment = o.features["StopGRPCServiceOnDefrag"]
	o.core.InitialCorruptCheck = o.features["InitialCorruptCheck"]
	if !o.features["CompactHashCheck"] {
		o.core.CompactHashCheckInterval = 0 // whatever --compact-hash-check-time says
	}
	if len(ineffective) > 0 {
		f.NoEffect("feature-gates", strings.Join(ineffective, "; "))
	}
	return wrong.Err()
}

// featureMetric is the metric of the gates that are open.
func featureMetric(on map[string]bool) prometheus.Collector {
	m := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "etcd_server_feature_enabled",
		Help: "Whether a feature gate is open: 1 or 0.",
	}, []string{"name", "stage"})
	for name, gate := range features {
		value := 0.0
		if on[name] {
			value = 1
		}
		m.WithLabelValues(name, gate.stage).Set(value)
	}
	return m
}
