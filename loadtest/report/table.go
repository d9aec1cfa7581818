package report

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// WriteMarkdown writes a table whose columns stand below each other in plain text too, with an empty line before it. A table
// without rows is not written. Each row has as many cells as the head.
func (t *Table) WriteMarkdown(w io.Writer) error {
	rows := make([][]string, 0, len(t.Rows))
	for _, row := range t.Rows {
		rows = append(rows, literals(row))
	}
	return (&markdownTable{head: literals(t.Head), words: t.Words, rows: rows}).write(w)
}

// check tells what keeps a table from being shown.
func (t *Table) check() error {
	if t.Words < 0 || t.Words > len(t.Head) {
		return fmt.Errorf("a table with %d columns has %d of words", len(t.Head), t.Words)
	}
	for n, row := range t.Rows {
		if len(row) != len(t.Head) {
			return fmt.Errorf("a table with %d columns has %d in row %d", len(t.Head), len(row), n+1)
		}
	}
	return nil
}

func literals(texts []string) []string {
	all := make([]string, len(texts))
	for i, text := range texts {
		all[i] = literal(text)
	}
	return all
}

// markdownTable is a Table whose cells are Markdown, on one line each.
type markdownTable struct {
	head  []string
	words int
	rows  [][]string
}

func (t *markdownTable) write(w io.Writer) error {
	if len(t.rows) == 0 {
		return nil
	}
	rows := make([][]string, 0, 1+len(t.rows))
	for _, row := range append([][]string{t.head}, t.rows...) {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = cellEnds.Replace(cell)
		}
		rows = append(rows, cells)
	}
	width := make([]int, len(t.head))
	for n, row := range rows {
		if len(row) != len(width) {
			return fmt.Errorf("a table with %d columns has %d in row %d", len(width), len(row), n)
		}
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell), 1)
		}
	}
	var b strings.Builder
	for n, row := range rows {
		b.WriteString("\n")
		for i, cell := range row {
			if i < t.words {
				fmt.Fprintf(&b, "| %-*s ", width[i], cell)
			} else {
				fmt.Fprintf(&b, "| %*s ", width[i], cell)
			}
		}
		b.WriteString("|")
		if n > 0 {
			continue
		}
		b.WriteString("\n")
		for i := range row {
			rule := strings.Repeat("-", width[i]+1)
			if i < t.words {
				b.WriteString("|:" + rule)
			} else {
				b.WriteString("|" + rule + ":")
			}
		}
		b.WriteString("|")
	}
	_, err := fmt.Fprintln(w, b.String())
	return err
}

// cellEnds has no cell end before its end. A bar ends one in a code span too. No text of others is in one: it is literal, so that
// no backslash that stood before a bar takes away the one that is put there.
var cellEnds = strings.NewReplacer("|", `\|`, "\r", "", "\n", " ")
