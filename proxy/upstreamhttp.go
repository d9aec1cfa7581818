package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
)

// UpstreamHTTP returns the body of what the current member answers at a path, which the caller closes. It ends with ctx.
func (p *Proxy) UpstreamHTTP(ctx context.Context, path string) (io.ReadCloser, error) {
	t, err := p.upstream.pick(ctx)
	if err != nil {
		return nil, err
	}
	return t.member.get(ctx, path)
}

func (m *member) get(ctx context.Context, path string) (io.ReadCloser, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url+path, nil)
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", path, m.endpoint, err)
	}
	resp, err := m.http.Do(r)
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", path, m.endpoint, err)
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("%s of %s: it answers %s", path, m.endpoint, resp.Status)
	}
	return resp.Body, nil
}

// newHTTP makes a client that reaches a member the way gRPC does. It keeps no connection: monitors come seldom.
func newHTTP(dial func(context.Context, string) (net.Conn, error), config func() *tls.Config) *http.Client {
	t := &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, "") },
	}
	t.DialTLSContext = func(ctx context.Context, _, address string) (net.Conn, error) {
		conn, err := dial(ctx, "")
		if err != nil {
			return nil, err
		}
		cfg := &tls.Config{}
		if config != nil {
			cfg = config()
		}
		if cfg.ServerName == "" {
			cfg = cfg.Clone()
			cfg.ServerName, _, _ = net.SplitHostPort(address)
		}
		c := tls.Client(conn, cfg)
		if err := c.HandshakeContext(ctx); err != nil {
			conn.Close()
			return nil, err
		}
		return c, nil
	}
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}
