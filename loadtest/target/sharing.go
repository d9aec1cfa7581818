package target

import (
	"context"
	"fmt"
	"time"
)

// WaitUnshared waits until no proxy answers from memory what is asked without identity. They may go on with that for a
// second after authentication was switched on.
func (t *Target) WaitUnshared(ctx context.Context) error { return t.waitSharing(ctx, false) }

// WaitShared waits until every proxy answers from memory what is asked without identity. They begin with that within a second after
// authentication was switched off, and end the watches that were forwarded until then.
func (t *Target) WaitShared(ctx context.Context) error { return t.waitSharing(ctx, true) }

func (t *Target) waitSharing(ctx context.Context, want bool) error {
	for _, s := range t.servers[len(t.servers)-t.Kind.Proxies():] {
		if err := s.WaitSharing(ctx, want); err != nil {
			return err
		}
	}
	return nil
}

// WaitSharing waits until a proxy of weir answers from memory, or no longer does.
func (s *Server) WaitSharing(ctx context.Context, want bool) error {
	// There is no signal for it, so this asks, often enough that tests do not wait for it.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		shared, _, err := s.Sharing(ctx)
		if err != nil || shared == want {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait until what %s says of answers from memory is %v: %w", s.Name(), want, ctx.Err())
		}
	}
}

// Sharing is whether a proxy of weir answers from memory, and with authentication on upstream. It is read in the metrics, which
// everybody may see.
func (s *Server) Sharing(ctx context.Context) (shared, guarded bool, err error) {
	open, err := s.ProxyMetric(ctx, "weir_upstream_shared")
	if err != nil {
		return false, false, err
	}
	judged, err := s.ProxyMetric(ctx, "weir_upstream_guarded")
	return open == 1, judged == 1, err
}
