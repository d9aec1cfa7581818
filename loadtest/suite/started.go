package suite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"weir/loadtest/client"
	"weir/loadtest/proc"
	"weir/loadtest/report"
	"weir/loadtest/target"
)

// startedHost starts a System anew for each scenario, as processes of its own.
type startedHost struct {
	bin  *proc.Bin
	kind target.Kind
	dir  string // for its data
}

// newStarted builds what has to be started, so that the building takes no time from anything.
func newStarted(ctx context.Context, bin *proc.Bin, kind target.Kind, dir string) (*startedHost, error) {
	if kind.Member() == "" && kind.Proxies() == 0 {
		return nil, fmt.Errorf("there is no system %q", kind)
	}
	if bin == nil {
		return nil, fmt.Errorf("nothing to build %s with", kind)
	}
	if err := target.Build(ctx, bin, kind); err != nil {
		return nil, err
	}
	return &startedHost{bin: bin, kind: kind, dir: filepath.Join(dir, string(kind))}, nil
}

func (h *startedHost) describe(ctx context.Context) report.System {
	s := report.System{Name: string(h.kind), Base: isEtcd(h.kind), Optional: h.kind == target.GRPCProxyEtcd37}
	if n := h.kind.Members() + h.kind.Proxies(); n > 1 {
		s.Caveat = fmt.Sprintf("%d servers, whose processor time and memory are added up. They share the processors of a machine that a "+
			"single server has to itself.", n)
	}
	var programs []proc.Program
	if m := h.kind.Member(); m != "" {
		programs = append(programs, m)
	}
	switch {
	case h.kind == target.GRPCProxyEtcd37:
		programs = append(programs, grpcProxy)
	case h.kind.Proxies() > 0:
		programs = append(programs, proc.Proxy)
	}
	for _, p := range programs {
		s.Programs = append(s.Programs, h.version(ctx, p))
	}
	return s
}

// grpcProxy is etcd's program, as its proxy.
const grpcProxy proc.Program = "etcd grpc-proxy"

// programName is how the report calls a program.
func programName(p proc.Program) string {
	switch p {
	case proc.Core:
		return "weir core"
	case proc.Proxy:
		return "weir proxy"
	case grpcProxy:
		return string(grpcProxy)
	default:
		return "etcd"
	}
}

// version is a program's name, with what it says of its version.
func (h *startedHost) version(ctx context.Context, p proc.Program) string {
	name, built := programName(p), p
	if p == grpcProxy {
		built = proc.Etcd37
	}
	path, err := h.bin.Build(ctx, built)
	if err != nil {
		return name + ", version unknown: " + err.Error()
	}
	out, err := exec.CommandContext(ctx, path, "--version").Output()
	if err != nil {
		return name + ", version unknown: " + err.Error()
	}
	version := versionIn(string(out))
	if !strings.Contains(version, "(") && (p == proc.Core || p == proc.Proxy) {
		version += checkout(ctx)
	}
	return name + " " + version
}

// checkout is the commit that weir is built from, in parentheses, if the working directory is in a clone: "-dirty" is what differs
// from the commit.
func checkout(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty", fmt.Sprintf("--abbrev=%d", shortCommit)).Output()
	if err != nil {
		return ""
	}
	return " (" + strings.TrimSpace(string(out)) + ")"
}

// versionIn is the version in what etcd's and weir's --version print, with the commit if it is there.
func versionIn(out string) string {
	said := map[string]string{}
	for line := range strings.Lines(out) {
		what, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		said[what] = value
	}
	version := said["etcd Version"]
	for _, own := range []string{"weir core Version", "weir proxy Version"} {
		if v := said[own]; v != "" {
			version = v
		}
	}
	if commit := said["Git SHA"]; len(commit) >= shortCommit && !strings.Contains(commit, " ") {
		version += " (" + commit[:shortCommit] + ")"
	}
	return version
}

// shortCommit is how much of a commit's name is shown.
const shortCommit = 9

func (h *startedHost) start(ctx context.Context, s Scenario) (*System, error) {
	if err := os.RemoveAll(h.dir); err != nil {
		return nil, fmt.Errorf("take away data of another scenario: %w", err)
	}
	o := target.Options{MemberArgs: s.MemberArgs}
	if hasWeirProxy(h.kind) {
		o.ProxyArgs = s.ProxyArgs
	}
	if s.TLS {
		var err error
		if o.TLS, err = h.tls(); err != nil {
			return nil, err
		}
	}
	tg, err := target.StartWith(ctx, h.bin, h.kind, h.dir, o)
	if err != nil {
		return nil, err
	}
	system := &System{Name: string(h.kind), Client: client.Config{TLS: tg.ClientTLS()}, plainStore: h.kind.Proxies() > 0}
	all := tg.Servers()
	stores := all[:max(1, h.kind.Members())]
	entries := all[len(all)-1:]
	if h.kind.Proxies() == 0 {
		entries = stores
	}
	for _, e := range entries {
		system.Endpoints = append(system.Endpoints, e.Addr)
	}
	for _, m := range stores {
		system.Store = append(system.Store, m.Addr)
	}
	system.servers = &startedServers{target: tg, dir: h.dir}
	return system, nil
}

// end has nothing to say: nothing is left of what was started.
func (h *startedHost) end(context.Context) (string, error) { return "", nil }

// tls makes certificates, beside the data.
func (h *startedHost) tls() (*target.TLS, error) {
	dir := h.dir + "-tls"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make a directory for certificates: %w", err)
	}
	return target.NewTLS(dir)
}

// startedServers are those of a System that was started.
type startedServers struct {
	target *target.Target
	dir    string
}

func (s *startedServers) processes() []process {
	var all []process
	count := map[string]int{}
	for i, server := range s.target.Servers() {
		name, role := "proxy", roleProxy
		switch {
		case i < s.target.Kind.Members():
			name, role = "etcd", roleStore
			if s.target.Kind.Member() == proc.Core {
				name = "core"
			}
		case s.target.Kind == target.GRPCProxyEtcd37:
			name = "grpc-proxy"
		}
		count[name]++
		all = append(all, process{name: name + "-" + strconv.Itoa(count[name]), role: role, cpu: server.CPU, memory: server.Memory})
	}
	return all
}

// requests are counted by etcd and weir's core alike. Those within a stream are counted one by one.
func (s *startedServers) requests(ctx context.Context) (map[string]float64, error) {
	if s.target.Kind.Members() == 0 {
		return nil, nil // it is within the proxy, which counts its clients' requests
	}
	all := map[string]float64{}
	for _, server := range s.target.Servers()[:s.target.Kind.Members()] {
		text, err := server.Get(ctx, "/metrics")
		if err != nil {
			return nil, err
		}
		if err := addRequests(all, text); err != nil {
			return nil, fmt.Errorf("requests to %s: %w", server.Name(), err)
		}
	}
	return all, nil
}

// addRequests adds what a server's metrics say of the requests of etcd's API.
func addRequests(all map[string]float64, metrics string) error {
	found := false
	for line := range strings.Lines(metrics) {
		labels, ok := strings.CutPrefix(line, "grpc_server_msg_received_total{")
		if !ok || !strings.Contains(labels, `grpc_service="etcdserverpb.`) {
			continue
		}
		_, method, _ := strings.Cut(labels, `grpc_method="`)
		method, _, _ = strings.Cut(method, `"`)
		n, err := strconv.ParseFloat(strings.TrimSpace(labels[strings.LastIndexByte(labels, ' ')+1:]), 64)
		if err != nil {
			return fmt.Errorf("metric %q: %w", strings.TrimSpace(line), err)
		}
		all[method] += n
		found = true
	}
	if !found {
		return errors.New("there is no counter of them")
	}
	return nil
}

func (s *startedServers) alive() error {
	for _, p := range s.target.Processes() {
		select {
		case <-p.Exited():
			how := p.ExitError()
			if how == nil {
				how = errors.New("exit status 0")
			}
			return fmt.Errorf("%s has ended: %w; its last lines:\n%s", p.Name(), how, lastLines(p.Log()))
		default:
		}
	}
	return nil
}

// lastLines are those of a log.
func lastLines(log string) string {
	const lines = 10
	all := strings.Split(strings.TrimSpace(log), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func (s *startedServers) renew(context.Context, *System) error { return nil }

// clear ends the processes, and removes their data. How they end is of no interest if the run was cut off: an interrupt from a
// terminal is for them too.
func (s *startedServers) clear(ctx context.Context, _ *System) error {
	err := s.target.Close()
	if ctx.Err() != nil {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(s.dir))
}
