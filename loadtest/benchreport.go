package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"weir/loadtest/report"
)

// writeReport writes a report in each of its forms into a folder, in files of such a name, and returns them.
func writeReport(dir, name string, r *report.Report) (files []string, err error) {
	if dir, err = filepath.Abs(dir); err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return nil, fmt.Errorf("make a folder for the report: %w", err)
	}
	for _, form := range []struct {
		ending string
		write  func(io.Writer, *report.Report) error
	}{{".json", report.WriteJSON}, {".html", report.WriteHTML}, {".md", report.WriteMarkdown}} {
		file := filepath.Join(dir, name+form.ending)
		if formErr := writeFile(file, func(w io.Writer) error { return form.write(w, r) }); formErr != nil {
			err = errors.Join(err, formErr)
			continue
		}
		files = append(files, file)
	}
	return files, err
}

// prepareReport makes the folder of a report, and sees to it that files can be made there: what takes minutes is not to end without one.
func prepareReport(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make a folder for the report: %w", err)
	}
	f, err := os.CreateTemp(dir, ".report-")
	if err != nil {
		return fmt.Errorf("the report could not be written: %w", err)
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// writeFile writes a file, whole or not at all.
func writeFile(name string, write func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), ".report-")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	err = errors.Join(write(f), f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", name, err), os.Remove(f.Name()))
	}
	return nil
}

// runReport makes the other forms of a report again, from its JSON, and adds sections that deeper benches have written.
func runReport(_ context.Context, args []string) error {
	from := ""
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		from, args = args[0], args[1:]
	}
	beside := func(ending string) string { return strings.TrimSuffix(cmp.Or(from, "report.json"), ".json") + ending }
	f := flag.NewFlagSet("report", flag.ContinueOnError)
	f.Usage = func() {
		fmt.Fprintln(f.Output(), "report takes a report.json that bench has written, and flags behind it. It makes the other forms of it again:")
		f.PrintDefaults()
	}
	html := f.String("html", beside(".html"), `file for the report as one page, beside the JSON if it is not given; "" for none`)
	markdown := f.String("markdown", beside(".md"), `file for the report in Markdown, beside the JSON if it is not given; "" for none`)
	var sections []string
	f.Func("with", "file that bench watch, memory, fairness or cluster has written with -json, to add to the report; may be given several times", func(name string) error {
		sections = append(sections, name)
		return nil
	})
	err := parse(f, args)
	if from == "" && !errors.Is(err, flag.ErrHelp) {
		return errors.New("of what? give a report.json that bench has written, and then the flags")
	}
	if err != nil {
		return err
	}
	r, err := readFile(from, report.Read)
	if err != nil {
		return err
	}
	for _, name := range sections {
		s, err := readFile(name, report.ReadSection)
		if err != nil {
			return err
		}
		r.Tables = append(r.Tables, *s)
	}
	if *html != "" {
		err = writeFile(*html, func(w io.Writer) error { return report.WriteHTML(w, r) })
	}
	if *markdown != "" {
		err = errors.Join(err, writeFile(*markdown, func(w io.Writer) error { return report.WriteMarkdown(w, r) }))
	}
	return err
}

// readFile reads a report, or a part of one.
func readFile[T any](name string, read func(io.Reader) (*T, error)) (*T, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read a report: %w", err)
	}
	defer f.Close()
	t, err := read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return t, nil
}
