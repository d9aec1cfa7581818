package tenants

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFileSaysEverythingOfATenant(t *testing.T) {
	m, err := parseFile([]byte(`
tenants:
- name: orders
  users: [orders, billing]
  common-names: [orders.local]
  namespace: /orders/
  access: read-only
  max-keys: 7
  max-bytes: 100
  weight: 3
  limits:
    requests-per-second: 0.5
    bytes-per-second: 0
    watches: 4
- name: all
  users: [boss]
default:
  namespace: /others/
  max-bytes: 5
`), &Config{Namespace: "/app", Limits: Limits{Bytes: 9, InFlight: 8}})
	if err != nil {
		t.Fatal(err)
	}
	orders := m.users["billing"]
	if orders == nil || m.users["orders"] != orders || m.commonNames["orders.local"] != orders {
		t.Fatalf("users %v, common names %v", m.users, m.commonNames)
	}
	for _, c := range []struct {
		got            *tenant
		want           tenant
		keys, maxBytes int64
	}{
		{orders, tenant{
			name: "orders", namespace: "/app/orders/", confined: true, readOnly: true, weight: 3,
			limits: Limits{Requests: 0.5, InFlight: 8, Watches: 4},
		}, 7, 100},
		{m.users["boss"], tenant{name: "all", namespace: "/app", weight: 1, limits: Limits{Bytes: 9, InFlight: 8}}, 0, 0},
		{m.others, tenant{namespace: "/app/others/", confined: true, weight: 1, limits: Limits{Bytes: 9, InFlight: 8}}, maxKeysTracked, 5},
	} {
		got, u := *c.got, c.got.usage
		got.usage = nil
		if got != c.want {
			t.Errorf("got %+v, want %+v", got, c.want)
		}
		if (u != nil) != (c.keys > 0) || u != nil && (u.maxKeys != c.keys || u.maxBytes != c.maxBytes) {
			t.Errorf("%q: quota %+v, want %d keys, %d bytes", got.name, u, c.keys, c.maxBytes)
		}
	}
	if m, err := parseFile([]byte("default: {namespace: a, max-keys: 1}"), &Config{}); err != nil || m.others.usage.maxBytes != unlimitedBytes {
		t.Errorf("only a default: %v", err)
	}
}

func TestTheFileInTheDocumentationIsRight(t *testing.T) {
	text, err := os.ReadFile("../../docs/tenants.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ = bytes.Cut(text, []byte("```yaml\n"))
	text, _, _ = bytes.Cut(text, []byte("```"))
	m, err := parseFile(text, &Config{Limits: Limits{Requests: 1, Watches: 1}})
	if err != nil {
		t.Fatal(err)
	}
	if all := m.users["root"]; all == nil || all.restricted() || all.limits != (Limits{}) {
		t.Errorf("the operators are %+v", all)
	}
	if audit := m.users["audit"]; audit == nil || audit.usage != m.users["orders"].usage || !audit.readOnly {
		t.Errorf("the auditors are %+v", audit)
	}
}

func TestTenantsShareANamespaceAndItsQuotaIfTheFileSaysSo(t *testing.T) {
	m, err := parseFile([]byte(`
tenants:
- {name: audit, users: [eve], namespace-of: orders, access: read-only}
- {name: orders, users: [ann], namespace: /orders/, max-keys: 7}
default: {namespace-of: orders}
`), &Config{Namespace: "/app"})
	if err != nil {
		t.Fatal(err)
	}
	owner := m.users["ann"]
	for _, guest := range []*tenant{m.users["eve"], m.others} {
		if guest.namespace != "/app/orders/" || !guest.confined || !guest.guest || guest.usage == nil || guest.usage != owner.usage {
			t.Errorf("%+v", guest)
		}
	}
	if !m.users["eve"].readOnly || owner.readOnly || owner.guest {
		t.Error("more is shared than the namespace")
	}
}

func TestFileWithAMistakeIsRefusedInOneLine(t *testing.T) {
	const (
		a = "tenants:\n- name: a\n  users: [u]\n"
		b = "- name: b\n  users: [v]\n"
	)
	for _, c := range []struct{ text, want string }{
		{"", ": it has neither tenants nor a default, so that everybody would be refused: give one of them"},
		{"tenants: []", ": it has neither tenants"},
		{"tenants:\n- colour: a\n", ":2: field colour is not known here"},
		{a + "  limits:\n    request-per-second: 1\n", ":5: field request-per-second is not known here"},
		{a + "tenant: []\n", ":4: field tenant is not known here"},
		{a + "  name: b\n", ":4: field name already set"},
		{a + "tenants: []\n", ":4: field tenants already set"},
		{a + "  weight: much\n", ":4: cannot unmarshal !!str `much`"},
		{a + "  max-keys: 1.5\n", `: tenant "a": max-keys is 1.5: make it a whole number`},
		{a + "  users: {}\n", "field users already set"},
		{"tenants:\n\t- name: a\n", ":2: found character that cannot start any token"},
		{"just text", ":1: cannot unmarshal !!str `just text`"},
		{a + "---\ntenants: []\n", ": there is a second document"},
		{"tenants:\n- users: [u]\n", ":2: tenant 1 has no name"},
		{"tenants:\n-\n", ":2: tenant 1 has no name"},
		{a + "- name: a\n  users: [v]\n", `:4: there is a tenant "a" in line 2 too: rename one`},
		{"tenants:\n- name: a\n", `:2: nobody can be tenant "a"`},
		{a + "- name: b\n  users:\n  - v\n  - u\n", `:7: user "u" is of two tenants, "a" and "b"`},
		{a + "  common-names: [c]\n- name: b\n  common-names: [c]\n", `:6: common name "c" is of two tenants, "a" and "b"`},
		{"tenants:\n- name: a\n  users: [u, u]\n", `:3: tenant "a": user "u" is there twice`},
		{"tenants:\n- name: a\n  users: ['']\n", `:3: tenant "a": a user is empty`},
		{"tenants:\n- name: a\n  users: [~]\n", `:2: tenant "a": a user is empty`},
		{a + "  access: readonly\n", `:4: tenant "a": access is "readonly": make it read-write or read-only`},
		{a + "  weight: 0\n", `:4: tenant "a": weight is 0`},
		{a + "  weight: 1001\n", `:4: tenant "a": weight is 1001`},
		{a + "  max-keys: 0\n", `:4: tenant "a": max-keys is 0`},
		{a + "  max-keys: 10000001\n", `:4: tenant "a": max-keys is 1.0000001e+07: make it a whole number from 1 to 10000000`},
		{a + "  max-bytes: -1\n", `:4: tenant "a": max-bytes is -1`},
		{a + "  limits: {requests-per-second: -1}\n", `:4: tenant "a": requests-per-second is -1`},
		{a + "  limits:\n    bytes-per-second: .nan\n", `:5: tenant "a": bytes-per-second is NaN`},
		{a + "  limits: {requests-per-second: .inf}\n", `:4: tenant "a": requests-per-second is +Inf`},
		{a + "  limits: {in-flight: -1}\n", `:4: tenant "a": in-flight is -1`},
		{"default:\n  weight: -1", `:2: the default: weight is -1`},
		{a + "  max-keys: 5\n", `:4: tenant "a": max-keys is for a namespace, and there is none`},
		{"default: {max-bytes: 5}", `:1: the default: max-bytes is for a namespace, and there is none`},
		{a + "  namespace: /a/\n" + b + "  namespace: /a/\n", `:7: namespace "/a/" of tenant "b" and "/a/" of tenant "a" in line 4 have keys in common`},
		{a + "  namespace: /a/b/\n" + b + "  namespace: /a/\n", `:7: namespace "/a/" of tenant "b" and "/a/b/" of tenant "a" in line 4 have keys in common`},
		{a + "  namespace: /a/\n" + b + "  namespace: /a/b/\n", `:7: namespace "/a/b/" of tenant "b" and "/a/" of tenant "a" in line 4 have keys in common`},
		{a + "  namespace: /a/\ndefault:\n  namespace: /\n", `:6: namespace "/" of the default and "/a/" of tenant "a" in line 4 have keys in common`},
		{a + "  namespace: /a/\n  namespace-of: b\n", `:5: tenant "a" has a namespace and namespace-of: leave one out`},
		{a + "  namespace-of: b\n", `:4: tenant "a": namespace-of is "b": name a tenant that has a namespace`},
		{a + "  namespace-of: a\n", `:4: tenant "a": namespace-of is "a": name a tenant that has a namespace`},
		{a + b + "  namespace-of: a\n", `:6: tenant "b": namespace-of is "a": name a tenant that has a namespace`},
		{a + "  namespace: /a/\n" + b + "  namespace-of: a\n  max-keys: 1\n", `:8: tenant "b": max-keys is for all who share a namespace: give it to tenant "a"`},
		{"default: {users: [a]}", ":1: field users is not known here"},
	} {
		_, err := parseFile([]byte(c.text), &Config{})
		switch {
		case err == nil:
			t.Errorf("%q: no error, want %s", c.text, c.want)
		case !strings.Contains(err.Error(), c.want):
			t.Errorf("%q: %s, want %s", c.text, err, c.want)
		case strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "tenants.") || strings.Contains(err.Error(), "located"):
			t.Errorf("%q: %s is more than one line, or speaks of Go", c.text, err)
		}
	}
}

func TestFileThatCannotBeReadIsNamed(t *testing.T) {
	name := filepath.Join(t.TempDir(), "none.yaml")
	if _, err := New(Config{File: name}); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("got %v", err)
	}
	if _, err := New(Config{Limits: Limits{Watches: -1}}); err == nil || !strings.HasPrefix(err.Error(), "limits: watches is -1") {
		t.Errorf("got %v", err)
	}
}
