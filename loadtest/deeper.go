package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"weir/loadtest/report"
)

// deeper is what a bench that looks deeper at one thing has found. It is printed as it comes, and kept as a section for a report:
// see runReport.
type deeper struct {
	report.Section
	out  io.Writer // for the tables
	file string    // for the section; "" for none
}

// newDeeper is for a command with such flags, of which it adds one. The text says what is measured.
func newDeeper(command string, args []string, f *flag.FlagSet, title string, text ...string) *deeper {
	d := &deeper{out: os.Stdout, Section: report.Section{Title: title, Command: commandLine(command, args), Started: time.Now().Truncate(time.Second), Text: text}}
	f.StringVar(&d.file, "json", "", "file for the tables too, in JSON, for report's -with")
	return d
}

// add prints tables, but for those without rows, and keeps them.
func (d *deeper) add(tables ...table) error {
	for _, t := range tables {
		if len(t) == 1 {
			continue
		}
		kept := report.Table{Head: t[0], Words: 2, Rows: t[1:]}
		if err := kept.WriteMarkdown(d.out); err != nil {
			return err
		}
		d.Tables = append(d.Tables, kept)
	}
	return nil
}

// say prints a paragraph that stands before the tables in the section.
func (d *deeper) say(text string) error {
	d.Text = append(d.Text, text)
	_, err := fmt.Fprintf(d.out, "\n%s\n", text)
	return err
}

// failed prints why turns of a target failed in a scenario, and keeps it.
func (d *deeper) failed(scenario, target string, failed []error) {
	for _, err := range failed {
		d.Failed = append(d.Failed, fmt.Sprintf("%s, %s: %v", scenario, target, err))
		fmt.Fprintln(os.Stderr, "a turn failed, "+d.Failed[len(d.Failed)-1])
	}
}

// end writes the section, and returns that with err, which ended the bench, and that turns failed, if they did. What ended the bench
// stands in the section.
func (d *deeper) end(err error) error {
	n := len(d.Failed)
	if err != nil {
		d.Failed = append(d.Failed, "the rest was not measured: "+err.Error())
	}
	if n > 0 {
		err = errors.Join(err, fmt.Errorf("turns that failed: %d", n))
	}
	if d.file != "" {
		err = errors.Join(err, writeFile(d.file, d.WriteJSON))
	}
	return err
}
