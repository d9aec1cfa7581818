package certificates

import (
	"strings"
	"testing"
)

// refusal is flags that a program does not start with.
type refusal struct {
	name  string
	flags []string
	line  string // part of what weir says
}

func refusals(f *fixture) map[program][]refusal {
	cert, key := f.own[0], f.own[1]
	f.flags("other", f.ours.issue(nil))
	f.flags("named", f.ours.issue(named("root")))
	garbage := f.write("garbage", "x")
	both := []refusal{
		{"no key", []string{cert}, "--cert-file and --key-file go together"},
		{"no certificate", []string{key}, "--cert-file and --key-file"},
		{"another's key", []string{cert, "--key-file=" + f.path("other.key")}, "private key does not match"},
		{"no such file", []string{"--cert-file=" + f.path("none"), key}, "no such file"},
		{"no PEM", []string{"--cert-file=" + garbage, key}, "load --cert-file=" + garbage},
		{"no authority's file", f.with("--trusted-ca-file=" + f.path("none")), "load --trusted-ca-file="},
		{"an authority that is a key", f.with("--trusted-ca-file=" + f.path("server.key")), "give a PEM file of certificates"},
		{"an unknown version", f.with("--tls-min-version=TLS1.1"), "unknown --tls-min-version=TLS1.1"},
		{"an unknown version at most", f.with("--tls-max-version=SSL3"), "unknown --tls-max-version=SSL3"},
		{"versions swapped", f.with("--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"), "swap them"},
		{"no validity", []string{"--auto-tls", "--self-signed-cert-validity=0"}, "--self-signed-cert-validity=0"},
	}
	return map[program][]refusal{
		core: append(both[:len(both):len(both)],
			refusal{"no flags", nil, "--cert-file"},
			refusal{"only an authority", []string{f.ca}, "--cert-file"},
			refusal{"an unknown suite", f.with("--cipher-suites=ROT13"), `unknown cipher suite "ROT13" in --cipher-suites`},
			refusal{"suites of 1.3", f.with("--tls-min-version=TLS1.3", "--cipher-suites=TLS_AES_128_GCM_SHA256"), "cannot be chosen"},
			refusal{"no key for peers", f.with("--client-cert-file=" + f.path("server.crt")), "--client-cert-file and --client-key-file go together"},
			refusal{"another's key for peers", f.with("--client-cert-file="+f.path("server.crt"), "--client-key-file="+f.path("other.key")), "load --client-cert-file="},
		),
		proxy: append(both[:len(both):len(both)],
			refusal{"only an authority", []string{f.ca}, "--trusted-ca-file needs --cert-file and --key-file"},
			refusal{"an unknown suite", f.with("--listen-cipher-suites=ROT13"), `unknown cipher suite "ROT13" in --listen-cipher-suites`},
			refusal{"suites of 1.3", f.with("--tls-min-version=TLS1.3", "--listen-cipher-suites=TLS_AES_128_GCM_SHA256"), "cannot be chosen"},
			refusal{"a key without a certificate upstream", []string{"--key=" + f.path("server.key")}, "--cert and --key go together"},
		),
	}
}

// ownRefusals are flags that etcd starts with. Then somebody is let in, or nobody, whom they were not meant for.
func ownRefusals(f *fixture) map[program][]refusal {
	garbage, empty := f.write("garbage", "x"), f.write("empty", "")
	return map[program][]refusal{
		core: {
			{"no list", f.with(f.ca, "--client-crl-file="+f.path("none")), "load --client-crl-file=" + f.path("none")},
			{"no list, where nobody is asked", f.with("--client-crl-file=" + f.path("none")), "load --client-crl-file=" + f.path("none")},
			{"no authorities", f.with("--trusted-ca-file=" + empty), "it has no certificate"},
		},
		proxy: {
			{"not a list", f.with(f.ca, "--client-crl-file="+garbage), "load --client-crl-file=" + garbage},
			{"no authorities", f.with("--trusted-ca-file=" + empty), "it has no certificate"},
		},
	}
}

func TestFlagsThatCannotWorkAreRefused(t *testing.T) {
	f := newFixture(t)
	upstream := startUpstream(t)
	for _, set := range []struct {
		name  string
		cases map[program][]refusal
		etcds bool // refuses too
	}{{"as by etcd", refusals(f), true}, {"though not by etcd", ownRefusals(f), false}} {
		for p, cases := range set.cases {
			for _, c := range cases {
				t.Run(set.name+"/"+string(p)+"/"+c.name, func(t *testing.T) {
					t.Parallel()
					weirs, etcds := startBoth(t, p, "https", upstream, c.flags...)
					if etcds.refused != set.etcds {
						t.Errorf("%s refuses: %v", etcds.program, etcds.refused)
					}
					wantRefusal(t, weirs, c.line)
				})
			}
		}
	}
}

// wantRefusal wants a process to have ended, with one line on the standard error that has a text in it.
func wantRefusal(t *testing.T, p *port, text string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(p.Log()), "\n")
	last := lines[len(lines)-1]
	if !p.refused || !strings.HasPrefix(last, string(p.program)+": ") || !strings.Contains(last, text) {
		t.Errorf("ended: %v, and its last line is not of %q: %s", p.refused, text, last)
	}
}
