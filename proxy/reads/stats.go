package reads

import (
	"errors"
	"sync/atomic"

	"weir/cache"
)

// Stats is what a Keeper holds now, and what it has counted since its start.
type Stats struct {
	Ranges       int `json:"ranges"`        // that reads are answered from
	Loading      int `json:"loading"`       // ranges that are being loaded
	Candidates   int `json:"candidates"`    // ranges whose reads are counted because they may become worth keeping
	Keys         int `json:"keys"`          // in memory
	Bytes        int `json:"bytes"`         // memory of ranges, those that are being loaded too
	HistoryBytes int `json:"history_bytes"` // of these, for past states

	Loads       uint64 `json:"loads"` // begun
	LoadsFailed uint64 `json:"loads_failed"`
	Dropped     uint64 `json:"dropped"`      // ranges that had been loaded, for whatever reason
	DroppedRoom uint64 `json:"dropped_room"` // of these, because memory was short

	Linearizable uint64 `json:"linearizable"` // reads answered from memory
	Serializable uint64 `json:"serializable"` // likewise
	Stale        uint64 `json:"stale"`        // of these, while upstream was away
	Waits        uint64 `json:"waits"`        // reads that waited for a snapshot to reach a revision
	Forwarded    uint64 `json:"forwarded"`    // reads that could have been answered from memory, and were not
	// ForwardedSerializable are those of Forwarded that are serializable, of transactions with all that they read.
	ForwardedSerializable uint64 `json:"forwarded_serializable"`
	Refused               uint64 `json:"refused"` // reads with too large an answer, see Config.MaxKeys

	Results cache.ResultStats `json:"results"`
}

// stats are the counts of Stats.
type stats struct {
	loads, loadsFailed                atomic.Uint64
	drops, dropsRoom                  atomic.Uint64
	linearizable, serializable, stale atomic.Uint64
	forwarded, refused, waits         atomic.Uint64
	forwardedSerializable             atomic.Uint64
}

// countForward counts a read that has ended with err, if that is ErrForward.
func (s *stats) countForward(serializable bool, err error) {
	if err == nil || !errors.Is(err, ErrForward) {
		return
	}
	s.forwarded.Add(1)
	if serializable {
		s.forwardedSerializable.Add(1)
	}
}

func (s *stats) dropped(loaded bool, reason error) {
	if !loaded {
		s.loadsFailed.Add(1)
		return
	}
	s.drops.Add(1)
	if errors.Is(reason, errNoRoom) {
		s.dropsRoom.Add(1)
	}
}

// Stats counts. It looks at every range.
func (k *Keeper) Stats() Stats {
	s := Stats{
		Candidates:            k.heat.len(),
		Bytes:                 int(k.held.Load()),
		Loads:                 k.stats.loads.Load(),
		LoadsFailed:           k.stats.loadsFailed.Load(),
		Dropped:               k.stats.drops.Load(),
		DroppedRoom:           k.stats.dropsRoom.Load(),
		Linearizable:          k.stats.linearizable.Load(),
		Serializable:          k.stats.serializable.Load(),
		Stale:                 k.stats.stale.Load(),
		Waits:                 k.stats.waits.Load(),
		Forwarded:             k.stats.forwarded.Load(),
		ForwardedSerializable: k.stats.forwardedSerializable.Load(),
		Refused:               k.stats.refused.Load(),
		Results:               k.results.Stats(),
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for h := range k.hots {
		if !h.isLoaded() {
			s.Loading++
			continue
		}
		s.Ranges++
		s.Keys += h.snap.Keys()
		s.HistoryBytes += h.snap.HistoryBytes()
	}
	return s
}
