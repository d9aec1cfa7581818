//go:build foreign

package foreign

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// example is a file below docs/examples.
func example(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(filepath.Join("../../docs/examples", path))
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

// watching are the commands of the examples that watch, too.
func watching(t *testing.T) map[string][]string {
	t.Helper()
	built := filepath.Join(t.TempDir(), "example")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", built, ".")
	build.Dir = example(t, "go")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	return map[string][]string{
		"go":     {built},
		"python": {"/usr/bin/python3", example(t, "python/example.py")},
		"node":   {"node", example(t, "node/example.js")},
	}
}

// The examples do what they say they do, with weir as with etcd.
func TestExamples(t *testing.T) {
	t.Parallel()
	for name, command := range watching(t) {
		t.Run(name, func(t *testing.T) {
			for _, kind := range kinds() {
				t.Run(string(kind), func(t *testing.T) {
					t.Parallel()
					got := strings.ToLower(strings.Join(transcript(t, kind, false, command), "\n")) // Python has True
					targettest.Want(t, "what is printed", got,
						"count: 3\nkeys after the lease: 0\nwritten under the lock: true\nfor the second it is locked: true")
				})
			}
		})
	}
	t.Run("curl", func(t *testing.T) { compareTranscripts(t, false, []string{example(t, "curl/curl.sh")}) })
}

// mirrorTimeout is for one example that watches: it waits for its library to connect again, some seconds each time.
const mirrorTimeout = 5 * time.Minute

// The examples that watch miss nothing when their server goes away, nor when the store is compacted meanwhile.
func TestExamplesMirror(t *testing.T) {
	t.Parallel()
	for name, command := range watching(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			newMirror(t, command).throughItAll()
		})
	}
}

// mirror is an example that prints what changes below jobs/. It talks to a proxy over an etcd.
type mirror struct {
	*testing.T
	ctx     context.Context
	program *proc.Process
	proxy   *target.Server
	store   *clientv3.Client
	printed []string // as wanted so far, sorted
}

func newMirror(t *testing.T, command []string) *mirror {
	t.Helper()
	path, err := exec.LookPath(command[0])
	if err != nil {
		t.Fatal(err)
	}
	c := targettest.StartCluster(t, bin, proc.Etcd37, target.ClusterOptions{})
	m := &mirror{T: t, proxy: targettest.StartProxy(t, bin, c.Endpoints()), store: targettest.Client(t, c.Endpoints()[0])}
	var cancel context.CancelFunc
	m.ctx, cancel = context.WithTimeout(t.Context(), mirrorTimeout)
	t.Cleanup(cancel)
	m.program, err = proc.Start("example", path, append(command[1:len(command):len(command)], m.proxy.Addr, "watch", "jobs/"), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.program.Kill(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func (m *mirror) throughItAll() {
	m.put("a", "1")
	m.prints("PUT jobs/a 1")

	m.must(m.proxy.Kill())
	m.put("b", "2")
	m.again()
	m.prints("PUT jobs/b 2")

	m.must(m.proxy.Stop())
	m.put("a", "3")
	m.delete("b")
	last := m.put("c", "4")
	_, err := m.store.Compact(m.ctx, last, clientv3.WithCompactPhysical())
	m.must(err)
	m.again()
	m.prints("PUT jobs/a 3", "DELETE jobs/b", "PUT jobs/c 4")

	m.put("d", "5")
	m.delete("a")
	m.prints("PUT jobs/d 5", "DELETE jobs/a")
}

func (m *mirror) must(err error) {
	m.Helper()
	if err != nil {
		m.Fatal(err)
	}
}

func (m *mirror) put(key, value string) (revision int64) {
	m.Helper()
	r, err := m.store.Put(m.ctx, "jobs/"+key, value)
	m.must(err)
	return r.Header.Revision
}

func (m *mirror) delete(key string) {
	m.Helper()
	_, err := m.store.Delete(m.ctx, "jobs/"+key)
	m.must(err)
}

// again starts the proxy that has ended.
func (m *mirror) again() {
	m.Helper()
	m.must(m.proxy.Restart())
	m.must(m.proxy.WaitReady(m.ctx, target.Serves(m.proxy.Addr)))
}

// prints waits until the example has printed these changes besides those before, in whatever order, and no others.
func (m *mirror) prints(lines ...string) {
	m.Helper()
	m.printed = slices.Sorted(slices.Values(append(m.printed, lines...)))
	m.must(m.program.WaitReady(m.ctx, func(context.Context) error {
		var got []string
		for line := range strings.Lines(m.program.Log()) {
			if strings.HasPrefix(line, "PUT ") || strings.HasPrefix(line, "DELETE ") {
				got = append(got, strings.TrimSpace(line))
			}
		}
		slices.Sort(got)
		if len(got) > len(m.printed) {
			m.Fatalf("it has printed %q, want %q", got, m.printed)
		}
		if !slices.Equal(got, m.printed) {
			return fmt.Errorf("it has printed %q", got)
		}
		return nil
	}))
}
