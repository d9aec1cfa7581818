package main

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"weir/cmd/internal/process"
)

// checked is what check-config writes, a line each, without the directory of the test.
func checked(t *testing.T, dir string, args, environ []string) (lines []string, err error) {
	t.Helper()
	var out strings.Builder
	err = run(append([]string{"check-config"}, args...), environ, &out)
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.TrimSuffix(strings.ReplaceAll(line, dir+"/", ""), "\n"))
	}
	return lines, err
}

func TestCheckConfigTellsAllMistakesAndStartsNothing(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	files := writePair(t, dir, "")
	good := write("good.yaml", "endpoints: [https://10.0.0.1:2379]\ncacert: "+files.cert+"\ncert-file: "+files.cert+"\nkey-file: "+files.key+"\nlisten-addr: 127.0.0.1:1\n")
	bad := write("bad.yaml", "endpoints: [https://a:1, 'htp://b:1']\ncacert: "+dir+"/none\nlisten-addr: here\ntenants-file: "+write("tenants", "tenants: 5")+
		"\ncert-file: "+files.cert+"\nkey-file: "+write("garbage", "")+"\npassword: s3cret\n")
	for _, c := range []struct {
		args, environ []string
		want          []string // beginnings
	}{
		{args: []string{"--config-file=" + good}, want: []string{"ok"}},
		{args: []string{"--config-file=" + bad}, want: []string{
			`error: bad.yaml:3: malformed --listen-addr "here"`, "error: bad.yaml:7: --password is without --user", "error: bad.yaml:2: load --cacert=none",
			"error: bad.yaml:5: load --cert-file=cert.pem and --key-file=garbage", `error: endpoint "htp://b:1"`, "error: tenants file tenants:1: ",
		}},
		{args: []string{"--endpoints=a:1", "--config-file=" + write("unread.yaml", "cache-bytes: much\nfed: x\n")}, environ: []string{"WEIR_PROXY_FED=x"},
			want: []string{"error: environment variable WEIR_PROXY_FED", "error: unread.yaml:1: cache-bytes must be", "error: unread.yaml:2: unknown key fed"}},
		{args: []string{"--endpoints=,"}, want: []string{"error: --endpoints is missing"}},
		{args: []string{"--endpoints=a:1", "--listen-addr=:99999", "--metrics-addr=http://127.0.0.1:1,http://127.0.0.1:1"}, want: []string{
			"warning: --listen-addr=:99999 is without TLS", "error: --listen-addr=:99999 has no port", "error: --metrics-addr has 127.0.0.1:1 twice",
		}},
		{args: []string{"--endpoints=127.0.0.1:99999", "--metrics-addr=http://localhost:23790"}, want: []string{
			"error: --metrics-addr=http://localhost:23790 is --listen-addr=127.0.0.1:23790", `error: endpoint "127.0.0.1:99999": there is no port 99999`,
		}},
		{args: []string{"--endpoints=a:1", "--limit-requests=-5"}, want: []string{"error: --limit-requests=-5 is not possible"}},
		{args: []string{"--embedded", "--data-dir=" + filepath.Join(dir, "new")}, want: []string{"ok"}},
		{args: []string{"--embedded", "--data-dir=" + good}, want: []string{"error: --data-dir=good.yaml is not a directory"}},
		{args: []string{"--embedded", "--data-dir=" + good + "/below"}, want: []string{"error: --data-dir=good.yaml/below"}},
		{args: []string{"--endpoints=a:1", "--auto-tls", "--data-dir=" + filepath.Join(dir, "new")}, want: []string{"ok"}},
	} {
		got, err := checked(t, dir, c.args, c.environ)
		if (err == nil) != slices.Equal(c.want, []string{"ok"}) || !slices.EqualFunc(got, c.want, strings.HasPrefix) || strings.Contains(strings.Join(got, ""), "s3cret") {
			t.Errorf("%v: %v\n%s", c.args, err, strings.Join(got, "\n"))
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "new")); err == nil {
		t.Error("there is a data directory now")
	}
}

func TestCheckConfigWarnsOfWhatIsProbablyNotMeant(t *testing.T) {
	dir := t.TempDir()
	files := writePair(t, dir, "") // for 127.0.0.1
	open := filepath.Join(dir, "open")
	if err := errors.Join(os.Mkdir(open, 0o700), os.Chmod(open, 0o755)); err != nil {
		t.Fatal(err)
	}
	tls := " --cert-file=" + files.cert + " --key-file=" + files.key
	for args, want := range map[string]string{
		"--data-dir=d":                                              "--data-dir has no effect with --endpoints",
		"--namespace=/a/ --feed=/b/,/a/c/":                          `--feed=/a/c/ begins with --namespace=/a/, which goes before it anyway: give "c/"`,
		"--namespace=/a/ --cache-prefix=/a/":                        `--cache-prefix=/a/ begins with`,
		"--max-staleness=2m":                                        "--max-staleness=2m0s has",
		"--dial-keepalive-time=1s":                                  "--dial-keepalive-time=1s counts as 10s",
		"--memory-limit=1000":                                       "--memory-limit=1000 is less than",
		"--cache-bytes=9000000000000000":                            "are more than the memory that there is",
		"--endpoints=http://a:1,https://b:1 --cacert=" + files.cert: "--cacert has no effect on http://a:1",
		"--insecure-skip-tls-verify":                                "give --cacert instead",
		"--listen-addr=:7000":                                       "--listen-addr=:7000 is without TLS at an address that other machines reach",
		"--advertise-client-url=http://0.0.0.0:1":                   "--advertise-client-url=http://0.0.0.0:1 is not one that clients can use",
		"--tls-min-version=TLS1.3":                                  "--tls-min-version has no effect",
		"--self-signed-cert-validity=2":                             "--self-signed-cert-validity has no effect",
		"--advertise-client-url=https://a:1":                        "for which the proxy has no certificate",
		"--advertise-client-url=http://127.0.0.1:1" + tls:           "is without TLS, and the proxy takes nothing without",
		"--advertise-client-url=https://a:1" + tls:                  "the certificate is not for a, as which --advertise-client-url",
		"--listen-addr=10.0.0.1:1" + tls:                            "the certificate is not for 10.0.0.1, as which --listen-addr",
		"--client-crl-file=" + files.cert:                           "flags keep nobody out",
		"--embedded --data-dir=" + open:                             "--data-dir=open can be used by others, with mode 0755",
	} {
		list := strings.Fields(args)
		if !strings.Contains(args, "--endpoints") && !strings.Contains(args, "--embedded") {
			list = append(list, "--endpoints=a:1")
		}
		got, err := checked(t, dir, list, nil)
		if err != nil || len(got) != 2 || !strings.HasPrefix(got[0], "warning: ") || !strings.Contains(got[0], want) || got[1] != "ok" {
			t.Errorf("%s: %v\n%s", args, err, strings.Join(got, "\n"))
		}
	}
}

func TestHelpAndVersionOfCheckConfigAreThoseOfTheProxy(t *testing.T) {
	for flag, want := range map[string]string{"--help": "Usage:", "--version": "etcd Version: "} {
		if got, err := checked(t, "", []string{flag}, nil); err != nil || !strings.HasPrefix(got[0], want) {
			t.Errorf("%s: %q, %v", flag, got, err)
		}
	}
}

// FuzzConfigFile: whatever is in the file, the proxy has all of it, or none and each mistake in one line.
func FuzzConfigFile(f *testing.F) {
	for _, text := range []string{
		"endpoints: [a:1]", "embedded: true\nfeed: ['', /a/]", "endpoints: a:1\ncache-bytes: -1\nmetrics-addr: [http://a:1, b]", "user: a:b\npassword: c", "endpoints: a:1\nauto-tls: on\ncert-file: x",
		"namespace: /a/\nlimit-requests: .nan\nendpoints: \"a:1\"", "max-staleness: 5", "resolver-prefix: p\nresolver-ttl: 5\nendpoints: [a:1,]",
	} {
		f.Add(text)
	}
	file := filepath.Join(f.TempDir(), "x.yaml")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		o, err := parseOptions([]string{"--config-file=" + file}, nil)
		for _, e := range process.Each(err) {
			if strings.Contains(e.Error(), "\n") {
				t.Errorf("%q: %q", text, e)
			}
		}
		if err == nil && !o.embedded && o.endpoints == nil && o.discovery.srv == "" || err != nil && (o.flags != nil || o.listenAddr != "" || o.dataDir != "") {
			t.Errorf("%q: %v, %+v", text, err, o)
		}
	})
}

func TestExampleFileIsRight(t *testing.T) {
	if got, err := checked(t, "", []string{"--config-file=../../deploy/config/proxy.yaml"}, nil); err != nil || !slices.Equal(got, []string{"ok"}) {
		t.Errorf("%v\n%s", err, strings.Join(got, "\n"))
	}
}

func TestEveryFlagIsInTheDocuments(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	var docs strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		docs.Write(text)
	}
	o, err := parseOptions([]string{"--endpoints=a:1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	o.flags.VisitAll(func(fl *flag.Flag) {
		if !strings.Contains(docs.String(), "`--"+fl.Name) {
			t.Errorf("docs/ does not say what --%s is", fl.Name)
		}
	})
}

func TestPasswordsInEndpointsAreNotShown(t *testing.T) {
	files := writePair(t, t.TempDir(), "")
	for _, endpoint := range []string{"http://root:s3cret@10.0.0.1:2379", "root:s3cret@10.0.0.1:2379", "https://root:s3@cret@10.0.0.1:2379"} {
		got, err := checked(t, "", []string{"--endpoints=" + endpoint, "--cacert=" + files.cert}, nil)
		if text := strings.Join(got, "\n"); err == nil || strings.Contains(text, "s3") || !strings.Contains(text, "@10.0.0.1:2379") {
			t.Errorf("%s: %v\n%s", endpoint, err, text)
		}
	}
}
