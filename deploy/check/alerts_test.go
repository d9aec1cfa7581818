package check

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
)

const alertsFile = "../prometheus/alerts.yaml"

// alerts reads the rules as Prometheus does, which also checks expressions and templates.
func alerts(t *testing.T) (rules []rulefmt.Rule) {
	t.Helper()
	groups, problems := rulefmt.ParseFile(alertsFile, false, model.UTF8Validation)
	for _, err := range problems {
		t.Error(err)
	}
	if groups == nil {
		t.FailNow()
	}
	for _, g := range groups.Groups {
		rules = append(rules, g.Rules...)
	}
	return rules
}

// TestAlertsSayWhatIsWrongAndWhereToReadOn: a severity that is one of three, a summary, and a section of the documentation that is there.
func TestAlertsSayWhatIsWrongAndWhereToReadOn(t *testing.T) {
	names := map[string]bool{}
	for _, r := range alerts(t) {
		if names[r.Alert] || !strings.HasPrefix(r.Alert, "Weir") {
			t.Errorf("alert %q: a name that begins with Weir, once", r.Alert)
		}
		names[r.Alert] = true
		switch r.Labels["severity"] {
		case "critical", "warning", "info":
		default:
			t.Errorf("%s: severity %q", r.Alert, r.Labels["severity"])
		}
		// Whatever looks back over some minutes needs no more patience.
		if r.For == 0 && !strings.ContainsAny(r.Expr, "[") && !strings.Contains(r.Expr, "etcd_server_alarms") {
			t.Errorf("%s fires at once", r.Alert)
		}
		if r.Annotations["summary"] == "" {
			t.Errorf("%s has no summary", r.Alert)
		}
		file, section, _ := strings.Cut(r.Annotations["runbook"], "#")
		if !sections(t, file)[section] {
			t.Errorf("%s: there is no section %s in %s", r.Alert, section, file)
		}
	}
}

var notInAnchors = regexp.MustCompile(`[^a-z0-9 _-]`)

// sections are the anchors of a file of the documentation.
func sections(t *testing.T, file string) map[string]bool {
	t.Helper()
	text, err := os.ReadFile("../../" + file)
	if err != nil {
		t.Fatal(err)
	}
	anchors := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		if title := strings.TrimLeft(line, "#"); title != line {
			title = notInAnchors.ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), "")
			anchors[strings.ReplaceAll(title, " ", "-")] = true
		}
	}
	return anchors
}
