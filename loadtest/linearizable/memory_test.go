package linearizable

import (
	"context"
	"fmt"
	"time"

	"weir/loadtest/target"
)

// hits is what a proxy has counted of reads, those from memory and others, and how many ranges it has in memory.
type hits struct{ Linearizable, Serializable, Stale, Waits, Forwarded, Loads, Dropped, Ranges int }

// countHits adds what a proxy has counted since its start, if it can be asked.
func (s *site) countHits(p *target.Server) {
	now, err := s.hitsOf(s.Ctx, p)
	if err != nil {
		return
	}
	h := &s.hits
	h.Linearizable, h.Serializable, h.Stale = h.Linearizable+now.Linearizable, h.Serializable+now.Serializable, h.Stale+now.Stale
	h.Waits, h.Forwarded = h.Waits+now.Waits, h.Forwarded+now.Forwarded
	h.Loads, h.Dropped, h.Ranges = h.Loads+now.Loads, h.Dropped+now.Dropped, now.Ranges
}

func (s *site) hitsOf(ctx context.Context, p *target.Server) (hits, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	var status struct {
		Reads hits `json:"reads"`
	}
	err := p.Status(ctx, &status)
	return status.Reads, err
}

// awaitKept waits until the last proxy has in memory what its flags say. It does not read for that, since ranges that
// are read are kept too.
func (s *site) awaitKept() {
	s.Helper()
	p := s.Proxies[len(s.Proxies)-1]
	s.Must(p.WaitReady(s.Ctx, func(ctx context.Context) error {
		now, err := s.hitsOf(ctx, p)
		if err == nil && now.Ranges < len(fixedPrefixes) {
			err = fmt.Errorf("it keeps %d ranges", now.Ranges)
		}
		return err
	}))
}
