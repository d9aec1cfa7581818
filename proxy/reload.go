package proxy

import (
	"errors"
	"time"

	"weir/proxy/tenants"
)

// Settings are what of a Config may change while the Proxy runs. Its zero values mean what they mean there.
type Settings struct {
	// TenantsFile names the file, in errors, and Tenants is its text.
	TenantsFile string
	Tenants     []byte
	Limits      tenants.Limits
	// MaxUpstreamCalls cannot become, or cease to be, 0.
	MaxUpstreamCalls int
	MaxStaleness     time.Duration
}

// errNoBound is why a bound cannot come and go: calls that were made without one hold no slot that could be given back.
var errNoBound = errors.New("a bound of calls upstream can be changed, but not be made or removed")

// Reload replaces the settings. Everything counts at once for what comes from then on, or nothing does and the error, one line, says
// why. What is under way goes on, but for streams that tenants may not have any more, see tenants.Table.Reload.
func (p *Proxy) Reload(s Settings) error {
	if p.shares != (s.MaxUpstreamCalls > 0) {
		return errNoBound
	}
	if err := p.tenants.Reload(s.TenantsFile, s.Tenants, s.Limits); err != nil {
		return err
	}
	p.pool.Resize(s.MaxUpstreamCalls)
	p.reads.SetMaxStaleness(s.MaxStaleness)
	return nil
}
