package documents

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	linkTo       = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	notInAnchors = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// anchors are the names that a file's headings have in links.
func anchors(d document) map[string]bool {
	names := map[string]bool{}
	for i, line := range d.lines {
		if title := strings.TrimLeft(line, "#"); title != line && !d.inBlock(i+1) {
			name := notInAnchors.ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), "")
			names[strings.ReplaceAll(name, " ", "-")] = true
		}
	}
	return names
}

// withLinks are the documents, and what else has links to them.
func withLinks(t *testing.T) []document {
	t.Helper()
	all := readDocuments(t)
	for _, pattern := range []string{"CONTRIBUTING.md", "deploy/*.md", "deploy/*/*.md", "deploy/*/*/*.md"} {
		paths, err := filepath.Glob(filepath.Join(top, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			all = append(all, read(t, path))
		}
	}
	return all
}

// TestLinksLeadSomewhere: the file is there, and the section in it.
func TestLinksLeadSomewhere(t *testing.T) {
	for _, d := range withLinks(t) {
		for i, line := range d.lines {
			for _, m := range linkTo.FindAllStringSubmatch(line, -1) {
				file, section, _ := strings.Cut(m[1], "#")
				if strings.Contains(file, "://") || d.inBlock(i+1) {
					continue
				}
				to := d
				if file != "" {
					path := filepath.Join(top, filepath.Dir(d.path), file)
					info, err := os.Stat(path)
					if err != nil {
						t.Errorf("%s:%d: %v", d.path, i+1, err)
						continue
					}
					if info.IsDir() || filepath.Ext(path) != ".md" {
						continue
					}
					to = read(t, path)
				}
				if section != "" && !anchors(to)[section] {
					t.Errorf("%s:%d: there is no section %q in %s", d.path, i+1, section, to.path)
				}
			}
		}
	}
}

// TestTheIndexIsWhole: docs/README.md leads to each document.
func TestTheIndexIsWhole(t *testing.T) {
	documents := readDocuments(t)
	linked := map[string]bool{"README.md": true, filepath.Join("docs", "README.md"): true}
	for _, d := range documents {
		if d.path == filepath.Join("docs", "README.md") {
			for _, m := range linkTo.FindAllStringSubmatch(strings.Join(d.lines, "\n"), -1) {
				linked[filepath.Join("docs", m[1])] = true
			}
		}
	}
	for _, d := range documents {
		if !linked[d.path] {
			t.Errorf("docs/README.md does not lead to %s", d.path)
		}
	}
}
