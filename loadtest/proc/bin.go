package proc

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
)

// A Program is a command that this package knows how to build.
type Program string

// What can be built. One go.mod holds only one version of etcd, so the two older servers have a module each.
const (
	Etcd37  Program = "etcd-3.7"
	Etcd36  Program = "etcd-3.6"
	Etcd35  Program = "etcd-3.5"
	Etcdctl Program = "etcdctl"
	Etcdutl Program = "etcdutl"
	Core    Program = "weir-core"
	Proxy   Program = "weir-proxy"
)

// source is where a program is built: a folder relative to loadtest's module, and a package as seen from there.
func (p Program) source() (dir, pkg string, err error) {
	switch p {
	case Etcd37:
		return ".", "go.etcd.io/etcd/server/v3", nil
	case Etcd36:
		return "etcd36", "go.etcd.io/etcd/server/v3", nil
	case Etcd35:
		return "etcd35", "go.etcd.io/etcd/server/v3", nil
	case Etcdctl:
		return ".", "go.etcd.io/etcd/etcdctl/v3", nil
	case Etcdutl:
		return ".", "go.etcd.io/etcd/etcdutl/v3", nil
	case Core:
		return "..", "./cmd/core", nil
	case Proxy:
		return "..", "./cmd/proxy", nil
	default:
		return "", "", fmt.Errorf("unknown program %q", string(p))
	}
}

// Bin is a folder of built programs. It lies below the user's cache directory and is shared by every test of this
// checkout: go build leaves a program alone that is up to date, which makes all but the first run cheap. Its methods may
// be called concurrently, and several processes may use the same folder.
type Bin struct {
	dir    string // where the programs are
	module string // loadtest's module

	building sync.Mutex // held while building: go build uses every core by itself

	mu    sync.Mutex // guards built. Who asks for a program that is there does not wait for the building of another one
	built map[Program]bool
}

// OpenBin finds the folder. It must be called with the working directory inside of loadtest's module.
func OpenBin(ctx context.Context) (*Bin, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return nil, fmt.Errorf("find loadtest's go.mod: %w", err)
	}
	module := filepath.Dir(strings.TrimSpace(string(out)))
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, fmt.Errorf("find the cache directory for built programs: %w", err)
	}
	sum := sha256.Sum256([]byte(module))
	dir := filepath.Join(cache, "weir-loadtest", fmt.Sprintf("%x", sum[:6]))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the directory for built programs: %w", err)
	}
	return &Bin{dir: dir, module: module, built: map[Program]bool{}}, nil
}

// Build builds a program, unless this Bin has done so before, and returns its file. Under the race detector weir's
// programs get it too: a race ends them with a status that Stop reports.
func (b *Bin) Build(ctx context.Context, p Program) (path string, err error) {
	path = filepath.Join(b.dir, string(p))
	if b.isBuilt(p) {
		return path, nil
	}
	b.building.Lock()
	defer b.building.Unlock()
	if b.isBuilt(p) {
		return path, nil
	}
	dir, pkg, err := p.source()
	if err != nil {
		return "", err
	}
	// Packages of tests run at the same time; the second to come waits, then finds the work done.
	lock, err := fileutil.LockFile(path+".lock", os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return "", fmt.Errorf("lock %s for building: %w", path, err)
	}
	defer lock.Close()
	args := []string{"build", "-o", path, pkg}
	if underRace && (p == Core || p == Proxy) {
		args = slices.Insert(args, 1, "-race")
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = filepath.Join(b.module, dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", p, err, out)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.built[p] = true
	return path, nil
}

func (b *Bin) isBuilt(p Program) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.built[p]
}
