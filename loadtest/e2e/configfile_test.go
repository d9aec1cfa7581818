package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weir/loadtest/proc"
)

// What etcd refuses in a file weir refuses too, and names the line of it.
func TestWhatEtcdRefusesInAConfigurationFileIsRefused(t *testing.T) {
	for _, text := range []string{
		"snapshot-count: many",
		"snapshot-count: \"5\"",
		"snapshot-count: -1",
		"max-txn-ops: 1.5",
		"enable-pprof: \"true\"",
		"enable-pprof: 1",
		"name: [a]",
		"name: {a: b}",
		"backend-batch-interval: soon",
		"election-timeout: 1",
		"listen-client-urls: here",
		"initial-cluster-state: old",
		"feature-gates: None=true",
		"peer-transport-security: x",
		"client-transport-security: {client-cert-auth: maybe}",
		"name: b: c",
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "etcd.conf.yml")
			if err := os.WriteFile(path, []byte("log-level: warn\n"+text+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, p := range members {
				out, status := output(t, p, "--config-file="+path)
				if status == 0 {
					t.Errorf("%s started\n%s", p, out)
				}
				if p == proc.Core && !strings.Contains(out, path+":2: ") {
					t.Errorf("it does not name the line:\n%s", out)
				}
			}
			if out, status := output(t, proc.Core, "check-config", "--config-file="+path); status != 1 || !strings.HasPrefix(out, "error: "+path+":2: ") {
				t.Errorf("check-config: status %d\n%s", status, out)
			}
		})
	}
}

// A real process says of a configuration what the start would say, and starts nothing.
func TestCheckConfigStartsNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "proxy.yaml")
	if err := os.WriteFile(path, []byte("endpoints: ['http://"+freeAddr(t)+"']\npassword: s3cret\nmax-staleness: 5m\nuser: proxy\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, status := output(t, proc.Proxy, "check-config", "--config-file="+path)
	if status != 0 || !strings.HasPrefix(out, "warning: "+path+":3: --max-staleness=5m0s") || !strings.HasSuffix(out, "\nok\n") || strings.Contains(out, "s3cret") {
		t.Errorf("status %d\n%s", status, out)
	}
	for _, args := range [][]string{{"help"}, {"--help"}, {"version"}, {"--version"}} {
		for _, p := range []proc.Program{proc.Core, proc.Proxy} {
			if out, status := output(t, p, args...); status != 0 || !slices.ContainsFunc([]string{"Usage:\n", "etcd Version: "}, func(start string) bool { return strings.HasPrefix(out, start) }) {
				t.Errorf("%s %s: status %d\n%s", p, args, status, out)
			}
		}
	}
}
