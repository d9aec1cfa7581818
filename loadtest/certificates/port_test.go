package certificates

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/loadtest/proc"
	"weir/loadtest/target"
	"weir/loadtest/target/targettest"
)

// bin is set by TestMain.
var bin *proc.Bin

func TestMain(m *testing.M) { targettest.Main(m, &bin) }

// program is what serves a port.
type program string

const (
	etcd      program = "etcd"
	core      program = "core"
	grpcProxy program = "grpc-proxy" // etcd's
	proxy     program = "proxy"
)

// oracle says what each of weir's programs is compared with.
var oracle = map[program]program{core: etcd, proxy: grpcProxy}

// port is a process that serves, or has ended because it would not.
type port struct {
	*proc.Process
	program program
	addr    string // of clients
	metrics string // for whatever flag names it
	peers   string // likewise, of a member
	dir     string // what %DIR% stands for
	starts  int    // of the process
	refused bool   // it has ended
}

// startPort starts a program whose clients' URL has the scheme, and waits until it serves or has ended. Only proxies have
// an upstream. In flags %METRICS% and %PEERS% stand for addresses, and %DIR% for a directory of its own.
func startPort(t *testing.T, p program, scheme, upstream string, flags ...string) *port {
	t.Helper()
	addr, metrics, peers := newAddr(t), newAddr(t), newAddr(t)
	dir := t.TempDir()
	built := map[program]proc.Program{etcd: proc.Etcd37, core: proc.Core, grpcProxy: proc.Etcd37, proxy: proc.Proxy}[p]
	path, err := bin.Build(t.Context(), built)
	must(t, err)
	var args []string
	switch p {
	case etcd, core:
		args = slices.DeleteFunc(target.MemberArgs("m", dir+"/data", addr, peers), func(a string) bool { return strings.Contains(a, "client-urls=") })
		args = append(args, "--listen-client-urls="+scheme+"://"+addr, "--advertise-client-urls="+scheme+"://"+addr)
	case grpcProxy:
		args = []string{"grpc-proxy", "start", "--endpoints=" + upstream, "--listen-addr=" + addr, "--advertise-client-url=", "--data-dir=" + dir}
	case proxy:
		args = []string{"--endpoints=" + upstream, "--listen-addr=" + addr, "--data-dir=" + dir}
	}
	for _, f := range flags {
		args = append(args, strings.NewReplacer("%METRICS%", metrics, "%PEERS%", peers, "%DIR%", dir).Replace(f))
	}
	process, err := proc.Start(string(p), path, args, nil)
	must(t, err)
	out := &port{Process: process, program: p, addr: addr, metrics: metrics, peers: peers, dir: dir}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s %q:\n%s", p, args, process.Log())
		}
		if !out.refused {
			if err := process.Stop(); err != nil {
				t.Error(err)
			}
		}
	})
	out.wait(t)
	return out
}

// wait waits until the process, which has just been started, serves or has ended.
func (p *port) wait(t *testing.T) {
	t.Helper()
	p.starts++
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := p.WaitReady(ctx, func(context.Context) error {
		// The log has to tell: whom a port lets in is what is tested.
		for _, line := range []string{"serving client traffic", "started gRPC proxy"} {
			if strings.Count(p.Log(), line) >= p.starts {
				return nil
			}
		}
		return errors.New("nothing in the log")
	})
	select {
	case <-p.Exited():
		p.refused = true
	default:
		must(t, err)
	}
}

func newAddr(t *testing.T) string {
	t.Helper()
	addr, err := proc.FreeAddr()
	must(t, err)
	return addr
}

// startBoth starts one of weir's programs and its oracle at the same time.
func startBoth(t *testing.T, p program, scheme, upstream string, flags ...string) (weirs, etcds *port) {
	t.Helper()
	return startPort(t, p, scheme, upstream, flags...), startPort(t, oracle[p], scheme, upstream, flags...)
}

// startUpstream starts an etcd for proxies to stand before.
func startUpstream(t *testing.T) string {
	t.Helper()
	p := startPort(t, etcd, "http", "")
	if p.refused {
		t.Fatal("it did not start")
	}
	return p.addr
}

func (p *port) String() string { return fmt.Sprintf("%s at %s", p.program, p.addr) }
