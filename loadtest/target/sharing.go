package target

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// WaitUnshared waits until no proxy answers from memory what is asked without identity. They may go on with that for a
// second after authentication was switched on.
func (t *Target) WaitUnshared(ctx context.Context) error {
	// There is no signal for it, so this asks, often enough that tests do not wait for it.
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for _, s := range t.servers[len(t.servers)-t.Kind.Proxies():] {
		for {
			shared, err := s.shares(ctx)
			if err != nil {
				return err
			}
			if !shared {
				break
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return fmt.Errorf("%s answers from memory although authentication is on: %w", s.Name(), ctx.Err())
			}
		}
	}
	return nil
}

// shares asks a proxy of weir whether it answers from memory.
func (s *Server) shares(ctx context.Context) (bool, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Addr+"/weir/status", nil)
	if err != nil {
		return false, fmt.Errorf("make a request for the status of %s: %w", s.Name(), err)
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, fmt.Errorf("ask %s for its status: %w", s.Name(), err)
	}
	defer r.Body.Close()
	var said struct {
		Upstream struct {
			Shared bool `json:"shared"`
		} `json:"upstream"`
	}
	if err := json.NewDecoder(r.Body).Decode(&said); err != nil {
		return false, fmt.Errorf("read the status of %s: %w", s.Name(), err)
	}
	return said.Upstream.Shared, nil
}
