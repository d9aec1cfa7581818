package crash

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// Whoever starts a server wrongly is told in one line what is wrong, and the server ends with status 1.
func TestServersRefuseToStartInOneLine(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	busy := taken.Addr().String()

	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("not a directory"), 0o600); err != nil {
		t.Fatal(err)
	}
	used := filepath.Join(dir, "used")
	makeData(t, target.Core, used)
	locked := filepath.Join(dir, "locked")
	targettest.StartFrom(t, bin, target.Core, locked)
	garbled := filepath.Join(dir, "garbled")
	makeData(t, target.Core, garbled)
	garble(t, garbled)
	etcds := filepath.Join(dir, "etcds")
	makeData(t, target.Etcd37, etcds)

	core := func(data string, more ...string) []string {
		return append(target.MemberArgs("m1", data, freeAddr(t), freeAddr(t)), more...)
	}
	fresh := filepath.Join(dir, "fresh")
	for _, c := range []struct {
		name    string
		program proc.Program
		args    []string
		env     []string
		says    []string // parts of the line
	}{
		{"core: data directory locked", proc.Core, core(locked), nil, []string{locked, "another process"}},
		{"core: data directory of another cluster", proc.Core, core(used, "--initial-cluster-token=other"), nil, []string{used, "another cluster"}},
		{"core: data directory is a file", proc.Core, core(file), nil, []string{file, "not a directory"}},
		{"core: data directory below a file", proc.Core, core(filepath.Join(file, "below")), nil, []string{file, "not a directory"}},
		{"core: damaged store", proc.Core, core(garbled), nil, []string{garbled}},
		{"core: data directory of an etcd", proc.Core, core(etcds), nil, []string{etcds, "etcd"}},
		{"core: client port taken", proc.Core, core(fresh, "--listen-client-urls=http://"+busy), nil, []string{busy, "address already in use"}},
		{"core: malformed client URL", proc.Core, core(fresh, "--listen-client-urls=localhost"), nil, []string{"--listen-client-urls", "localhost"}},
		{"core: malformed peer URL", proc.Core, core(fresh, "--listen-peer-urls=http://host"), nil, []string{"--listen-peer-urls", "http://host"}},
		{"core: unknown flag", proc.Core, core(fresh, "--nonsense=1"), nil, []string{"nonsense"}},
		{"core: malformed flag", proc.Core, core(fresh, "--snapshot-count=many"), nil, []string{"snapshot-count", "many"}},
		{"core: argument that is no flag", proc.Core, core(fresh, "nonsense"), nil, []string{"nonsense"}},
		{"core: malformed variable", proc.Core, core(fresh), []string{"ETCD_SNAPSHOT_COUNT=many"}, []string{"SNAPSHOT_COUNT", "many"}},
		{"core: name not in the initial cluster", proc.Core, core(fresh, "--name=other"), nil, []string{"--initial-cluster", "other"}},
		{"proxy: flag without endpoints", proc.Proxy, []string{"--listen-addr=" + freeAddr(t)}, nil, []string{"--endpoints"}},
		{"proxy: unknown flag", proc.Proxy, []string{"--nonsense"}, nil, []string{"nonsense"}},
		{"proxy: port taken", proc.Proxy, []string{"--endpoints=127.0.0.1:1", "--listen-addr=" + busy}, nil, []string{busy, "address already in use"}},
		{"proxy: malformed endpoint", proc.Proxy, []string{"--endpoints=http://a b:1", "--listen-addr=" + freeAddr(t)}, nil, []string{"endpoint", "a b"}},
		{"proxy: data directory locked", proc.Proxy, []string{"--embedded", "--data-dir=" + locked, "--listen-addr=" + freeAddr(t)}, nil,
			[]string{locked, "another process"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			line := refusal(t, c.program, c.args, c.env)
			for _, part := range c.says {
				if !strings.Contains(line, part) {
					t.Errorf("it says %q, which lacks %q", line, part)
				}
			}
		})
	}
}

// refusal starts a server that must refuse, and returns what it says.
func refusal(t *testing.T, program proc.Program, args, env []string) string {
	t.Helper()
	path, err := bin.Build(t.Context(), program)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = t.TempDir()
	cmd.Env = append([]string{"HOME=" + t.TempDir()}, env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("ends with %v, not with status 1; stdout:\n%s\nstderr:\n%s", err, &stdout, &stderr)
	}
	if stdout.Len() > 0 {
		t.Errorf("prints to stdout: %s", &stdout)
	}
	said := stderr.String()
	if strings.Count(said, "\n") != 1 || !strings.HasSuffix(said, "\n") {
		t.Errorf("says, not in one line:\n%s", said)
	}
	return said
}

// makeData makes a member's data directory with something in it.
func makeData(t *testing.T, kind target.Kind, data string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tg, err := target.Start(ctx, bin, kind, data)
	if err != nil {
		t.Fatal(err)
	}
	if err := tg.Close(); err != nil {
		t.Fatal(err)
	}
}

// garble overwrites the store's file, bbolt's two meta pages included.
func garble(t *testing.T, data string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(data, "member", "store.db"), bytes.Repeat([]byte("garbage\n"), 4096), 0o600); err != nil {
		t.Fatal(err)
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	addr, err := proc.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}
