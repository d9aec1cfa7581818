package bench

import (
	"context"
	"errors"

	"weir/loadtest/target"
)

// cacheStatus is what weir's proxy says of the reads that it answers from memory.
type cacheStatus struct {
	Keys                       *int // in memory
	Linearizable, Serializable *int // answers from memory since it started
}

// cacheStatusOf asks a proxy.
func cacheStatusOf(ctx context.Context, proxy *target.Server) (s cacheStatus, err error) {
	var all struct {
		Reads cacheStatus `json:"reads"`
	}
	if err := proxy.Status(ctx, &all); err != nil {
		return s, err
	}
	s = all.Reads
	if s.Keys == nil || s.Linearizable == nil || s.Serializable == nil {
		return s, errors.New("the status of the proxy lacks a counter")
	}
	return s, nil
}

// hits is how many answers came from memory.
func (s cacheStatus) hits() float64 { return float64(*s.Linearizable + *s.Serializable) }
