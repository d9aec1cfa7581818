package tenants

import (
	"fmt"
	"math"
)

// terms are what the tenants file allows a tenant, or who is none.
type terms struct {
	Namespace   located[string]  `yaml:"namespace"`
	NamespaceOf located[string]  `yaml:"namespace-of"`
	Access      located[string]  `yaml:"access"`
	MaxKeys     located[float64] `yaml:"max-keys"` // the decoder would cut what is no whole number
	MaxBytes    located[float64] `yaml:"max-bytes"`
	Weight      located[float64] `yaml:"weight"`
	Limits      limitsEntry      `yaml:"limits"`
}

type limitsEntry struct {
	Requests located[float64] `yaml:"requests-per-second"`
	Bytes    located[float64] `yaml:"bytes-per-second"`
	InFlight located[float64] `yaml:"in-flight"`
	Watches  located[float64] `yaml:"watches"`
}

const (
	maxWeight = 1000
	// MaxLimit bounds each of Limits.
	MaxLimit = 1e12
)

// tenant makes a tenant on these terms, who is called whose in errors.
func (e *terms) tenant(whose string, cfg *Config) (*tenant, error) {
	t := &tenant{
		namespace: cfg.Namespace + e.Namespace.value, confined: e.Namespace.value != "", weight: 1, limits: cfg.Limits,
	}
	if e.Namespace.given() && e.NamespaceOf.given() {
		return nil, e.NamespaceOf.errorf("%s has a namespace and namespace-of: leave one out", whose)
	}
	switch access := e.Access.value; access {
	case "", "read-write":
	case "read-only":
		t.readOnly = true
	default:
		return nil, e.Access.errorf("%s: access is %q: make it read-write or read-only", whose, access)
	}
	weight := int64(1)
	if err := whole(&weight, whose+": weight", e.Weight, 1, maxWeight); err != nil {
		return nil, err
	}
	t.weight = int(weight)
	if err := e.Limits.override(&t.limits, whose); err != nil {
		return nil, err
	}
	var err error
	t.usage, err = e.quota(whose)
	return t, err
}

// quota is nil without one.
func (e *terms) quota(whose string) (*usage, error) {
	keys, bytes := int64(maxKeysTracked), int64(unlimitedBytes)
	if err := whole(&keys, whose+": max-keys", e.MaxKeys, 1, keys); err != nil {
		return nil, err
	}
	if err := whole(&bytes, whose+": max-bytes", e.MaxBytes, 1, bytes); err != nil {
		return nil, err
	}
	name, given := "max-keys", e.MaxKeys
	if !given.given() {
		name, given = "max-bytes", e.MaxBytes
	}
	switch {
	case !given.given():
		return nil, nil
	case e.NamespaceOf.given():
		return nil, given.errorf("%s: %s is for all who share a namespace: give it to tenant %q, whose namespace it is", whose, name, e.NamespaceOf.value)
	case e.Namespace.value == "":
		return nil, given.errorf("%s: %s is for a namespace, and there is none, so that everybody's keys would count: give it one, or leave %s out", whose, name, name)
	}
	return newUsage(keys, bytes), nil
}

// whole sets to to what the file gives, if it does.
func whole(to *int64, name string, given located[float64], least, most int64) error {
	v := given.value
	if !given.given() {
		return nil
	}
	if v != math.Trunc(v) || v < float64(least) || v > float64(most) {
		return given.errorf("%s is %v: make it a whole number from %d to %d, or leave it out", name, v, least, most)
	}
	*to = int64(v)
	return nil
}

// override replaces those of l that the file gives.
func (e *limitsEntry) override(l *Limits, whose string) error {
	inFlight, watches := int64(l.InFlight), int64(l.Watches)
	if err := whole(&inFlight, whose+": in-flight", e.InFlight, 0, MaxLimit); err != nil {
		return err
	}
	if err := whole(&watches, whose+": watches", e.Watches, 0, MaxLimit); err != nil {
		return err
	}
	l.InFlight, l.Watches = int(inFlight), int(watches)
	if err := perSecond(&l.Requests, whose+": requests-per-second", e.Requests); err != nil {
		return err
	}
	return perSecond(&l.Bytes, whose+": bytes-per-second", e.Bytes)
}

// perSecond sets to to what the file gives, if it does.
func perSecond(to *float64, name string, given located[float64]) error {
	if !given.given() {
		return nil
	}
	*to = given.value
	if err := checkLimit(name, given.value); err != nil {
		return given.errorf("%v", err)
	}
	return nil
}

// check returns what is wrong with l, in the words of the tenants file.
func (l *Limits) check() error {
	for _, v := range []struct {
		name  string
		value float64
	}{
		{"requests-per-second", l.Requests}, {"bytes-per-second", l.Bytes},
		{"in-flight", float64(l.InFlight)}, {"watches", float64(l.Watches)},
	} {
		if err := checkLimit(v.name, v.value); err != nil {
			return err
		}
	}
	return nil
}

func checkLimit(name string, value float64) error {
	if value >= 0 && value <= MaxLimit { // NaN is neither
		return nil
	}
	return fmt.Errorf("%s is %v: make it 0 to %d; 0 is no limit", name, value, int64(MaxLimit))
}
