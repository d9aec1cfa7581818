package documents

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"weir/loadtest/proc"
	"weir/loadtest/target/targettest"
)

// bin is set by TestMain.
var bin *proc.Bin

func TestMain(m *testing.M) { targettest.Main(m, &bin) }

var (
	flagOfHelp = regexp.MustCompile(`(?m)^\s+--([a-z0-9-]+)`)
	flagOfText = regexp.MustCompile("`--([a-z0-9-]+)")
)

// TestEveryFlagIsDescribed: docs/flags.md has, in the section of each program, each flag that its help names.
func TestEveryFlagIsDescribed(t *testing.T) {
	var text string
	for _, d := range readDocuments(t) {
		if d.path == "docs/flags.md" {
			text = strings.Join(d.lines, "\n")
		}
	}
	_, rest, _ := strings.Cut(text, "\n## core\n")
	core, proxy, found := strings.Cut(rest, "\n## proxy\n")
	if !found {
		t.Fatal("docs/flags.md has no sections core and proxy")
	}
	for program, section := range map[proc.Program]string{proc.Core: core, proc.Proxy: proxy} {
		path, err := bin.Build(t.Context(), program)
		if err != nil {
			t.Fatal(err)
		}
		help, err := exec.CommandContext(t.Context(), path, "--help").CombinedOutput()
		if err != nil {
			t.Fatalf("%s --help: %v\n%s", program, err, help)
		}
		described := map[string]bool{}
		for _, m := range flagOfText.FindAllStringSubmatch(section, -1) {
			described[m[1]] = true
		}
		flags := flagOfHelp.FindAllStringSubmatch(string(help), -1)
		if len(flags) < 30 {
			t.Fatalf("found only %d flags in the help of %s", len(flags), program)
		}
		for _, m := range flags {
			if !described[m[1]] {
				t.Errorf("%s has --%s, of which docs/flags.md says nothing", program, m[1])
			}
		}
	}
}
