package documents

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// top is the repository, as seen from this package.
const top = "../.."

// written is the document that a run of the benchmarks writes.
const written = "docs/performance.md"

// document is one file of the documentation.
type document struct {
	path   string // from the top of the repository
	lines  []string
	blocks []block
}

// block is what stands between two fences. Lines of a document are numbered from 1.
type block struct {
	language string
	line     int // of the opening fence
	lines    []string
	notRun   string // the reason, or ""
}

func (b block) text() string { return strings.Join(b.lines, "\n") }

var notRun = regexp.MustCompile(`^<!-- not run: (.+) -->$`)

// readDocuments are README.md and all in docs/.
func readDocuments(t *testing.T) []document {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(top, "docs", "*.md"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no documents found: %v", err)
	}
	var all []document
	for _, path := range append([]string{filepath.Join(top, "README.md")}, paths...) {
		all = append(all, read(t, path))
	}
	return all
}

// read reads a file as seen from this package.
func read(t *testing.T, path string) document {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	relative, err := filepath.Rel(top, path)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, relative, string(text))
}

// parse finds the blocks of a document.
func parse(t *testing.T, path, text string) document {
	t.Helper()
	d := document{path: path, lines: strings.Split(strings.TrimSuffix(text, "\n"), "\n")}
	open, reason := false, ""
	for i, line := range d.lines {
		language, fence := strings.CutPrefix(line, "```")
		switch {
		case fence && open:
			open = false
		case fence:
			open = true
			d.blocks = append(d.blocks, block{language: language, line: i + 1, notRun: reason})
		case open:
			last := &d.blocks[len(d.blocks)-1]
			last.lines = append(last.lines, line)
		}
		reason = ""
		if m := notRun.FindStringSubmatch(line); m != nil && !open {
			reason = m[1]
		}
	}
	if open {
		t.Errorf("%s: the last block has no end", path)
	}
	return d
}

// outcome is what the document says that a block prints: the block of text that is the next one.
func (d document) outcome(i int) (want block, there bool) {
	if i+1 < len(d.blocks) && d.blocks[i+1].language == "text" {
		return d.blocks[i+1], true
	}
	return block{}, false
}

// runs are the numbers of the blocks that a shell is given.
func (d document) runs() []int {
	var runs []int
	for i, b := range d.blocks {
		if b.language == "sh" && b.notRun == "" {
			runs = append(runs, i)
		}
	}
	return runs
}

// TestBlocksAreOfAKind: what a reader might type is marked sh, and so is run. In such a block each command is on a line of its
// own, since a shell says nothing of a command that fails before &&.
func TestBlocksAreOfAKind(t *testing.T) {
	left := 0
	for _, d := range readDocuments(t) {
		for _, b := range d.blocks {
			switch b.language {
			case "sh":
				if b.notRun != "" {
					left++
					continue
				}
				for i, line := range b.lines {
					if strings.Contains(line, " && ") {
						t.Errorf("%s:%d: && hides a failure; write two lines", d.path, b.line+1+i)
					}
				}
			case "", "text", "yaml", "json", "go", "ini":
				if b.notRun != "" {
					t.Errorf("%s:%d: only what is marked sh would be run", d.path, b.line)
				}
			default:
				t.Errorf("%s:%d: a block of %q, which nothing here knows", d.path, b.line, b.language)
			}
		}
		for i, line := range d.lines {
			if strings.HasPrefix(line, "<!-- not run") && (i+1 == len(d.lines) || d.lines[i+1] != "```sh") {
				t.Errorf("%s:%d: no block follows that would be run, or no reason is given", d.path, i+1)
			}
			if d.path != written && strings.HasPrefix(line, "    ") && i > 0 && d.lines[i-1] == "" && !d.inBlock(i+1) {
				t.Errorf("%s:%d: a block without fences", d.path, i+1)
			}
		}
	}
	t.Logf("%d blocks are not run", left)
}

// inBlock tells whether a line is between fences.
func (d document) inBlock(line int) bool {
	for _, b := range d.blocks {
		if line >= b.line && line <= b.line+len(b.lines)+1 {
			return true
		}
	}
	return false
}
