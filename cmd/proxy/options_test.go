package main

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"weir/cmd/internal/process"
	"weir/cmd/internal/tlsfiles"
)

func TestNothingAtAllMeansAnEmbeddedCore(t *testing.T) {
	cases := []struct {
		name     string
		args     []string
		environ  []string
		embedded bool
		listen   string
		dataDir  string
		err      string
	}{
		{name: "nothing", embedded: true, listen: "127.0.0.1:2379", dataDir: "default.weir"},
		{name: "other variables", environ: []string{"HOME=/", "ETCD_NAME=x", "AWEIR=1"},
			embedded: true, listen: "127.0.0.1:2379", dataDir: "default.weir"},
		{name: "said so", args: []string{"--embedded", "--listen-addr=:1", "--data-dir=d"}, embedded: true, listen: ":1", dataDir: "d"},
		{name: "said so by variable", environ: []string{"WEIR_PROXY_EMBEDDED=true"},
			embedded: true, listen: "127.0.0.1:2379", dataDir: "default.weir"},
		{name: "endpoints", args: []string{"--endpoints", "a:1"}, listen: "127.0.0.1:23790", dataDir: "default.weir"},
		{name: "endpoints by variable", environ: []string{"WEIR_PROXY_ENDPOINTS=a:1"}, listen: "127.0.0.1:23790", dataDir: "default.weir"},
		{name: "another flag", args: []string{"--debug"}, err: "--endpoints is missing"},
		{name: "another variable", environ: []string{"WEIR_PROXY_DEBUG=true"}, err: "--endpoints is missing"},
		{name: "empty variable", environ: []string{"WEIR_PROXY_ENDPOINTS="}, err: "--endpoints is missing"},
		{name: "empty flag", args: []string{"--endpoints="}, err: "--endpoints is missing"},
		{name: "misspelt variable", environ: []string{"WEIR_PROXY_ENDPOINT=a:1"}, err: "WEIR_PROXY_ENDPOINT names no flag"},
		{name: "misspelt flag", args: []string{"--endpoint=a:1"}, err: "unknown flag --endpoint"},
		{name: "variable that is nearly ours", environ: []string{"WEIR_ENDPOINTS=a:1"}, err: "WEIR_ENDPOINTS"},
		{name: "variable without an underscore", environ: []string{"WEIRPROXY_ENDPOINTS=a:1"}, err: "WEIRPROXY_ENDPOINTS"},
		{name: "etcd's words", args: []string{"grpc-proxy", "start"}, err: "--endpoints is missing"},
		{name: "both", args: []string{"--embedded", "--endpoints=a:1"}, err: "exclude each other"},
	}
	for _, c := range cases {
		o, err := parseOptions(c.args, c.environ)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s: got %v, want %s", c.name, err, c.err)
			}
			continue
		}
		if err != nil || o.embedded != c.embedded || o.listenAddr != c.listen || o.dataDir != c.dataDir {
			t.Errorf("%s: got embedded %v, %s, %s, %v", c.name, o.embedded, o.listenAddr, o.dataDir, err)
		}
	}
}

func TestFlagsWin(t *testing.T) {
	o, err := parseOptions(
		[]string{"--endpoints=http://a:1, b:2", "--max-send-bytes=7"},
		[]string{"WEIR_PROXY_MAX_SEND_BYTES=8", "WEIR_PROXY_MAX_RECV_BYTES=9", "WEIR_PROXY_ENDPOINTS=c:3"})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(o.endpoints, []string{"http://a:1", "b:2"}) || o.maxSendBytes != 7 || o.maxRecvBytes != 9 {
		t.Errorf("got %v, %d, %d", o.endpoints, o.maxSendBytes, o.maxRecvBytes)
	}
}

// But for the pings to upstream: etcd sends none by default, and a proxy that hides a dead member from its clients must.
func TestDefaultsAreThoseOfEtcdsProxy(t *testing.T) {
	o, err := parseOptions([]string{"--endpoints=a:1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if o.maxSendBytes != 1572864 || o.maxRecvBytes != math.MaxInt32 || o.maxConcurrentStreams != math.MaxUint32 ||
		o.dialKeepAliveTime != 10*time.Second || o.dialKeepAliveTimeout != 5*time.Second || o.permitWithoutStream ||
		o.keepAliveMinTime != 5*time.Second || o.keepAliveInterval != 2*time.Hour || o.keepAliveTimeout != 20*time.Second ||
		o.progressInterval != 10*time.Minute || o.slowClientTimeout != 0 || o.feeds != nil || o.watchHistoryBytes != 64<<20 ||
		o.cachePrefixes != nil || o.cacheBytes != 256<<20 || o.maxStaleness != 2*time.Second || o.readCheckInterval != 0 || o.maxRangeKeys != 0 || o.maxRangeBytes != 0 ||
		o.upstream != (tlsfiles.Client{}) || o.listen.HasCertificate() || o.listen.AsksClients() || o.metricsURLs != nil || o.enablePprof || o.logLevel != "info" || o.unused != nil {
		t.Errorf("got %+v", o)
	}
}

func TestFeedsAreGivenByFlagsAndByTheVariable(t *testing.T) {
	cases := []struct {
		name    string
		args    []string
		environ []string
		want    []string
	}{
		{name: "none"},
		{name: "one", args: []string{"--feed=/a/"}, want: []string{"/a/"}},
		{name: "several", args: []string{"--feed", "/a/", "--feed=/b/,/c/", "--feed=/a/"}, want: []string{"/a/", "/b/", "/c/"}},
		{name: "every key", args: []string{"--feed="}, want: []string{""}},
		{name: "every key, written out", args: []string{`--feed=""`}, want: []string{""}},
		{name: "every key among others", args: []string{"--feed=/a/", "--feed="}, want: []string{"/a/", ""}},
		{name: "variable", environ: []string{"WEIR_PROXY_FEED=/a/, /b/"}, want: []string{"/a/", "/b/"}},
		{name: "empty variable", environ: []string{"WEIR_PROXY_FEED="}},
		{name: "every key by variable", environ: []string{`WEIR_PROXY_FEED=""`}, want: []string{""}},
		{name: "both", args: []string{"--feed=/a/"}, environ: []string{"WEIR_PROXY_FEED=/b/"}, want: []string{"/a/"}},
	}
	for _, c := range cases {
		o, err := parseOptions(append([]string{"--endpoints=a:1"}, c.args...), c.environ)
		if err != nil || !slices.Equal(o.feeds, c.want) {
			t.Errorf("%s: got %q, %v", c.name, o.feeds, err)
		}
	}
	for _, list := range []string{`"/a/"`, `"/a,b/"`, `/a/,"/b/"`, `/a"`, `"""`} {
		_, err := parseOptions([]string{"--endpoints=a:1", "--feed=" + list}, nil)
		if err == nil || !strings.Contains(err.Error(), "it has a double quote in ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("--feed=%s: got %v", list, err)
		}
	}
	if _, err := parseOptions([]string{"--endpoints=a:1"}, []string{"WEIR_PROXY_FEED=/a/,"}); err == nil || !strings.Contains(err.Error(), "empty element") {
		t.Errorf("empty element in the variable: got %v", err)
	}
}

func TestBoundsOfTheFlagsAreTaken(t *testing.T) {
	for _, args := range [][]string{
		{"--slow-client-timeout=1s"}, {"--slow-client-timeout=0"},
		{"--watch-progress-notify-interval=1ms"}, {"--watch-history-bytes=0"},
		{"--cache-bytes=0"}, {"--max-staleness=0"}, {"--read-check-interval=5ms"}, {"--max-range-keys=1"}, {"--max-range-bytes=1"},
		{"--cache-bytes=0"}, {"--max-staleness=0"}, {"--read-check-interval=5ms"}, {"--max-range-keys=1"}, {"--max-range-bytes=1"},
	} {
		if _, err := parseOptions(append(args, "--endpoints=a:1"), nil); err != nil {
			t.Errorf("%v: got %v", args, err)
		}
	}
}

func TestFlagsThatAreNotThereYetAreRefused(t *testing.T) {
	for _, f := range notThereYet {
		for _, value := range []string{"true", "1h", "some", "2"} {
			_, err := parseOptions([]string{"--endpoints=a:1", "--" + f.name + "=" + value}, nil)
			if err == nil || !strings.Contains(err.Error(), "--"+f.name) || !strings.Contains(err.Error(), "weir does not have --") {
				t.Errorf("--%s=%s: got %v", f.name, value, err)
			}
		}
		if _, err := parseOptions([]string{"--endpoints=a:1", "--" + f.name + "=" + f.nothing}, nil); err != nil {
			t.Errorf("--%s=%s asks for nothing: got %v", f.name, f.nothing, err)
		}
	}
	if _, err := parseOptions([]string{"--endpoints=a:1"}, []string{"WEIR_PROXY_EXPERIMENTAL_LEASING_PREFIX=/x"}); err == nil {
		t.Error("WEIR_PROXY_EXPERIMENTAL_LEASING_PREFIX: no error")
	}
}

func TestFlagsThatDoNothingAreNamed(t *testing.T) {
	o, err := parseOptions([]string{"--endpoints=a:1", "--data-dir=d"}, nil)
	if err != nil || !slices.Equal(o.unused, []string{"data-dir"}) {
		t.Errorf("got %v, %v", o.unused, err)
	}
}

func TestGeneratedCertificateIsInTheDataDirectory(t *testing.T) {
	for want, args := range map[string][]string{
		"default.proxy/fixtures/proxy": {"--endpoints=a:1", "--auto-tls"},
		"d/fixtures/proxy":             {"--endpoints=a:1", "--auto-tls", "--data-dir=d"},
		"default.weir/fixtures/proxy":  {"--embedded", "--auto-tls"},
	} {
		o, err := parseOptions(args, nil)
		if err != nil || o.unused != nil || !o.listen.HasCertificate() || o.listen.SelfSigned.Dir != filepath.FromSlash(want) {
			t.Errorf("%v: got %+v, unused %v, %v", args, o.listen.SelfSigned, o.unused, err)
		}
	}
}

func TestBadValuesAreOneLine(t *testing.T) {
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	garbage := file("garbage.pem", "no certificate")
	named := writePair(t, dir, "root")
	for want, args := range map[string][]string{
		"malformed --listen-addr":         {"--listen-addr=2379"},
		"malformed URL \"9090\"":          {"--metrics-addr=9090"},
		"malformed URL \"ftp://a:1\"":     {"--metrics-addr=http://a:1,ftp://a:1"},
		"in --advertise-client-url":       {"--embedded", "--advertise-client-url=a:1"},
		"--max-send-bytes=0":              {"--max-send-bytes=0"},
		"--max-recv-bytes=-1":             {"--max-recv-bytes=-1"},
		"--max-concurrent-streams=0":      {"--max-concurrent-streams=0"},
		"--watch-history-bytes=-1":        {"--watch-history-bytes=-1"},
		"--slow-client-timeout=-1s":       {"--slow-client-timeout=-1s"},
		"--slow-client-timeout=999ms is ": {"--slow-client-timeout=999ms"},
		"--watch-progress-notify-interva": {"--watch-progress-notify-interval=-1s"},
		"has an empty element":            {"--feed=/a/,,/b/"},
		"as in 5s":                        {"--dial-keepalive-time=5"},
		"without a unit":                  {"--watch-history-bytes=64MB"},
		"unexpected argument \"grpc\"":    {"grpc"},
		"--cert and --key go together":    {"--cert=" + garbage},
		"--cert-file and --key-file go":   {"--key-file=" + garbage},
		"load --cert=" + garbage:          {"--cert=" + garbage, "--key=" + garbage},
		"load --cacert":                   {"--cacert=" + dir + "/none"},
		"has no certificate":              {"--cacert=" + garbage},
		"load --client-crl-file=":         {"--cert-file=" + named.cert, "--key-file=" + named.key, "--trusted-ca-file=" + named.cert, "--client-crl-file=" + garbage},
		"--self-signed-cert-validity=0":   {"--auto-tls", "--self-signed-cert-validity=0"},
		"--trusted-ca-file needs":         {"--trusted-ca-file=" + named.cert},
		"unknown --tls-min-version=TLS1":  {"--tls-min-version=TLS1"},
		"is above --tls-max-version":      {"--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"},
		"unknown cipher suite \"ROT13\"":  {"--listen-cipher-suites=ROT13"},
		"cannot be chosen for TLS1.3":     {"--tls-min-version=TLS1.3", "--listen-cipher-suites=TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"},
		"needs --cert-file and --key-fil": {"--metrics-addr=https://a:1"},
	} {
		if args[0] != "--embedded" {
			args = append(args, "--endpoints=a:1")
		}
		o, err := parseOptions(args, nil)
		if err == nil {
			_, err = o.loadCertificates(tlsfiles.NewSet(quiet(), nil), quiet())
		}
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: got %v, want %s", args, err, want)
		}
	}
}

func TestHelpNamesEveryFlag(t *testing.T) {
	var out strings.Builder
	if err := run([]string{"--help"}, nil, &out); err != nil {
		t.Fatal(err)
	}
	for _, name := range etcdsFlags {
		if !strings.Contains(out.String(), "--"+name+" ") {
			t.Errorf("--%s is not there", name)
		}
	}
}

// etcdsFlags are all that `etcd grpc-proxy start --help` of 3.7.3 names.
var etcdsFlags = strings.Fields(`advertise-client-url auto-tls cacert cert cert-file client-crl-file data-dir debug
	dial-keepalive-time dial-keepalive-timeout discovery-srv discovery-srv-name enable-pprof endpoints
	endpoints-auto-sync-interval experimental-enable-grpc-logging experimental-leasing-prefix
	experimental-serializable-ordering grpc-keepalive-interval grpc-keepalive-min-time grpc-keepalive-timeout
	insecure-discovery insecure-skip-tls-verify key key-file listen-addr listen-cipher-suites max-concurrent-streams
	max-recv-bytes max-send-bytes metrics-addr namespace permit-without-stream resolver-prefix resolver-ttl
	self-signed-cert-validity tls-max-version tls-min-version trusted-ca-file`)

func TestEveryFlagIsInOneGroupOfTheHelp(t *testing.T) {
	o, err := parseOptions([]string{"--endpoints=a:1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if names := o.flags.Ungrouped(); names != nil {
		t.Errorf("not in exactly one group of helpGroups, or no flags: %q", names)
	}
}

func TestAllMistakesAreTold(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.yaml")
	if err := os.WriteFile(file, []byte("cache-bytes: -1\n\nresolver-prefix: p\npassword: s3cret\nlog-level: loud\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := parseOptions([]string{"--config-file=" + file, "--listen-addr=here", "--metrics-addr=there,https://a:1", "--max-staleness=-1s"}, nil)
	var told []string
	for _, e := range process.Each(err) {
		told = append(told, strings.TrimPrefix(e.Error(), file))
	}
	text := strings.Join(told, "\n")
	for _, want := range []string{
		"--endpoints is missing", `--listen-addr "here"`, `"there" in --metrics-addr`, "--metrics-addr=https://a:1 needs", "\n--max-staleness=-1s",
		":1: --cache-bytes=-1", ":3: --resolver-prefix needs a --resolver-ttl", ":3: --resolver-prefix needs --advertise-client-url",
		":4: --password is without --user", `:5: unknown log level "loud"`,
	} {
		if strings.Count(text, want) != 1 {
			t.Errorf("%q is told %d times:\n%s", want, strings.Count(text, want), text)
		}
	}
	if len(told) != 10 || strings.Contains(text, "s3cret") {
		t.Errorf("told are %d mistakes:\n%s", len(told), text)
	}
}

func TestFileCountsLessThanFlagsAndVariables(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("endpoints: [http://a:1, b:2]\nmax-send-bytes: 7\nmax-recv-bytes: 7\ncache-bytes: 7\nfeed: [/a/, /b/]\nuser: u\npassword: 0123\ndial-keepalive-time: 20s\n")
	for _, by := range []struct{ args, environ []string }{
		{args: []string{"--config-file=" + file, "--max-send-bytes=9"}},
		{args: []string{"--max-send-bytes=9"}, environ: []string{"WEIR_PROXY_CONFIG_FILE=" + file}},
	} {
		o, err := parseOptions(by.args, append(by.environ, "WEIR_PROXY_MAX_SEND_BYTES=8", "WEIR_PROXY_MAX_RECV_BYTES=8"))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(o.endpoints, []string{"http://a:1", "b:2"}) || o.maxSendBytes != 9 || o.maxRecvBytes != 8 || o.cacheBytes != 7 ||
			!slices.Equal(o.feeds, []string{"/a/", "/b/"}) || o.clients.user != "u" || o.clients.password != "0123" || o.dialKeepAliveTime != 20*time.Second || o.embedded {
			t.Errorf("got %+v", o)
		}
	}
	write("endpoints: c:3\n")
	if o, err := parseOptions([]string{"--config-file=" + file}, nil); err != nil || !slices.Equal(o.endpoints, []string{"c:3"}) || o.cacheBytes != 256<<20 {
		t.Errorf("changed file: %+v, %v", o, err)
	}
	for text, want := range map[string]string{
		"":                        "--endpoints is missing",
		"endpoints:":              "--endpoints is missing",
		"endpoint: a:1":           file + ":1: unknown key endpoint",
		"config-file: other":      ":1: unknown key config-file",
		"embedded: true\nfeed: 5": "",
		"endpoints: a:1\nexperimental-leasing-prefix: p": ":2: weir does not have experimental-leasing-prefix yet",
	} {
		write(text)
		o, err := parseOptions([]string{"--config-file=" + file}, nil)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || o.embedded || o.endpoints != nil) {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}

func TestDebugInTheFileCountsLessThanALogLevelThatIsNearer(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.yaml")
	if err := os.WriteFile(file, []byte("endpoints: a:1\ndebug: true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args, environ []string
		want          string
	}{
		{nil, nil, "debug"},
		{[]string{"--log-level=warn"}, nil, "warn"},
		{nil, []string{"WEIR_PROXY_LOG_LEVEL=warn"}, "warn"},
		{[]string{"--log-level=warn", "--debug"}, nil, "debug"},
	} {
		if o, err := parseOptions(append([]string{"--config-file=" + file}, c.args...), c.environ); err != nil || o.logLevel != c.want {
			t.Errorf("%v %v: %s, %v, want %s", c.args, c.environ, o.logLevel, err, c.want)
		}
	}
}
