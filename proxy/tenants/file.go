package tenants

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v2"
)

// tenantsFile is the tenants file:
//
//	tenants:
//	- name: orders                  # in logs and metrics
//	  users: [orders, billing]      # of the cluster, who show a token
//	  common-names: [orders.local]  # of client certificates
//	  namespace: /orders/           # goes before every key; no other one begins with it
//	  access: read-write            # or read-only; read-write is the default
//	  max-keys: 10000               # in the namespace; without one of these two there is no quota
//	  max-bytes: 100000000          # of keys and values, in the namespace
//	  weight: 2                     # of its calls upstream, where they wait for others'; 1 by default, at most maxWeight
//	  limits:                       # those of the command line by default; 0 is no limit
//	    requests-per-second: 1000
//	    bytes-per-second: 10000000
//	    in-flight: 100
//	    watches: 1000
//	- name: audit
//	  users: [audit]
//	  namespace-of: orders          # instead of a namespace: that of another tenant, with its quota
//	  access: read-only
//	- name: operators
//	  users: [root]                 # without a namespace they see all keys, and are not kept from the others
//	default:                        # who is no tenant; without it they are refused
//	  namespace: /others/           # and all else but names
//
// The limits of a tenant are shared by all who belong to it; those of the default are each client's own.
type tenantsFile struct {
	Tenants located[[]located[tenantEntry]] `yaml:"tenants"`
	Default located[terms]                  `yaml:"default"`
}

type tenantEntry struct {
	Name        located[string]   `yaml:"name"`
	Users       []located[string] `yaml:"users"`
	CommonNames []located[string] `yaml:"common-names"`
	terms       `yaml:",inline"`
}

// parseFileOf is parseFile with errors of one line that names the file and the line in it.
func parseFileOf(cfg *Config, text []byte) (*members, error) {
	m, err := parseFile(text, cfg)
	if err != nil {
		return nil, fmt.Errorf("tenants file %s%w", cfg.File, err)
	}
	return m, nil
}

// parseFile makes the tenants that a file's text describes. Its errors begin with what comes after the file's name.
func parseFile(text []byte, cfg *Config) (*members, error) {
	var f tenantsFile
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.SetStrict(true)
	if err := decoder.Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return nil, fileError(err)
	}
	if err := decoder.Decode(&yaml.MapSlice{}); !errors.Is(err, io.EOF) {
		return nil, errors.New(": there is a second document, which would not be read: leave only one")
	}
	r := roll{cfg: cfg, members: &members{users: map[string]*tenant{}, commonNames: map[string]*tenant{}, closed: true}, names: map[string]entry{}}
	for i := range f.Tenants.value {
		e := &f.Tenants.value[i]
		e.line = max(e.line, f.Tenants.line) // one that is null has none of its own
		if err := r.tenant(i, e); err != nil {
			return nil, err
		}
	}
	if f.Default.given() {
		t, err := r.add("the default", &f.Default.value)
		if err != nil {
			return nil, err
		}
		r.members.others = t
	}
	if len(r.members.all) == 0 {
		return nil, errors.New(": it has neither tenants nor a default, so that everybody would be refused: give one of them")
	}
	return r.members, r.share()
}

// roll is the tenants of a file that have been read so far.
type roll struct {
	cfg     *Config
	members *members
	names   map[string]entry
	entries []entry // the default one too
}

// entry is a tenant and what the file has of it.
type entry struct {
	*tenant
	*terms
	line  int
	whose string // in errors
}

// tenant adds the i-th tenant of the file.
func (r *roll) tenant(i int, in *located[tenantEntry]) error {
	e := &in.value
	name := e.Name.value
	switch {
	case name == "":
		return in.errorf("tenant %d has no name: give it one", i+1)
	case r.names[name].tenant != nil:
		return e.Name.errorf("there is a tenant %q in line %d too: rename one", name, r.names[name].line)
	case len(e.Users)+len(e.CommonNames) == 0:
		return in.errorf("nobody can be tenant %q: give users or common-names", name)
	}
	t, err := r.add(fmt.Sprintf("tenant %q", name), &e.terms)
	if err != nil {
		return err
	}
	t.name = name
	last := &r.entries[len(r.entries)-1]
	last.line = e.Name.line
	r.names[name] = *last
	if err := last.claim(r.members.users, e.Users, "user"); err != nil {
		return err
	}
	return last.claim(r.members.commonNames, e.CommonNames, "common name")
}

// add adds a tenant on these terms.
func (r *roll) add(whose string, e *terms) (*tenant, error) {
	t, err := e.tenant(whose, r.cfg)
	if err != nil {
		return nil, err
	}
	added := entry{tenant: t, terms: e, whose: whose}
	for _, other := range r.entries {
		if err := added.checkApart(other); err != nil {
			return nil, err
		}
	}
	r.entries = append(r.entries, added)
	r.members.all = append(r.members.all, t)
	return t, nil
}

// checkApart returns an error if the namespaces of two tenants have keys in common: one would see and change the other's, and
// neither's quota would count what the other writes.
func (e entry) checkApart(other entry) error {
	a, b := e.Namespace, other.Namespace
	if a.value == "" || b.value == "" || !strings.HasPrefix(a.value, b.value) && !strings.HasPrefix(b.value, a.value) {
		return nil
	}
	return a.errorf("namespace %q of %s and %q of %s in line %d have keys in common: choose prefixes of which none begins with another, or share one by namespace-of",
		a.value, e.whose, b.value, other.whose, b.line)
}

// share gives those the namespace of another tenant, and its quota, who are to share it.
func (r *roll) share() error {
	for _, e := range r.entries {
		of := e.NamespaceOf
		if !of.given() {
			continue
		}
		owner, ok := r.names[of.value]
		if !ok || owner.Namespace.value == "" {
			return of.errorf("%s: namespace-of is %q: name a tenant that has a namespace", e.whose, of.value)
		}
		e.tenant.namespace, e.tenant.confined = owner.tenant.namespace, true
		e.tenant.usage, e.tenant.guest = owner.tenant.usage, true
	}
	return nil
}

// claim makes e the tenant of each of names, of which nobody else may have one.
func (e *entry) claim(owners map[string]*tenant, names []located[string], kind string) error {
	for _, n := range names {
		n.line = max(n.line, e.line) // one that is null has none of its own
		switch other := owners[n.value]; {
		case n.value == "":
			return n.errorf("%s: a %s is empty: remove it", e.whose, kind)
		case other == e.tenant:
			return n.errorf("%s: %s %q is there twice: remove one", e.whose, kind, n.value)
		case other != nil:
			return n.errorf("%s %q is of two tenants, %q and %q: remove it from one", kind, n.value, other.name, e.name)
		}
		owners[n.value] = e.tenant
	}
	return nil
}

// inLine finds the line that an error of the decoder names, and inType the names of Go's types, which say nothing to who writes
// the file.
var (
	inLine = regexp.MustCompile(`^(?:yaml: )?line (\d+): (.*)$`)
	inType = regexp.MustCompile(` (?:in|into) (?:type )?(?:tenants\.|\*?\[\]|map|string|int|float)\S*$`)
)

// fileError says the first thing that is wrong in the words of who has written the file.
func fileError(err error) error {
	text := err.Error()
	var all *yaml.TypeError
	if errors.As(err, &all) {
		text = all.Errors[0]
	}
	text = strings.Join(strings.Fields(text), " ")
	at := ": "
	if m := inLine.FindStringSubmatch(text); m != nil {
		at, text = ":"+m[1]+": ", m[2]
	}
	text = strings.TrimPrefix(inType.ReplaceAllString(text, ""), "yaml: ")
	return errors.New(at + strings.ReplaceAll(text, "not found", "is not known here"))
}
