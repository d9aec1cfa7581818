package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"weir/loadtest/report"
	"weir/loadtest/target"
)

func TestSuiteMeasuresEverythingUnlessToldOtherwise(t *testing.T) {
	o, err := parseBench(nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(o.Systems) != len(suiteSystems()) || len(o.External) != 0 || o.Rounds != 3 || o.out == "" || o.Command != "go run . bench" {
		t.Errorf("options are %+v", o)
	}
	quick, err := parseBench([]string{"-quick", "-turn=2s"})
	if err != nil {
		t.Fatal(err)
	}
	if quick.Rounds != 2 || quick.Turn != 2*time.Second || len(quick.Scenarios) >= len(o.Scenarios) {
		t.Errorf("a quick run is of %d scenarios, and %+v", len(quick.Scenarios), quick)
	}
	named, err := parseBench([]string{"-scenarios", "txn,put", "-systems", "core"})
	if err != nil {
		t.Fatal(err)
	}
	if len(named.Scenarios) != 2 || named.Scenarios[0].Info.Name != "txn" || len(named.Systems) != 1 || named.Systems[0] != target.Core {
		t.Errorf("options are %+v", named)
	}
}

func TestWithATargetNothingIsStarted(t *testing.T) {
	o, err := parseBench([]string{"--target", "https://a:2379,b:2379/", "--user", "me:to:day", "--pid", fmt.Sprintf("%d,%d", os.Getpid(), os.Getppid())})
	if err != nil {
		t.Fatal(err)
	}
	if len(o.Systems) != 0 || len(o.External) != 1 {
		t.Fatalf("options are %+v", o)
	}
	e := o.External[0]
	if strings.Join(e.Endpoints, " ") != "a:2379 b:2379" || e.TLS == nil || e.User != "me" || e.Password != "to:day" || len(e.PIDs) != 2 {
		t.Errorf("the target is %+v", e)
	}
	if strings.Contains(o.Command, "day") || !strings.Contains(o.Command, "--user me:*** --pid") {
		t.Errorf("the command is told as %q", o.Command)
	}
	if o, err = parseBench([]string{"--target=a:2379", "--systems=core", "-user=me:today"}); err != nil || len(o.Systems) != 1 || len(o.External) != 1 {
		t.Errorf("options are %+v, %v", o, err)
	} else if strings.Contains(o.Command, "today") {
		t.Errorf("the command is told as %q", o.Command)
	}
}

func TestBadFlagsAreNamed(t *testing.T) {
	for args, want := range map[string]string{
		"-scenarios=none":                              `no scenario "none"`,
		"-user=me:secret":                              "but not -target",
		"-target=a":                                    "missing port",
		"-target=ftp://a:1":                            "host:port",
		"-target=a:1 -user=me":                         "name:password",
		"-target=a:1 -pid=x":                           `"x" is no process`,
		"-target=a:1 -pid=2147483647":                  "process 2147483647",
		"-target=https://a:1/foo":                      "ends with its port",
		"-target=me@a:1":                               "ends with its port",
		"-target=a:http":                               `"http" is no port`,
		"-systems=cor":                                 `no system "cor", only etcd-3.7, `,
		"-target=a:1 -cacert=/not/here":                "-cacert",
		"-target=https://a:1 -cert=x":                  "-cert and -key",
		"-target=a:1 -key=x":                           "-cert and -key",
		"-target=http://a:1,https://b:1":               "-target http://a:1: it would be asked without TLS",
		"-target=https://a:1,http://b:1":               "-target http://b:1: it would be asked without TLS",
		"-target=http://a:1 -insecure-skip-tls-verify": "without TLS",
		"surprise":                                     `"surprise"`,
	} {
		if _, err := parseBench(strings.Fields(args)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", args, err, want)
		}
	}
}

func TestAPlanThatIsMissingIsInTheReport(t *testing.T) {
	cut, broken := errors.New("cut off"), errors.New("it rained")
	for name, c := range map[string]struct{ before, plan, want error }{
		"the run was cut off": {before: cut, want: cut},
		"it failed":           {plan: broken, want: broken},
		"nothing is wrong":    {},
	} {
		r := &report.Report{}
		err := addScale(r, c.before, func() (*report.Scale, error) { return &report.Scale{Watchers: 5}, c.plan })
		if !errors.Is(err, c.want) {
			t.Errorf("%s: the error is %v, want %v", name, err, c.want)
		}
		if c.want == nil {
			if r.Scale.Failed != "" || r.Scale.Watchers != 5 {
				t.Errorf("%s: the plan is %+v", name, r.Scale)
			}
		} else if !strings.Contains(r.Scale.Failed, c.want.Error()) {
			t.Errorf("%s: the plan is missing because %q", name, r.Scale.Failed)
		}
	}
}

// The whole report of an earlier run stays beside what there is of one that was cut off.
func TestARunThatIsCutOffLeavesTheLastWholeReport(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r := &report.Report{Scenarios: []report.Scenario{{Results: []report.Result{{Turns: []report.Turn{{Round: 1}}}}}}}
	if got := reportName(ctx, r); got != "report" {
		t.Errorf("a whole report is called %s", got)
	}
	if got := reportName(ctx, &report.Report{}); got != "report-failed" {
		t.Errorf("a report of nothing is called %s", got)
	}
	cancel()
	if got := reportName(ctx, r); got != "report-partial" {
		t.Errorf("a report that is not whole is called %s", got)
	}
	dir := t.TempDir()
	for _, name := range []string{"report", "report-partial"} {
		if _, err := writeReport(dir, name, &report.Report{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "report-partial.html")); err != nil {
		t.Fatal(err)
	}
	whole, err := os.Stat(filepath.Join(dir, "report.html"))
	if err != nil {
		t.Fatal(err)
	}
	if err := runReport(t.Context(), []string{filepath.Join(dir, "report-partial.json")}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "report-partial.html")); err != nil {
		t.Error(err)
	}
	if again, err := os.Stat(filepath.Join(dir, "report.html")); err != nil || !os.SameFile(whole, again) {
		t.Errorf("the page of the whole run was made again of the other one's JSON: %v", err)
	}
}

func TestProgressTellsWhatIsLeft(t *testing.T) {
	for _, c := range []struct {
		done int
		want string
	}{{0, "0 of 10 turns: put"}, {4, "4 of 10 turns, 3m0s left: put"}, {10, "10 of 10 turns: put"}} {
		if got := progressLine(c.done, 10, 2*time.Minute, "put"); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestColumnsWithoutANumberAreNotPrinted(t *testing.T) {
	missing := report.Number{Missing: "it was not measured"}.String()
	got := withoutEmpty(report.Table{Words: 1, Head: []string{"put", "puts/s", "MiB"}, Rows: [][]string{{"a", missing, "3"}, {"b", missing, missing}}})
	want := report.Table{Words: 1, Head: []string{"put", "MiB"}, Rows: [][]string{{"a", "3"}, {"b", missing}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("left are %v, want %v", got, want)
	}
}

func TestTheUserMayBeInTheEnvironment(t *testing.T) {
	for name, c := range map[string]struct {
		flag           string
		env            map[string]string
		user, password string
		err            string
	}{
		"nobody":            {env: map[string]string{"ETCDCTL_PASSWORD": "p"}},
		"the flag is first": {flag: "a:b", env: map[string]string{"LOADTEST_USER": "c:d"}, user: "a", password: "b"},
		"our own":           {env: map[string]string{"LOADTEST_USER": "c:d", "ETCDCTL_USER": "e:f"}, user: "c", password: "d"},
		"etcdctl's, one":    {env: map[string]string{"ETCDCTL_USER": "e:f:g"}, user: "e", password: "f:g"},
		"etcdctl's, two":    {env: map[string]string{"ETCDCTL_USER": "e", "ETCDCTL_PASSWORD": "f:g"}, user: "e", password: "f:g"},
		"no password":       {env: map[string]string{"ETCDCTL_USER": "e"}, err: "ETCDCTL_PASSWORD"},
		"no password, ours": {env: map[string]string{"LOADTEST_USER": "e"}, err: "LOADTEST_USER wants name:password"},
	} {
		user, password, err := (&externalFlags{user: c.flag}).login(func(name string) string { return c.env[name] })
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want %s", name, err, c.err)
			}
		} else if err != nil || user != c.user || password != c.password {
			t.Errorf("%s: %q with %q, %v", name, user, password, err)
		}
	}
}

func TestEverySystemThatCanBeStartedIsListed(t *testing.T) {
	var out strings.Builder
	if err := listBench(&out); err != nil {
		t.Fatal(err)
	}
	for _, k := range target.AllKinds() {
		if !strings.Contains(out.String(), string(k)) {
			t.Errorf("%s is not listed", k)
		}
		if k.Member() == "" && k.Proxies() == 0 {
			t.Errorf("%s cannot be started", k)
		}
	}
}

// A run that could not be reported on does not begin.
func TestAFolderForTheReportIsMadeBeforehand(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	if err := prepareReport(dir); err != nil {
		t.Fatal(err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 0 {
		t.Errorf("in the folder are %v, %v", files, err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{file, filepath.Join(file, "below")} {
		if err := runBench(t.Context(), []string{"-out", out}); err == nil || !strings.Contains(err.Error(), "report") {
			t.Errorf("-out %s: %v", out, err)
		}
	}
}

func TestDirectoriesOfOtherRunsAreNamed(t *testing.T) {
	dir := t.TempDir()
	want := filepath.Join(dir, "weir-bench-1")
	for _, d := range []string{want, filepath.Join(dir, "other")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if got := leftovers(dir); len(got) != 1 || got[0] != want {
		t.Errorf("found are %v", got)
	}
}
