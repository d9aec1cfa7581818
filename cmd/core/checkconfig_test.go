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
func checked(dir string, args, environ []string) (lines []string, err error) {
	var out strings.Builder
	err = checkConfig(args, environ, &out)
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.TrimSuffix(strings.ReplaceAll(line, dir+"/", ""), "\n"))
	}
	return lines, err
}

func TestCheckConfigTellsAllMistakesAndStartsNothing(t *testing.T) {
	dir := t.TempDir()
	file := func(text string) string { return writeFile(t, text) }
	for _, c := range []struct {
		args []string
		want []string // parts of what is told, a line each
	}{
		{[]string{"--data-dir=" + dir + "/new"}, []string{"ok"}},
		{[]string{"--data-dir=" + dir + "/new", "--auto-tls", "--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://127.0.0.1:1"}, []string{"ok"}},
		{[]string{"--config-file=" + file("name: a\ndata-dir: "+dir+"/new\ninitial-cluster: b=http://b:1\nauth-token: cookie\nlisten-client-urls: https://127.0.0.1:1\nadvertise-client-urls: https://127.0.0.1:1\n"+
			"client-transport-security:\n  cert-file: none\n  key-file: none\n  client-crl-file: none\nmax-learners: -1\n")},
			[]string{"etcd.conf.yml:10: unknown key client-transport-security.client-crl-file"}},
		{[]string{"--config-file=" + file("name: a\ndata-dir: "+dir+"/new\ninitial-cluster: b=http://b:1\nauth-token: cookie\nlisten-client-urls: https://127.0.0.1:1\nadvertise-client-urls: https://127.0.0.1:1\n"+
			"client-transport-security:\n  cert-file: none\n  key-file: none\n  trusted-ca-file: none\npeer-transport-security: {cert-file: none, key-file: none}\nmax-learners: -1\n")},
			[]string{"warning: certificates are given, and at http://localhost:2380", ":12: --max-learners=-1", ":8: load --cert-file=none and --key-file=none", ":10: load --trusted-ca-file=none", ":11: load --peer-cert-file=none", ":4: --auth-token", ":1: the initial cluster has no member"}},
		{[]string{"--data-dir=" + writeFile(t, "")}, []string{"is not a directory: give one", "data directory"}},
		{[]string{"--data-dir=" + dir + "/new", "--heartbeat-interval=500"}, []string{"error: --election-timeout=1000 must be at least 5 times"}},
		{[]string{"--data-dir=" + dir + "/new", "--listen-client-urls=http://myhost:28092"}, []string{"error: --listen-client-urls has http://myhost:28092, which names a host"}},
		{[]string{"--data-dir=" + dir + "/new", "--log-outputs=/nonexistent/x.log"}, []string{"error: --log-outputs=/nonexistent/x.log: stat /nonexistent: no such file"}},
		{[]string{"--data-dir=" + dir + "/new", "--log-outputs=" + dir}, []string{"is a directory: give a file"}},
		{[]string{"--no-such-flag"}, []string{"unknown flag --no-such-flag"}},
	} {
		got, err := checked(dir, c.args, nil)
		if (err == nil) != slices.Equal(c.want, []string{"ok"}) || !slices.EqualFunc(got, c.want, strings.Contains) {
			t.Errorf("%v: %v\n%s", c.args, err, strings.Join(got, "\n"))
		}
	}
	if _, err := os.Stat(dir + "/new"); err == nil {
		t.Error("there is a data directory now")
	}
}

func TestCheckConfigWarnsOfWhatIsProbablyNotMeant(t *testing.T) {
	dir := t.TempDir()
	open := filepath.Join(dir, "open")
	if err := errors.Join(os.Mkdir(open, 0o700), os.Chmod(open, 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args, environ, want string
	}{
		{args: "--data-dir=" + open, want: "--data-dir=open can be used by others"},
		{args: "--data-dir=d --config-file=" + writeFile(t, "data-dir: "+dir+"/new\n"), want: "--data-dir is not looked at"},
		{args: "--config-file=" + writeFile(t, "data-dir: "+dir+"/new\n"), environ: "ETCD_NAME=x", want: "ETCD_NAME is not looked at"},
		{environ: "ETCD_NAEM=x", want: "environment variable ETCD_NAEM names no flag"},
		{args: "--max-wals=1", want: "--max-wals has no effect"},
		{args: "--quota-backend-bytes=9000000000000000", want: "is more than the memory"},
		{args: "--force-new-cluster", want: "is for one start"},
		{args: "--advertise-client-urls=http://0.0.0.0:1", want: "--advertise-client-urls has http://0.0.0.0:1, which clients cannot use"},
		{args: "--listen-peer-urls=http://0.0.0.0:2380", want: "--listen-peer-urls has http://0.0.0.0:2380 without TLS at an address that other machines reach"},
		{args: "--unsafe-no-fsync", want: "loses what was acknowledged"},
		{args: "--advertise-client-urls=https://a:1", want: "with TLS, and --listen-client-urls has no URL with it"},
		{args: "--peer-auto-tls", want: "certificates are given, and at http://localhost:2380 in --listen-peer-urls they are not used"},
		{args: "--initial-cluster=default=http://a:1", want: "--initial-cluster has http://a:1 for this member, and --initial-advertise-peer-urls has http://localhost:2380"},
	} {
		args := strings.Fields(c.args)
		if !strings.Contains(c.args, "data-dir") && !strings.Contains(c.args, "config-file") {
			args = append(args, "--data-dir="+dir+"/new")
		}
		got, err := checked(dir, args, strings.Fields(c.environ))
		if err != nil || len(got) != 2 || !strings.HasPrefix(got[0], "warning: ") || !strings.Contains(got[0], c.want) || got[1] != "ok" {
			t.Errorf("%s %s: %v\n%s", c.args, c.environ, err, strings.Join(got, "\n"))
		}
	}
}

func TestExampleFileIsRight(t *testing.T) {
	got, err := checked("", []string{"--config-file=../../deploy/config/core.yaml"}, nil)
	got = slices.DeleteFunc(got, func(line string) bool { return strings.Contains(line, "cannot be made in") }) // the directory is root's
	if len(got) > 0 && got[0] != "ok" || len(got) > 1 {
		t.Errorf("%v\n%s", err, strings.Join(got, "\n"))
	}
	o, err := parseOptions([]string{"--config-file=../../deploy/config/core.yaml"}, nil)
	if err != nil || o.core.Name != "m1" || o.core.AutoCompaction.Retention.Hours() != 1 {
		t.Errorf("got %+v, %v", o.core, err)
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
	f, _, _ := newFlags()
	f.VisitAll(func(fl *flag.Flag) {
		if fl.Usage != "" && !strings.Contains(docs.String(), "`--"+fl.Name) {
			t.Errorf("docs/ does not say what --%s is", fl.Name)
		}
	})
}

// FuzzConfigFile: whatever is in the file, a member has all of it, or none and each mistake in one line.
func FuzzConfigFile(f *testing.F) {
	for _, text := range []string{
		etcdsFile, "name: a\nmax-learners: -1", "peer-transport-security: {cert-file: [a]}", "client-transport-security:\n- a", "log-outputs: [stderr, default]",
		"initial-cluster: [a=http://a:1, b=b]", "feature-gates: AllAlpha", "auto-compaction-retention: 5x", "listen-peer-urls: '%'",
	} {
		f.Add(text)
	}
	path := filepath.Join(f.TempDir(), "etcd.conf.yml")
	f.Fuzz(func(t *testing.T, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		o, err := parseOptions([]string{"--config-file=" + path}, nil)
		for _, e := range process.Each(err) {
			if strings.Contains(e.Error(), "\n") {
				t.Errorf("%q: %q", text, e)
			}
		}
		if err == nil && (o.core.Name == "" || o.core.DataDir == "" || len(o.listen.clients) == 0) || err != nil && (o.flags != nil || o.core.Name != "") {
			t.Errorf("%q: %v, %+v", text, err, o)
		}
	})
}
