package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"weir/cmd/internal/process"
)

// featureFlags are etcd's gates of unfinished features. Weir has none of its own.
type featureFlags struct{ gates string }

// featureGates are those of etcd 3.7, and why each changes nothing here, if so.
var featureGates = map[string]string{
	"AllAlpha":                     "",
	"AllBeta":                      "those of FastLeaseKeepAlive and TxnModeWriteWithSharedBuffer have nothing to change",
	"CompactHashCheck":             "there is no other voting member to compare with",
	"FastLeaseKeepAlive":           "pings are always answered without waiting for what is being applied",
	"InitialCorruptCheck":          "there is no other voting member to compare with",
	"LeaseCheckpoint":              "there is no other member that could come to lead",
	"LeaseCheckpointPersist":       "there is no other member that could come to lead",
	"PriorityRequest":              "requests are never put behind others",
	"SetMemberLocalAddr":           "there is no other member to talk to",
	"StopGRPCServiceOnDefrag":      "",
	"TxnModeWriteWithSharedBuffer": "transactions have no such buffer",
}

func (g *featureFlags) define(f *process.Flags) {
	f.StringVar(&g.gates, "feature-gates", "", "List of name=true or name=false for features of etcd that are not final: "+strings.Join(slices.Sorted(maps.Keys(featureGates)), ", ")+".")
}

func (g *featureFlags) apply(f *process.Flags, o *options) error {
	var ineffective []string
	values := map[string]bool{}
	for _, pair := range splitList(g.gates) {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		name = strings.TrimSpace(name)
		reason, known := featureGates[name]
		on, err := strconv.ParseBool(strings.TrimSpace(value))
		if !known || err != nil {
			return fmt.Errorf("malformed entry %q in --feature-gates: give name=true or name=false, with one of %s", pair, strings.Join(slices.Sorted(maps.Keys(featureGates)), ", "))
		}
		values[name] = on
		if reason != "" {
			ineffective = append(ineffective, name+": "+reason)
		}
	}
	alpha := func(name string) bool { // its own value counts more than that of all
		if on, given := values[name]; given {
			return on
		}
		return values["AllAlpha"]
	}
	if alpha("LeaseCheckpointPersist") && !alpha("LeaseCheckpoint") {
		return errors.New("--feature-gates has LeaseCheckpointPersist, which needs LeaseCheckpoint: give both or none")
	}
	o.api.RestToDefragment = alpha("StopGRPCServiceOnDefrag")
	if len(ineffective) > 0 {
		f.NoEffect("feature-gates", strings.Join(ineffective, "; "))
	}
	return nil
}
