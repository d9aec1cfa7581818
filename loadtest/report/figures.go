package report

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// dash stands where a number is missing. It is never a 0.
const dash = "–"

// figures writes a number with three significant digits, and commas between the thousands: 0.0123, 4.57, 28,400. Turns
// differ by more than one in a thousand, so a fourth digit would say nothing. Below 0.0001 it is 9.65e-5.
func figures(v float64) string {
	if v == 0 {
		return "0"
	}
	if math.Abs(v) < 1e-4 {
		mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(v, 'e', 2, 64), "e-")
		return mantissa + "e-" + strings.TrimLeft(exponent, "0")
	}
	decimals := 2 - int(math.Floor(math.Log10(math.Abs(v))))
	rounded := v
	if decimals < 0 {
		power := math.Pow10(-decimals)
		rounded = math.Round(v/power) * power
	} else if again := math.Round(v*math.Pow10(decimals)) / math.Pow10(decimals); math.Abs(again) >= math.Pow10(3-decimals) {
		decimals-- // 9.996 is 10.0, not 10.00
	}
	return thousands(strconv.FormatFloat(rounded, 'f', max(decimals, 0), 64))
}

// tick is a number that was chosen, not measured, without zeros at its end: 0.4, 1,000.
func tick(v float64) string {
	text := figures(v)
	if strings.Contains(text, ".") && !strings.Contains(text, "e") {
		text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
	}
	return text
}

// short is a tick of an axis, where there is little room: 25k, 1.5M.
func short(v float64) string {
	switch {
	case v >= 1e6:
		return tick(v/1e6) + "M"
	case v >= 1e4:
		return tick(v/1e3) + "k"
	}
	return tick(v)
}

// thousands puts commas into a decimal number.
func thousands(number string) string {
	sign := ""
	if strings.HasPrefix(number, "-") {
		sign, number = "-", number[1:]
	}
	whole, fraction, _ := strings.Cut(number, ".")
	if fraction != "" {
		fraction = "." + fraction
	}
	for at := len(whole) - 3; at > 0; at -= 3 {
		whole = whole[:at] + "," + whole[at:]
	}
	return sign + whole + fraction
}

// count writes a whole number.
func count[T ~int | ~int64](n T) string { return thousands(strconv.FormatInt(int64(n), 10)) }

// in is a number in another unit, of which one is so many of its own.
func (n Number) in(unit float64) Number {
	n.Median, n.Min, n.Max = n.Median/unit, n.Min/unit, n.Max/unit
	return n
}

// median is a number's median as text.
func (n Number) median() string {
	if !n.Known() {
		return dash
	}
	return figures(n.Median)
}

// spread is a number's lowest and highest turn as text, "" if they are written alike.
func (n Number) spread() string {
	low, high := figures(n.Min), figures(n.Max)
	if !n.Known() || low == high {
		return ""
	}
	return low + dash + high
}

// String is the median, and the lowest and highest in parentheses if they differ from it; or a dash.
func (n Number) String() string {
	if spread := n.spread(); spread != "" {
		return n.median() + " (" + spread + ")"
	}
	return n.median()
}

// Units of what a Report has in bytes.
const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
)

// bytesText writes bytes in a unit that suits them.
func bytesText(b float64) string {
	switch {
	case b >= gib:
		return figures(b/gib) + " GiB"
	case b >= mib:
		return figures(b/mib) + " MiB"
	case b >= kib:
		return figures(b/kib) + " KiB"
	}
	return figures(b) + " B"
}

// durationText is exact to the second.
func durationText(d time.Duration) string { return d.Round(time.Second).String() }

// dateText is in UTC, to the minute.
func dateText(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// bound is an aim's bound as text: "≤ 0.4".
func (a Aim) bound() string {
	sign := "≤ "
	if a.AtLeast {
		sign = "≥ "
	}
	return sign + tick(a.Bound)
}

// unit is what a measure is counted in, for the head of a column or an axis.
func (m Measure) unit(operation string) string {
	switch m {
	case Throughput:
		return operation + "/s"
	case CPU:
		return "µs/" + operation
	case P50, P99, P999:
		return "ms"
	case Memory:
		return "MiB"
	case Upstream:
		return "requests per " + operation
	}
	return "×"
}

// scale is how many of what a report has are one of unit.
func (m Measure) scale() float64 {
	if m == Memory {
		return mib
	}
	return 1
}
