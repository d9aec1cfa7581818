package e2e

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/loadtest/proc"
	"weir/loadtest/target"
)

// members are the programs that run a member of a cluster, etcd's own first: what it does is right.
var members = []proc.Program{proc.Etcd37, proc.Core}

func build(t *testing.T, p proc.Program) string {
	t.Helper()
	path, err := bin.Build(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// output runs a program to its end, in a directory of its own, and returns what it printed.
func output(t *testing.T, p proc.Program, args ...string) (text string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, build(t, p), args...)
	cmd.Dir, cmd.Env = t.TempDir(), []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
	out, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if ctx.Err() != nil {
		t.Fatalf("%s %q did not end\n%s", p, args, out)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// flagsOf returns the default of each flag in the help of a program, as far as it is printed.
func flagsOf(t *testing.T, p proc.Program) map[string]string {
	t.Helper()
	text, status := output(t, p, "--help")
	if status != 0 {
		t.Fatalf("%s --help: status %d\n%s", p, status, text)
	}
	flags := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^  --([a-z0-9-]+)(?: '(.*)'| (\S+))?$`).FindAllStringSubmatch(text, -1) {
		flags[m[1]] = m[2] + m[3]
	}
	return flags
}

// otherDefaults are flags whose default is printed in another way, or is another.
var otherDefaults = map[string]string{
	"data-dir":               "the directory is not etcd's",
	"initial-cluster":        "made of the member's own name and URLs",
	"advertise-client-urls":  "what the member listens on; etcd demands the flag when that is not the default",
	"max-concurrent-streams": "etcd prints a name for the number",
	"backend-batch-interval": "etcd prints nothing for 0s",
}

func TestEveryFlagOfEtcdIsThereWithItsDefault(t *testing.T) {
	etcd, core := flagsOf(t, proc.Etcd37), flagsOf(t, proc.Core)
	if len(etcd) < 100 {
		t.Fatalf("found only %d flags in the help of etcd", len(etcd))
	}
	for _, name := range slices.Sorted(maps.Keys(etcd)) {
		if name == "version" || name == "help" {
			continue
		}
		got, ok := core[name]
		if !ok {
			t.Errorf("--%s is missing", name)
			continue
		}
		want := etcd[name]
		d, _ := time.ParseDuration(want)
		if _, differs := otherDefaults[name]; got != want && got != d.String() && want != "" && !differs {
			t.Errorf("--%s is %q by default, and %q at etcd", name, got, want)
		}
	}
}

func TestVersionIsPrintedAsEtcdDoes(t *testing.T) {
	shape := regexp.MustCompile(`^etcd Version: 3\.7\.\d+\nGit SHA: .+\nGo Version: go\S+\nGo OS/Arch: \S+/\S+\n`)
	for _, p := range members {
		if text, status := output(t, p, "--version"); status != 0 || !shape.MatchString(text) {
			t.Errorf("%s: status %d\n%s", p, status, text)
		}
	}
}

// What etcd does not start with, weir does not start with either, and says so in one line.
func TestWhatEtcdRefusesIsRefused(t *testing.T) {
	for _, args := range [][]string{
		{"--no-such-flag"},
		{"argument"},
		{"--enable-pprof", "true"},
		{"--enable-pprof=maybe"},
		{"--snapshot-count=many"},
		{"--snapshot-count=-1"},
		{"--max-txn-ops=-1"},
		{"--max-wals=x"},
		{"--max-concurrent-streams=4294967296"},
		{"--grpc-keepalive-min-time=5"},
		{"--listen-client-urls=localhost:2379"},
		{"--listen-client-urls=http://localhost"},
		{"--listen-client-urls=http://example.org:2379"},
		{"--listen-client-urls=http://127.0.0.1:2379/"},
		{"--listen-client-urls=tcp://127.0.0.1:2379"},
		{"--listen-client-urls=https://127.0.0.1:2379", "--advertise-client-urls=https://127.0.0.1:2379"},
		{"--listen-client-urls=http://127.0.0.1:9999", "--listen-client-http-urls=http://127.0.0.1:9999"},
		{"--listen-metrics-urls=http://example.org:2381"},
		{"--listen-peer-urls=http://:2380"},
		{"--advertise-client-urls=http://:2379"},
		{"--initial-advertise-peer-urls=http://:2380"},
		{"--initial-cluster=other=http://localhost:2380"},
		{"--initial-cluster=default=http://localhost:2381"},
		{"--initial-cluster=default"},
		{"--initial-cluster-state=old"},
		{"--discovery=https://discovery.etcd.io/x"},
		{"--discovery-token=t"},
		{"--discovery-fallback=proxy"},
		{"--heartbeat-interval=0"},
		{"--election-timeout=0"},
		{"--election-timeout=499"},
		{"--election-timeout=50001"},
		{"--auto-compaction-mode=weekly"},
		{"--auto-compaction-retention=week"},
		{"--compact-hash-check-time=0s"},
		{"--auth-token=jwt"},
		{"--auth-token=other"},
		{"--v2-deprecation=not-yet"},
		{"--feature-gates=NoSuchGate=true"},
		{"--feature-gates=AllAlpha"},
		{"--feature-gates=LeaseCheckpointPersist=true"},
		{"--experimental-max-learners=1"},
		{"--logger=capnslog"},
		{"--log-format=xml"},
		{"--log-level=loud"},
		{"--log-outputs=default,stdout"},
		{"--enable-log-rotation"},
		{"--log-outputs=stderr", "--enable-log-rotation"},
		{"--log-outputs=a,b", "--enable-log-rotation"},
		{"--log-outputs=a", "--enable-log-rotation", "--log-rotation-config-json={"},
		{"--enable-distributed-tracing", "--distributed-tracing-sampling-rate=-1"},
		{"--enable-distributed-tracing", "--distributed-tracing-sampling-rate=1000001"},
		{"--tls-min-version=TLS1.0"},
		{"--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"},
		{"--tls-min-version=TLS1.3", "--cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"},
		{"--cipher-suites=ROT13"},
		{"--config-file=/no/such/file"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			t.Parallel()
			for _, p := range members {
				text, status := output(t, p, slices.Concat(ownPorts(t), args)...)
				if status == 0 {
					t.Errorf("%s started\n%s", p, text)
				}
				lines := strings.Split(strings.TrimSpace(text), "\n")
				if p == proc.Core && (status != 1 || !strings.HasPrefix(lines[len(lines)-1], "core: ")) {
					t.Errorf("status %d, and the last line does not say why:\n%s", status, text)
				}
			}
		})
	}
}

// ownPorts are flags by which a member gets ports of its own; those that come after them win.
func ownPorts(t *testing.T) []string {
	t.Helper()
	client, peer := freeAddr(t), freeAddr(t)
	return []string{"--listen-client-urls=http://" + client, "--advertise-client-urls=http://" + client, "--listen-peer-urls=http://" + peer}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	addr, err := proc.FreeAddr()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// startMember starts a program with the usual flags of a member and more, and waits until it says that it is ready. It is
// stopped at the end of the test.
func startMember(t *testing.T, p proc.Program, more, environ []string) (m *proc.Process, client, peer string) {
	t.Helper()
	client, peer = freeAddr(t), freeAddr(t)
	m, err := proc.Start(string(p), build(t, p), append(target.MemberArgs("m1", filepath.Join(t.TempDir(), "data"), client, peer), more...), environ)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		select {
		case <-m.Exited():
			return
		default:
		}
		if err := m.Stop(); err != nil {
			t.Error(err)
		}
	})
	waitReady(t, m, "")
	return m, client, peer
}

// waitReady waits until a member says that it is ready, in what it has logged since before.
func waitReady(t *testing.T, m *proc.Process, before string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := m.WaitReady(ctx, func(context.Context) error {
		if strings.Contains(strings.TrimPrefix(m.Log(), before), "ready to serve client requests") {
			return nil
		}
		return errors.New("it has not said that it is ready")
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Command lines of etcd that start it start weir too, whatever they ask for that weir has no use for.
func TestWhatEtcdAcceptsIsAccepted(t *testing.T) {
	for name, c := range map[string]struct{ args, environ []string }{
		"flags without effect": {args: []string{
			"--initial-election-tick-advance=false", "--pre-vote=false", "--max-snapshots=1", "--max-wals", "1", "--backend-bbolt-freelist-type=array",
			"--raft-read-timeout=10s", "--raft-write-timeout=10s", "--socket-reuse-address", "--socket-reuse-port", "--v2-deprecation=gone",
			"--discovery-dial-timeout=1s", "--discovery-request-timeout=1s", "--discovery-keepalive-time=1s", "--discovery-keepalive-timeout=1s",
			"--discovery-insecure-transport", "--discovery-insecure-skip-tls-verify=false", "--discovery-cert=", "--discovery-srv-name=",
			"--discovery-fallback=exit", "--corrupt-check-time=1h", "--compact-hash-check-time=1h", "--downgrade-check-time=1s",
			"--feature-gates=AllAlpha=true,LeaseCheckpoint=true",
			"--feature-gates=InitialCorruptCheck=true,StopGRPCServiceOnDefrag=false", "--snapshot", "--force-new-cluster",
		}},
		"flags with one": {args: []string{
			"--snapshot-count=100", "--heartbeat-interval=50", "--election-timeout", "500", "--quota-backend-bytes=100000000", "--backend-batch-interval=10ms",
			"--backend-batch-limit=100", "--max-txn-ops=10", "--max-request-bytes=100000", "--max-concurrent-streams=0x10", "--grpc-keepalive-min-time=1s",
			"--grpc-keepalive-interval=0", "--grpc-keepalive-timeout=0", "--enable-grpc-gateway=false", "--initial-cluster-state=new", "--initial-cluster-token=t",
			"--strict-reconfig-check=false", "--auto-compaction-retention=1", "--auto-compaction-mode=revision", "--auto-compaction-retention=1000",
			"--cors=*", "--host-whitelist=localhost,127.0.0.1", "--bcrypt-cost=4", "--auth-token-ttl=10", "--auth-token=simple", "--enable-pprof", "--metrics=extensive",
			"--compaction-batch-limit=10", "--watch-progress-notify-interval=1s", "--warning-apply-duration=1s", "--max-learners=0", "--max-learners=2",
			"--compaction-sleep-interval=1ms", "--snapshot-catchup-entries=10", "--bootstrap-defrag-threshold-megabytes=1", "--warning-unary-request-duration=1s", "--unsafe-no-fsync", "--tls-min-version=TLS1.3", "--tls-max-version=TLS1.3",
			"--enable-distributed-tracing", "--distributed-tracing-address=127.0.0.1:1", "--distributed-tracing-service-name=s",
			"--distributed-tracing-instance-id=i", "--distributed-tracing-sampling-rate=1000000",
			"--self-signed-cert-validity=2", "--listen-metrics-urls=", "--listen-client-http-urls=",
		}},
		"variables": {environ: []string{
			"ETCD_SNAPSHOT_COUNT=100", "ETCD_ENABLE_PPROF=true", "ETCD_AUTO_COMPACTION_RETENTION=1h", "ETCD_UNSAFE_NO_FSYNC=1", "ETCD_VERSION=3.7",
			"ETCD_LOG_FORMAT=console", "ETCD_QUOTA_BACKEND_BYTES=", "ETCD_UNSUPPORTED_ARCH=arm64", "ETCD_PORT=tcp://10.0.0.1:2379",
		}},
		"certificates without a port for them": {args: []string{"--cert-file=/no/such/file", "--key-file=/no/such/file"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, p := range members {
				startMember(t, p, c.args, c.environ)
			}
		})
	}
}

// The same file configures both. What is beside it counts for nothing.
func TestEtcdsConfigurationFileConfiguresWeir(t *testing.T) {
	for _, p := range members {
		t.Run(string(p), func(t *testing.T) {
			t.Parallel()
			client, peer := freeAddr(t), freeAddr(t)
			dir := t.TempDir()
			var file bytes.Buffer
			for _, line := range []string{
				"name: file", "data-dir: " + filepath.Join(dir, "data"), "listen-client-urls: http://" + client, "advertise-client-urls: http://" + client,
				"listen-peer-urls: http://" + peer, "initial-advertise-peer-urls: http://" + peer, "initial-cluster: file=http://" + peer,
				"watch-progress-notify-interval: 60000000000", "max-wals: 5", "wal-dir:", "proxy: 'off'", "enable-pprof: true", "log-outputs: [stderr]",
				"cipher-suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256]", "peer-transport-security: {cert-file: , client-cert-auth: false}",
			} {
				file.WriteString(line + "\n")
			}
			path := filepath.Join(dir, "etcd.conf.yml")
			if err := os.WriteFile(path, file.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			m, err := proc.Start(string(p), build(t, p), []string{"--config-file=" + path, "--name=ignored"}, []string{"ETCD_DATA_DIR=/no/such", "ETCD_MAX_LEARNERS=many"})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := m.Stop(); err != nil {
					t.Error(err)
				}
			})
			waitReady(t, m, "")
			if !strings.Contains(m.Log(), "loaded server configuration, other configuration command line flags and environment variables will be ignored") {
				t.Errorf("it does not say that flags are ignored:\n%s", m.Log())
			}
			if got := get(t, httpClient(t, false), "http://"+peer+"/members"); !strings.Contains(got.body, `"name":"file"`) {
				t.Errorf("got %+v", got)
			}
			if got := get(t, httpClient(t, false), "http://"+client+"/debug/pprof/cmdline"); got.status != 200 {
				t.Errorf("enable-pprof: got %+v", got)
			}
		})
	}
}
