package main

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"weir/cmd/internal/process"
	"weir/cmd/internal/tlsfiles"
)

func TestDefaultsAreEtcds(t *testing.T) {
	o, err := parseOptions(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, a := o.core, o.api
	if c.Name != "default" || c.DataDir != "default.weir" || c.PeerURLs[0] != defaultPeerURL || c.ClientURLs[0] != defaultClientURL ||
		c.ClusterToken != "etcd-cluster" || c.CheckToken || c.JoinExisting || c.SnapshotCount != 10_000 || c.QuotaBytes != 2<<30 ||
		c.BatchInterval != 100*time.Millisecond || c.BatchLimit != 0 || c.CompactionBatch != 1000 || c.CompactionSleep != 10*time.Millisecond ||
		c.MaxRequestBytes != 1572864 || c.HeartbeatInterval != 100*time.Millisecond || c.ElectionTimeout != time.Second || c.LaxReconfigCheck || c.MaxLearners != 1 ||
		c.SnapshotCatchUpEntries != 5000 || c.AutoCompaction.Mode != "" || c.Auth.Token != "simple" || c.Auth.TokenTTL != 5*time.Minute || c.Auth.BcryptCost != 10 {
		t.Errorf("core: %+v", c)
	}
	if a.MaxRequestBytes != 1572864 || a.MaxTxnOps != 128 || a.MaxConcurrentStreams != math.MaxUint32 || a.WatchProgressInterval != 10*time.Minute ||
		a.KeepAliveMinTime != 5*time.Second || a.KeepAliveInterval != 2*time.Hour || a.KeepAliveTimeout != 20*time.Second ||
		!a.Gateway || a.Pprof || a.CORS != nil || !slices.Equal(a.HostWhitelist, []string{"*"}) {
		t.Errorf("api: %+v", a)
	}
	if len(o.listen.clients) != 1 || o.listen.http != nil || o.listen.metrics != nil || o.listen.peers[0].String() != defaultPeerURL || o.tracing != nil || o.extensiveMetrics {
		t.Errorf("got %+v", o)
	}
	if len(o.ineffective) > 0 {
		t.Errorf("nothing was given, and has no effect: %v", o.ineffective)
	}
}

func TestEtcdsUsualCommandLineIsAccepted(t *testing.T) {
	o, err := parseOptions([]string{
		"--name", "m1", "--data-dir=/tmp/x", "--wal-dir=/tmp/w",
		"--listen-client-urls", "http://127.0.0.1:1,unix:///tmp/s", "--advertise-client-urls", "http://b:1,http://a:1,http://b:1",
		"--listen-peer-urls", "http://127.0.0.1:2", "--initial-advertise-peer-urls", "http://127.0.0.1:3,http://127.0.0.1:2",
		"--initial-cluster", "m1=http://127.0.0.1:2,m1=http://127.0.0.1:3", "--initial-cluster-state=new", "--initial-cluster-token=t",
		"--log-level=debug", "--log-outputs=stderr", "--snapshot-count=5", "--quota-backend-bytes=7",
		"--max-txn-ops=9", "--max-request-bytes=11", "--auto-compaction-retention=1", "--auto-compaction-retention=2",
		"--enable-distributed-tracing", "--metrics=extensive", "--max-learners=0", "--strict-reconfig-check=false",
		"--grpc-keepalive-interval=0", "--auth-token=jwt,sign-method=RS256", "--raft-read-timeout=1s", "--max-wals", "7",
	}, []string{"ETCD_ELECTION_TIMEOUT=2000", "ETCD_VERSION=3.7.3"})
	if err != nil {
		t.Fatal(err)
	}
	c := o.core
	if c.Name != "m1" || c.WALDir != "/tmp/w" || len(o.listen.clients) != 2 || !c.CheckToken || c.ElectionTimeout != 2*time.Second || c.AutoCompaction.Retention != 2*time.Hour ||
		strings.Join(c.ClientURLs, " ") != "http://a:1 http://b:1" || c.MaxLearners >= 0 || !c.LaxReconfigCheck || c.Auth.Token != "jwt,sign-method=RS256" {
		t.Errorf("got %+v", c)
	}
	if !o.api.Pprof || o.tracing == nil || !o.extensiveMetrics || o.api.KeepAliveInterval >= 0 {
		t.Errorf("got %+v", o)
	}
	if len(o.ineffective) != 2 || o.ineffective["raft-read-timeout"] == "" || o.ineffective["max-wals"] == "" {
		t.Errorf("without effect: %v", o.ineffective)
	}
}

func TestMistakesAreNamedInOneLine(t *testing.T) {
	for flags, want := range map[string]string{
		"--listen-client-urls=127.0.0.1:2379":                                       "http://host:port",
		"--listen-client-urls=http://elsewhere:2379":                                "give its IP address",
		"--listen-client-urls=http://:2379":                                         "give its IP address",
		"--listen-client-urls=https://127.0.0.1:2379":                               "needs --cert-file and --key-file",
		"--listen-client-urls=unixs://socket":                                       "needs --cert-file and --key-file",
		"--listen-metrics-urls=https://127.0.0.1:2381":                              "needs --cert-file and --key-file",
		"--listen-peer-urls=https://127.0.0.1:2380":                                 "needs --peer-cert-file",
		"--listen-client-urls=http://0.0.0.0:2379":                                  "--advertise-client-urls is required",
		"--listen-client-urls=unix://":                                              "unix://path",
		"--listen-peer-urls=:2380":                                                  "--listen-peer-urls",
		"--listen-client-urls=http://127.0.0.1:99999":                               "of a port that there is not",
		"--listen-client-urls=http://127.0.0.1:2380":                                "--listen-client-urls has 127.0.0.1:2380 and --listen-peer-urls has localhost:2380, which is the same port",
		"--listen-client-http-urls=http://localhost:2379":                           "cannot both have localhost:2379",
		"--listen-metrics-urls=http://localhost:2380":                               "cannot both have localhost:2380",
		"--listen-peer-urls=http://127.0.0.1:1,https://127.0.0.1:1 --peer-auto-tls": "cannot both have 127.0.0.1:1",
		"--advertise-client-urls=http://127.0.0.1:2379/a/path":                      "malformed URL",
		"--advertise-client-urls=http://:2379":                                      "without a host",
		"--initial-advertise-peer-urls=http://:2380":                                "without a host",
		"--initial-cluster=default":                                                 "name=http://host:port",
		"--initial-cluster-state=old":                                               `one of ["new" "existing"]`,
		"--discovery-srv=example.org --initial-cluster=default=http://a:1":          "choose one",
		"--discovery-endpoints=http://a:1":                                          "is not possible",
		"--discovery=https://discovery.etcd.io/x":                                   "is not possible",
		"--discovery-fallback=proxy":                                                `one of ["exit"]`,
		"--name=":                                                                   "--name must not be empty",
		"--max-learners=-1":                                                         "must not be negative",
		"--heartbeat-interval=0":                                                    "must be positive",
		"--election-timeout=400":                                                    "5 times --heartbeat-interval",
		"--election-timeout=50001":                                                  "at most 50000",
		"--watch-progress-notify-interval=-1s":                                      "must not be negative",
		"--backend-batch-interval=-1s":                                              "--backend-batch-interval must not be negative",
		"--compaction-batch-limit=-1":                                               "--compaction-batch-limit must not be negative",
		"--compact-hash-check-time=0":                                               "must be positive",
		"--corrupt-check-time=-1s":                                                  "--corrupt-check-time must not be negative",
		"--auto-compaction-mode=weekly":                                             `one of ["periodic" "revision"]`,
		"--auto-compaction-retention=week":                                          "give hours",
		"--auto-compaction-retention=-1":                                            "give hours",
		"--auto-compaction-retention=9999999":                                       "give hours",
		"--auto-compaction-mode=revision --auto-compaction-retention=5m":            "give a number of revisions",
		"--no-such-flag":                                                            "--no-such-flag",
		"--experimental-max-learners=1":                                             "it is --max-learners",
		"--enable-pprof true":                                                       `unexpected argument "true"`,
		"--max-txn-ops=-1":                                                          "--max-txn-ops",
		"--max-request-bytes=999999999":                                             "at most 536870912",
		"--max-concurrent-streams=4294967296":                                       "at most 4294967295",
		"--auth-token=":                                                             "--auth-token must not be empty",
		"--metrics=more":                                                            `one of ["basic" "extensive"]`,
		"--cors=example.org":                                                        "malformed origin",
		"--feature-gates=NoSuchGate=true":                                           "give name=true or name=false",
		"--feature-gates=AllAlpha":                                                  "give name=true or name=false",
		"--feature-gates=LeaseCheckpointPersist=true":                               "needs LeaseCheckpoint",
		"--logger=capnslog":                                                         "only one value, zap",
		"--enable-log-rotation --log-rotation-config-json={":                        "malformed --log-rotation-config-json",
		"--enable-distributed-tracing --distributed-tracing-sampling-rate=-1":       "give 0 to 1000000",
		"--tls-min-version=TLS1.0":                                                  "use TLS1.2 or TLS1.3",
		"--cipher-suites=ROT13":                                                     `unknown cipher suite "ROT13"`,
		"--backend-bbolt-freelist-type=tree":                                        `one of ["map" "array"]`,
		"--v2-deprecation=not-yet":                                                  "write-only",
		"--config-file=/no/such/file":                                               "read --config-file",
	} {
		_, err := parseOptions(strings.Fields(flags), nil)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want a line with %q", flags, err, want)
		}
	}
}

// etcdsFile is a file as etcd's sample is, in which most keys are empty.
const etcdsFile = `
name: 'm1'
data-dir: /tmp/x
wal-dir:
snapshot-count: 5
heartbeat-interval: 200
election-timeout: 2000
quota-backend-bytes: 7
listen-peer-urls: http://127.0.0.1:2
listen-client-urls: http://127.0.0.1:1
max-snapshots: 5
cors:
initial-advertise-peer-urls: http://127.0.0.1:2
advertise-client-urls: http://127.0.0.1:1
discovery:
discovery-fallback: 'proxy'
initial-cluster: m1=http://127.0.0.1:2
initial-cluster-token: 't'
initial-cluster-state: 'new'
strict-reconfig-check: false
enable-pprof: true
proxy: 'off'
watch-progress-notify-interval: 60000000000
grpc-keepalive-min-time: 7s
auto-compaction-mode: periodic
auto-compaction-retention: "1"
client-transport-security:
  cert-file: a.pem
  key-file: b.pem
  client-cert-auth: true
  trusted-ca-file: c.pem
  allowed-hostname: [x, y]
peer-transport-security:
  cert-file:
  auto-tls: true
  skip-client-san-verification: true
self-signed-cert-validity: 2
log-outputs: [stderr]
cipher-suites: [
  TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
  TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
]
socket-options: {reuse-port: true}
`

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "etcd.conf.yml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEtcdsConfigurationFileIsRead(t *testing.T) {
	path := writeFile(t, etcdsFile)
	for _, by := range []struct{ args, environ []string }{
		{[]string{"--config-file", path, "--name=ignored"}, []string{"ETCD_DATA_DIR=ignored"}},
		{nil, []string{"ETCD_CONFIG_FILE=" + path, "ETCD_DATA_DIR=ignored", "ETCD_MAX_LEARNERS=not looked at", "ETCD_NONSENSE="}},
	} {
		o, err := parseOptions(by.args, by.environ)
		if err != nil {
			t.Fatal(err)
		}
		c := o.core
		if c.Name != "m1" || c.DataDir != "/tmp/x" || c.SnapshotCount != 5 || c.HeartbeatInterval != 200*time.Millisecond || c.AutoCompaction.Retention != time.Hour ||
			!c.LaxReconfigCheck || !c.CheckToken || !c.ClientCertAuth {
			t.Errorf("core: %+v", c)
		}
		if len(o.ignored) == 0 || !slices.Contains(o.ignored, "ETCD_DATA_DIR") || slices.Contains(o.ignored, "ETCD_CONFIG_FILE") || o.unknownVariables != nil {
			t.Errorf("ignored: %q, unknown: %q", o.ignored, o.unknownVariables)
		}
		if !o.api.Pprof || o.api.WatchProgressInterval != time.Minute || o.api.KeepAliveMinTime != 7*time.Second || !o.listen.reusePort {
			t.Errorf("got %+v", o)
		}
		if o.tls.CertFile != "a.pem" || o.tls.TrustedCAFile != "c.pem" || len(o.tls.AllowedHostnames) != 2 || len(o.tls.CipherSuites) != 2 ||
			o.peerTLS.SelfSigned == nil || o.peerTLS.SelfSigned.Years != 2 || o.peerTLS.CheckClientAddress {
			t.Errorf("tls: %+v, peers: %+v", o.tls, o.peerTLS)
		}
	}
}

func TestMistakesInAConfigurationFileAreNamedInOneLine(t *testing.T) {
	for text, want := range map[string]string{
		"data-dri: /tmp/x":                   ":1: unknown key data-dri",
		"version: true":                      ":1: unknown key version",
		"client-transport-security: {ca: x}": ":1: unknown key client-transport-security.ca",
		"client-transport-security: x":       "must have keys below it",
		"snapshot-count: many":               ":1: snapshot-count must be a whole number",
		"a: b: c":                            "is not YAML",
		"- a list":                           ":1: it must be keys with values",
		"discovery-token: t":                 ":1: --discovery-token is not possible",
		"name: a\nmax-learners: -1":          ":2: --max-learners=-1 is not possible",
		"name: a\nname: b":                   ":2: the key name is in line 1 too",
	} {
		_, err := parseOptions([]string{"--config-file=" + writeFile(t, text)}, nil)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: got %v, want a line with %q", text, err, want)
		}
	}
}

func TestFeatureGates(t *testing.T) {
	for gates, want := range map[string]struct {
		rests       bool
		ineffective string
	}{
		"":                             {},
		"StopGRPCServiceOnDefrag=true": {rests: true},
		"AllAlpha=true":                {rests: true},
		"AllAlpha=true,StopGRPCServiceOnDefrag=false": {},
		" PriorityRequest = 1 ,, AllAlpha=f ":         {ineffective: "PriorityRequest: "},
		"LeaseCheckpointPersist=true,AllAlpha=true":   {rests: true, ineffective: "LeaseCheckpointPersist: "},
	} {
		o, err := parseOptions([]string{"--feature-gates=" + gates}, nil)
		if err != nil || o.api.RestToDefragment != want.rests || !strings.HasPrefix(o.ineffective["feature-gates"], want.ineffective) {
			t.Errorf("%q: %v, %v, %v", gates, o.api.RestToDefragment, o.ineffective, err)
		}
		if want.ineffective == "" && o.ineffective["feature-gates"] != "" && gates != "" {
			t.Errorf("%q: %v", gates, o.ineffective)
		}
	}
}

func TestCorruptionChecksAreMadeAsEtcdsFlagsSay(t *testing.T) {
	for flags, want := range map[string]struct {
		initial             bool
		periodic, compacted time.Duration
	}{
		"":                              {},
		"--corrupt-check-time=1h":       {periodic: time.Hour},
		"--compact-hash-check-time=2m":  {},
		"--feature-gates=AllAlpha=true": {initial: true, compacted: time.Minute},
		"--feature-gates=CompactHashCheck=true --compact-hash-check-time=2m": {compacted: 2 * time.Minute},
		"--feature-gates=InitialCorruptCheck=true":                           {initial: true},
	} {
		o, err := parseOptions(strings.Fields(flags), nil)
		c := o.core
		if err != nil || c.InitialCorruptCheck != want.initial || c.CorruptCheckInterval != want.periodic || c.CompactHashCheckInterval != want.compacted {
			t.Errorf("%q: %v, %+v", flags, err, c)
		}
		for flag, why := range o.ineffective {
			if flag != "feature-gates" || strings.Contains(why, "Check") {
				t.Errorf("%q: --%s has no effect: %s", flags, flag, why)
			}
		}
	}
}

func TestHelpHasTheDefaultsThatHoldAndNoLeftovers(t *testing.T) {
	o, err := parseOptions([]string{"--help"}, nil)
	if !errors.Is(err, process.ErrHelp) {
		t.Fatalf("got %v", err)
	}
	var out strings.Builder
	o.usage(&out)
	for flag, byDefault := range map[string]string{"backend-batch-interval": "100ms", "compaction-batch-limit": "1000", "compaction-sleep-interval": "10ms"} {
		if want := "  --" + flag + " '" + byDefault + "'\n"; !strings.Contains(out.String(), want) {
			t.Errorf("the help does not have %q", want)
		}
	}
	for _, flag := range leftovers {
		if strings.Contains(out.String(), "--"+flag+" '") {
			t.Errorf("the help has --%s", flag)
		}
		if o, err := parseOptions([]string{"--" + flag}, nil); err != nil || o.ineffective[flag] == "" {
			t.Errorf("--%s: %v, %v", flag, o.ineffective, err)
		}
	}
}

func TestFeatureMetricIsOfTheGatesAsGiven(t *testing.T) {
	for gates, open := range map[string][]string{
		"":                                   {"FastLeaseKeepAlive", "TxnModeWriteWithSharedBuffer"}, // as at etcd
		"AllBeta=false,LeaseCheckpoint=true": {"LeaseCheckpoint"},
		"AllBeta=false,TxnModeWriteWithSharedBuffer=true": {"TxnModeWriteWithSharedBuffer"},
	} {
		o, err := parseOptions([]string{"--feature-gates=" + gates}, nil)
		if err != nil {
			t.Fatal(err)
		}
		registry := prometheus.NewRegistry()
		registry.MustRegister(featureMetric(o.features))
		families, err := registry.Gather()
		if err != nil || len(families) != 1 || len(families[0].Metric) != len(features) {
			t.Fatalf("got %v, %v", families, err)
		}
		var got []string
		for _, m := range families[0].Metric {
			if m.GetGauge().GetValue() == 1 {
				got = append(got, m.Label[0].GetValue())
			}
		}
		if slices.Sort(got); !slices.Equal(got, open) {
			t.Errorf("%q: open are %v, want %v", gates, got, open)
		}
	}
}

// One warning, however many ports have the certificate.
func TestFlagsThatKeepNobodyOutAreWarnedOfOnce(t *testing.T) {
	dir := t.TempDir()
	o, err := parseOptions([]string{"--data-dir=" + dir, "--auto-tls", "--client-cert-allowed-hostname=a",
		"--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://127.0.0.1:1", "--listen-client-http-urls=https://127.0.0.1:2", "--listen-metrics-urls=https://127.0.0.1:3"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	c, err := loadCertificates(o, tlsfiles.NewSet(slog.New(slog.DiscardHandler), nil), slog.New(slog.NewTextHandler(&out, nil)))
	if err != nil || len(c) != 3 {
		t.Fatalf("got %v, %v", c, err)
	}
	if n := strings.Count(out.String(), "flags keep nobody out"); n != 1 {
		t.Errorf("%d warnings: %s", n, out.String())
	}
}

func TestFlagsOfAClusterReachTheCore(t *testing.T) {
	o, err := parseOptions([]string{
		"--name=m", "--initial-cluster=a=http://a:1,m=http://m:1,m=http://m:2", "--initial-cluster-state=existing", "--initial-advertise-peer-urls=http://other:1",
		"--pre-vote=false", "--initial-election-tick-advance=false", "--force-new-cluster", "--strict-reconfig-check=false", "--max-learners=3",
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := o.core
	if !c.NoPreVote || !c.NoElectionTickAdvance || !c.ForceNewCluster || !c.LaxReconfigCheck || c.MaxLearners != 3 || !c.JoinExisting ||
		fmt.Sprint(c.InitialCluster) != "[{a [http://a:1]} {m [http://m:1 http://m:2]}]" {
		t.Errorf("core: %+v", c)
	}
	if o, err = parseOptions([]string{"--discovery-srv=example.org", "--discovery-srv-name=blue", "--initial-advertise-peer-urls=http://m:1"}, nil); err != nil {
		t.Fatal(err)
	}
	if d := o.discovery; d == nil || d.domain != "example.org" || d.service != "blue" || fmt.Sprint(d.peerURLs) != "[http://m:1]" || len(o.core.InitialCluster) > 0 {
		t.Errorf("discovery: %+v, %v", d, o.core.InitialCluster)
	}
}

func TestEveryFlagIsInOneGroupOfTheHelp(t *testing.T) {
	f, _, _ := newFlags()
	if names := f.Ungrouped(); names != nil {
		t.Errorf("not in exactly one group, or no flags: %q", names)
	}
}

func TestAllMistakesAreTold(t *testing.T) {
	_, err := parseOptions(strings.Fields(`--name= --listen-client-urls=here --max-learners=-1 --heartbeat-interval=0 --corrupt-check-time=-1s
		--listen-peer-urls=https://127.0.0.1:1 --auth-token= --log-level=loud --feature-gates=None=true,Nothing=true --tls-min-version=TLS1 --max-txn-ops=9999999999`), nil)
	var told []string
	for _, e := range process.Each(err) {
		told = append(told, e.Error())
	}
	text := strings.Join(told, "\n")
	for _, want := range []string{
		"--name must", `URL "here"`, "--max-learners=-1", "must be positive", "--corrupt-check-time must", "--peer-cert-file", "--auth-token must",
		`log level "loud"`, `"None=true"`, `"Nothing=true"`, "--tls-min-version=TLS1:", "--max-txn-ops=9999999999",
	} {
		if strings.Count(text, want) != 1 {
			t.Errorf("%q is told %d times:\n%s", want, strings.Count(text, want), text)
		}
	}
	if len(told) != 12 {
		t.Errorf("told are %d mistakes:\n%s", len(told), text)
	}
}
