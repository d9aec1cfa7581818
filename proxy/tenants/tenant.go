package tenants

import "weir/grpcapi/wire"

// tenant is what those who belong together are allowed. It does not change, but for what is counted.
type tenant struct {
	name      string // "" is who is no tenant
	namespace string // what goes before their keys upstream: Config.Namespace, and one of their own
	confined  bool   // there is one of their own
	guest     bool   // it is another tenant's, as is the quota
	readOnly  bool
	weight    int
	limits    Limits
	usage     *usage     // nil without a quota
	free      wire.Visit // of who is of it, if there is nothing to judge; else nil
}

// restricted tells whether it matters what a request asks.
func (t *tenant) restricted() bool { return t.confined || t.readOnly || t.usage != nil }

// members is who belongs to which tenant.
type members struct {
	all         []*tenant // the default one too
	users       map[string]*tenant
	commonNames map[string]*tenant
	others      *tenant // of who belongs to none; nil if they are refused
	closed      bool    // there is a tenants file: who shows a token that is not known to be valid is not taken for one of the others
}

// withoutFile is everybody for himself.
func withoutFile(cfg *Config) *members {
	all := &tenant{namespace: cfg.Namespace, weight: 1, limits: cfg.Limits}
	return &members{all: []*tenant{all}, others: all}
}
