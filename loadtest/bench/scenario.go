package bench

import (
	"fmt"
	"slices"
	"strings"
)

// Scenario is who watches what, and what is written.
//
// The rate of writes is one that the slowest target sustains on two cores that it shares with its clients: at the
// same rate latencies can be compared, and none is that of a queue that grows.
type Scenario struct {
	Name      string
	Watchers  int
	SingleKey bool // every watcher has a key of its own; else all watch one prefix
	OwnStream bool // every watcher has a stream of its own; else a connection's watchers share one
	TLS       bool // between clients and server
	ValueSize int  // in bytes
	Puts      int  // of different keys in each write, which is one transaction
	Rate      float64
}

// Scenarios is every scenario. The first three have the same rate, to see what upstream of a proxy does when watchers
// become more.
func Scenarios() []Scenario {
	return []Scenario{
		{Name: "prefix-10", Watchers: 10, ValueSize: 256, Puts: 1, Rate: 10},
		{Name: "prefix-1k", Watchers: 1_000, ValueSize: 256, Puts: 1, Rate: 10},
		{Name: "prefix-10k", Watchers: 10_000, ValueSize: 256, Puts: 1, Rate: 10},
		{Name: "prefix-10k-4KiB", Watchers: 10_000, ValueSize: 4 << 10, Puts: 1, Rate: 4},
		{Name: "prefix-10k-tls", Watchers: 10_000, ValueSize: 256, Puts: 1, Rate: 4, TLS: true},
		// A transaction of many puts, else the puts would cost so much more than the delivery that nothing could be seen of it.
		{Name: "keys-10k", Watchers: 10_000, SingleKey: true, ValueSize: 256, Puts: 100, Rate: 20},
		{Name: "streams-10k", Watchers: 10_000, OwnStream: true, ValueSize: 256, Puts: 1, Rate: 4},
	}
}

// FindScenarios finds scenarios by their names.
func FindScenarios(names []string) ([]Scenario, error) {
	return find(names, "scenario", Scenarios(), func(s Scenario) string { return s.Name })
}

// find finds, among all that there are of something, those with names.
func find[T any](names []string, what string, all []T, nameOf func(T) string) ([]T, error) {
	var found []T
	for _, name := range names {
		i := slices.IndexFunc(all, func(e T) bool { return nameOf(e) == name })
		if i < 0 {
			var known []string
			for _, e := range all {
				known = append(known, nameOf(e))
			}
			return nil, fmt.Errorf("there is no %s %q, only %s", what, name, strings.Join(known, ", "))
		}
		found = append(found, all[i])
	}
	return found, nil
}
