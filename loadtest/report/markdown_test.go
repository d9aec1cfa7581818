package report

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

func markdownOf(t *testing.T, r *Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := WriteMarkdown(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestMarkdownSaysWhatTheRunFound(t *testing.T) {
	const golden = "testdata/report.md"
	text := markdownOf(t, example(t))
	if *update {
		if err := os.WriteFile(golden, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	got, lines := strings.Split(text, "\n"), strings.Split(string(want), "\n")
	for i := range min(len(got), len(lines)) {
		if got[i] != lines[i] {
			t.Fatalf("line %d is\n%s\nwant\n%s\nIf it is meant to be: go test -run Markdown -update", i+1, got[i], lines[i])
		}
	}
	if len(got) != len(lines) {
		t.Fatalf("there are %d lines, want %d", len(got), len(lines))
	}
}

// A page of documentation that nobody reads to the end tells nothing.
func TestMarkdownOfManyScenariosIsOfBearableLength(t *testing.T) {
	r := example(t)
	r.Scale, r.Tables = nil, nil
	one := r.Scenarios[0]
	r.Scenarios = nil
	for _, name := range strings.Split("abcdefghijklmnopqrstuvwxy", "") { // 25
		one.Name = name
		r.Scenarios = append(r.Scenarios, one)
	}
	if lines := strings.Count(markdownOf(t, r), "\n"); lines > 500 {
		t.Errorf("25 scenarios take %d lines", lines)
	}
}

// What a server says is no markup, in no place of the text, and ends no cell.
func TestMarkdownOfServersWords(t *testing.T) {
	const evil = "<img src=x> [a](http://evil) **b** _c_ `d` \\| e \\\\| f &lt; ~~g~~\n# h"
	r := pair(Result{Turns: []Turn{turnOf(1, 100, time.Second)}}, Result{Failed: []Failure{{1, evil}}})
	r.Systems[1].Programs = []string{evil}
	r.Scenarios[0].Aims = []Aim{{System: "other", Measure: CPURatio, Bound: 1, Source: "a `promise` **kept**"}}
	r.Tables = []Section{{Title: evil, Command: evil, Failed: []string{evil}, Tables: []Table{{Head: []string{evil, "b"}, Rows: [][]string{{evil, "1"}}}}}}
	text := markdownOf(t, r)
	spans := regexp.MustCompile("(?s)(``+).*?(``+)|`[^`\n]*`") // of code, in which everything is as it is
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "    ") {
			continue // code as well
		}
		for _, bad := range []string{"<img", "[a]", "**b**", " _c_ ", "&lt; ", "~~g~~"} {
			if plain := spans.ReplaceAllString(line, ""); strings.Contains(plain, bad) && !strings.Contains(plain, "`") {
				t.Errorf("%q stands in %s", bad, line)
			}
		}
		if strings.HasPrefix(line, "# h") {
			t.Error("a server's words are a heading")
		}
	}
	for _, want := range []string{`\[a\](http://evil)`, `&lt;img src=x>`, `\*\*b\*\*`, "a `promise` **kept**"} {
		if !strings.Contains(text, want) {
			t.Errorf("the text has no %s:\n%s", want, text)
		}
	}
}

// A backslash before a bar must not take away the one that keeps the bar from being the cell's end.
func TestABarEndsNoCell(t *testing.T) {
	table := Table{Head: []string{"a", "b"}, Words: 2, Rows: [][]string{{`x\| y`, `x\\|`}}}
	var b strings.Builder
	if err := table.WriteMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	for _, line := range lines {
		ends := 0
		for i := 0; i < len(line); i++ {
			switch line[i] {
			case '\\':
				i++ // whatever comes is escaped
			case '|':
				ends++
			}
		}
		if ends != 3 {
			t.Errorf("a row of two cells has %d ends: %s", ends, line)
		}
	}
}

func TestMarkdownProseIsThatOfThePage(t *testing.T) {
	for text, want := range map[string]string{
		"a `b<c` **d_** e_f": `a ` + "`b<c`" + ` **d\_** e\_f`,
		"one ` alone":        "one \\` alone",
		"two ** of **x":      "two ** of **x",
		"a * b < c":          `a \* b &lt; c`,
	} {
		if got := markdownProse(text); got != want {
			t.Errorf("%q becomes %q, want %q", text, got, want)
		}
	}
}

func TestAReasonCannotBreakOutOfItsCodeSpan(t *testing.T) {
	for text, want := range map[string]string{
		"plain":           "`plain`",
		"a `b` c":         "``a `b` c``",
		"`b`":             "`` `b` ``",
		"``":              "``` `` ```",
		"two\n\n# lines ": "`two # lines`",
		"":                "",
	} {
		if got := code(text); got != want {
			t.Errorf("%q becomes %s, want %s", text, got, want)
		}
	}
}
