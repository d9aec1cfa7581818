package main

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"weir/loadtest/report"
)

func TestReportIsMadeAgainFromItsJSON(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	r := &report.Report{Started: time.Unix(1e9, 0).UTC(), Systems: []report.System{{Name: "core"}}, Scenarios: []report.Scenario{{
		Name: "put", Unit: "put", Results: []report.Result{{System: "core", Failed: []report.Failure{{Round: 1, Reason: "it rained"}}}}}}}
	files, err := writeReport(dir, "report", r)
	if err != nil || len(files) != 3 {
		t.Fatalf("%v, %v", files, err)
	}
	again := filepath.Join(dir, "again.html")
	if err := runReport(t.Context(), []string{files[0], "-html", again, "-markdown", ""}); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(files[1])
	if err != nil {
		t.Fatal(err)
	}
	second, err := os.ReadFile(again)
	if err != nil {
		t.Fatal(err)
	}
	if string(first) != string(second) || !strings.Contains(string(first), "it rained") {
		t.Error("the page made again is another, or does not name the failure")
	}
	if err := runReport(t.Context(), []string{again}); err == nil {
		t.Error("a page is no report's JSON, and that is no error")
	}
}

// What a deeper bench prints, and what it could not measure, is in the report that it is added to.
func TestAReportTakesTheTablesOfDeeperBenches(t *testing.T) {
	dir := t.TempDir()
	files, err := writeReport(dir, "report", &report.Report{Started: time.Unix(1e9, 0).UTC()})
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"report", files[0]}
	for _, name := range []string{"watch", "leases"} {
		f := flag.NewFlagSet(name, flag.ContinueOnError)
		given := []string{"-json", filepath.Join(dir, name+".json")}
		d := newDeeper("bench "+name, given, f, "Of "+name, "What it is.")
		if err := f.Parse(given); err != nil {
			t.Fatal(err)
		}
		var printed strings.Builder
		d.out = &printed
		if err := d.add(table{{"scenario", "target", "µs"}, {"one", "core", "5.1"}}, table{{"nothing", "here"}}); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(printed.String(), "| one      | core   | 5.1 |") {
			t.Errorf("was printed: %s", printed.String())
		}
		d.failed("one", "etcd", []error{errors.New("it rained")})
		if err := d.end(errors.New("out of room")); err == nil || !strings.Contains(err.Error(), "turns that failed: 1") || !strings.Contains(err.Error(), "out of room") {
			t.Errorf("it ended with %v", err)
		}
		args = append(args, "-with", given[1])
	}
	if err := runReport(t.Context(), args[1:]); err != nil {
		t.Fatal(err)
	}
	for _, form := range files[1:] {
		text, err := os.ReadFile(form)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"Of watch", "Of leases", "go run . bench watch -json", "What it is.", "5.1", "one, etcd: it rained", "the rest was not measured: out of room"} {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s lacks %q", form, want)
			}
		}
	}
	if err := runReport(t.Context(), []string{files[0], "-with", files[0]}); err == nil {
		t.Error("a report is no section, and that is no error")
	}
	if err := runReport(t.Context(), []string{"-with", args[3], files[0]}); err == nil || !strings.Contains(err.Error(), "of what?") {
		t.Errorf("without a report it ends with %v", err)
	}
}
