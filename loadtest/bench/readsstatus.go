package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
)

// cacheStatus is what weir's proxy says of the reads that it answers from memory.
type cacheStatus struct {
	Keys                       *int // in memory
	Linearizable, Serializable *int // answers from memory since it started
}

// cacheStatusOf asks the proxy at addr.
func cacheStatusOf(ctx context.Context, addr string) (s cacheStatus, err error) {
	text, err := get(ctx, "http://"+addr+"/weir/status", nil)
	if err != nil {
		return s, err
	}
	var all struct {
		Reads cacheStatus `json:"reads"`
	}
	if err := json.Unmarshal([]byte(text), &all); err != nil {
		return s, fmt.Errorf("decode the status of the proxy: %w", err)
	}
	s = all.Reads
	if s.Keys == nil || s.Linearizable == nil || s.Serializable == nil {
		return s, errors.New("the status of the proxy lacks a counter")
	}
	return s, nil
}

// hits is how many answers came from memory.
func (s cacheStatus) hits() float64 { return float64(*s.Linearizable + *s.Serializable) }
