package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"weir/loadtest/bench"
)

// reportFailed prints why turns of a target failed in a scenario, and returns how many.
func reportFailed(scenario, target string, failed []error) int {
	for _, err := range failed {
		fmt.Fprintf(os.Stderr, "a turn failed, %s, %s: %v\n", scenario, target, err)
	}
	return len(failed)
}

// failedTurns is the error that n turns failed, nil if none did.
func failedTurns(n int) error {
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%d turns failed", n)
}

// spread is the median, and the range if there is one.
func spread(s bench.Spread, decimals int) string {
	median := fmt.Sprintf("%.*f", decimals, s.Median)
	low, high := fmt.Sprintf("%.*f", decimals, s.Min), fmt.Sprintf("%.*f", decimals, s.Max)
	if low == high {
		return median
	}
	return fmt.Sprintf("%s (%s–%s)", median, low, high)
}

func ratio(a, b float64) string { return fmt.Sprintf("%.2f", a/b) }

func ifKnown(s string, known bool) string {
	if !known {
		return ""
	}
	return s
}

// table is rows of cells, the first of which is the header.
type table [][]string

// printAll prints tables, but for those without rows.
func printAll(out io.Writer, tables ...table) error {
	for _, t := range tables {
		if len(t) == 1 {
			continue
		}
		if err := t.print(out); err != nil {
			return err
		}
	}
	return nil
}

// print prints a table whose columns stand below each other in plain text too.
func (t table) print(out io.Writer) error {
	width := make([]int, len(t[0]))
	for _, row := range t {
		for i, cell := range row {
			width[i] = max(width[i], len([]rune(cell)))
		}
	}
	const numbers = 2 // the first column of them
	var b strings.Builder
	b.WriteString("\n")
	for n, row := range t {
		for i, cell := range row {
			if i < numbers {
				fmt.Fprintf(&b, "| %-*s ", width[i], cell)
			} else {
				fmt.Fprintf(&b, "| %*s ", width[i], cell)
			}
		}
		b.WriteString("|\n")
		if n > 0 {
			continue
		}
		for i, w := range width {
			rule := strings.Repeat("-", w+1)
			if i < numbers {
				b.WriteString("|:" + rule)
			} else {
				b.WriteString("|" + rule + ":")
			}
		}
		b.WriteString("|\n")
	}
	_, err := io.WriteString(out, b.String())
	return err
}
