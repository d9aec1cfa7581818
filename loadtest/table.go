package main

import (
	"fmt"

	"weir/loadtest/bench"
)

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

// table is rows of cells, the first of which is the header. The first two columns are words.
type table [][]string

func atMost(f float64) string { return fmt.Sprintf("≤ %.3g", f) }
