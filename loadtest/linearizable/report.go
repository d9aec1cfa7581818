package linearizable

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Report is a directory below os.TempDir() with the evidence of what went wrong in a run.
type Report struct {
	Dir   string
	files int
}

// NewReport makes the directory.
func NewReport() (*Report, error) {
	dir, err := os.MkdirTemp("", "weir-linearizable-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for a report: %w", err)
	}
	return &Report{Dir: dir}, nil
}

// Add writes what is wrong with a history: the history as text and as a page to look at, with what the store says of its
// keys. It returns the text's file.
func (r *Report) Add(what string, h *History, truth *Truth) (string, error) {
	r.files++
	name := filepath.Join(r.Dir, fmt.Sprintf("history-%d", r.files))
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nOperations:\n", what)
	ops := slices.Clone(h.Ops)
	slices.SortFunc(ops, func(a, b *Op) int { return cmp.Compare(a.Call, b.Call) })
	for _, o := range ops {
		fmt.Fprintln(&b, o)
	}
	if truth != nil {
		fmt.Fprintf(&b, "\nWhat happened to the keys:\n%s", truth.describe(h.Keys))
	}
	return name + ".txt", errors.Join(r.write(name+".txt", b.String()), h.Visualize(name+".html"))
}

// Text writes another file.
func (r *Report) Text(name, text string) error { return r.write(filepath.Join(r.Dir, name), text) }

func (r *Report) write(name, text string) error {
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write a report: %w", err)
	}
	return nil
}
