package snapshots

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// bin is set by TestMain.
var bin *proc.Bin

func TestMain(m *testing.M) { targettest.Main(m, &bin) }

// testTimeout bounds all that one test waits for.
const testTimeout = 2 * time.Minute

// bench is where a test works.
type bench struct {
	*testing.T
	ctx context.Context
	dir string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testTimeout)
	t.Cleanup(cancel)
	return &bench{T: t, ctx: ctx, dir: t.TempDir()}
}

func (b *bench) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// try runs a program and returns what it printed.
func (b *bench) try(p proc.Program, args ...string) (string, error) {
	b.Helper()
	path, err := bin.Build(b.ctx, p)
	b.must(err)
	cmd := exec.CommandContext(b.ctx, path, args...)
	cmd.Env, cmd.Dir = []string{"HOME=" + b.dir}, b.dir
	var errors strings.Builder
	cmd.Stderr = &errors
	out, err := cmd.Output()
	return string(out) + errors.String(), err
}

// run is try with a program that must succeed.
func (b *bench) run(p proc.Program, args ...string) string {
	b.Helper()
	out, err := b.try(p, args...)
	if err != nil {
		b.Fatalf("%s %s: %v\n%s", p, strings.Join(args, " "), err, out)
	}
	return out
}

// save takes a snapshot as root, and returns the file.
func (b *bench) save(endpoint string) string {
	b.Helper()
	file := filepath.Join(b.TempDir(), "saved.db")
	b.run(proc.Etcdctl, "--endpoints="+endpoint, "--user=root:root", "snapshot", "save", file)
	return file
}

// client is root, who need not be known there.
func (b *bench) client(endpoint string, isSecured bool) *clientv3.Client {
	b.Helper()
	cfg := clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 10 * time.Second, Logger: zap.NewNop()}
	if isSecured {
		cfg.Username, cfg.Password = "root", "root"
	}
	c, err := clientv3.New(cfg)
	b.must(err)
	b.Cleanup(func() { _ = c.Close() })
	return c
}

// side is a program that restores snapshots, and what then serves the data.
type side struct {
	restorer proc.Program
	member   proc.Program
	kind     target.Kind
}

var sides = map[string]side{
	"weir": {proc.Core, proc.Core, target.Core},
	"etcd": {proc.Etcdutl, proc.Etcd37, target.Etcd37},
}

// restore makes the data directory of one member of a cluster, and returns it.
func (b *bench) restore(s side, file string, args ...string) string {
	b.Helper()
	data := filepath.Join(b.TempDir(), "data")
	b.run(s.restorer, append([]string{"snapshot", "restore", file, "--data-dir=" + data}, args...)...)
	return data
}

// restoreAlone restores a cluster of one member and starts it.
func (b *bench) restoreAlone(s side, file string, args ...string) *target.Target {
	b.Helper()
	args = append([]string{"--name=m1", "--initial-cluster=m1=http://127.0.0.1:2380", "--initial-advertise-peer-urls=http://127.0.0.1:2380"}, args...)
	return targettest.StartFrom(b, bin, s.kind, b.restore(s, file, args...), target.CheapPasswords)
}
