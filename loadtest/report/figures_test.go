package report

import (
	"strings"
	"testing"
)

func TestFiguresHaveThreeSignificantDigits(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 1: "1.00", .1234: "0.123", .00012345: "0.000123", 9.65e-5: "9.65e-5", 1.5e-12: "1.50e-12", 9.994: "9.99", 9.996: "10.0", 99.96: "100",
		999.4: "999", 999.6: "1,000", 1234: "1,230", 42624: "42,600", 1234567: "1,230,000", -1234.5: "-1,230", -.5: "-0.500", 100: "100",
	} {
		if got := figures(v); got != want {
			t.Errorf("%v is written %q, want %q", v, got, want)
		}
	}
	for v, want := range map[float64]string{.4: "0.4", 1000: "1,000", 1.0 / 3: "0.333", 100: "100", 2: "2", 1e-5: "1.00e-5"} {
		if got := tick(v); got != want {
			t.Errorf("the tick %v is written %q, want %q", v, got, want)
		}
	}
	for v, want := range map[float64]string{5000: "5,000", 25000: "25k", 1.5e6: "1.5M"} {
		if got := short(v); got != want {
			t.Errorf("the tick %v is written %q, want %q", v, got, want)
		}
	}
}

func TestANumberHasItsSpreadOnlyIfItCanBeSeen(t *testing.T) {
	for _, c := range []struct {
		n    Number
		want string
	}{
		{Number{Median: 2, Min: 1, Max: 3}, "2.00 (1.00–3.00)"},
		{Number{Median: 1000, Min: 999.9, Max: 1001}, "1,000"},
		{Number{Missing: "gone"}, "–"},
	} {
		if got := c.n.String(); got != c.want {
			t.Errorf("%+v is written %q, want %q", c.n, got, c.want)
		}
	}
}

func TestATablesColumnsStandBelowEachOther(t *testing.T) {
	table := Table{Head: []string{"system", "p50 µs"}, Words: 1, Rows: [][]string{{"a|b", "1"}, {"two\nlines", "1,000 (1–2)"}}}
	var b strings.Builder
	if err := table.WriteMarkdown(&b); err != nil {
		t.Fatal(err)
	}
	want := `
| system    |      p50 µs |
|:----------|------------:|
| a\|b      |           1 |
| two lines | 1,000 (1–2) |
`
	if b.String() != want {
		t.Errorf("the table is %s\nwant %s", b.String(), want)
	}

	b.Reset()
	if err := (&Table{Head: []string{"system"}}).WriteMarkdown(&b); err != nil || b.Len() > 0 {
		t.Errorf("a table without rows is written as %q, %v", b.String(), err)
	}
	if err := (&Table{Head: []string{"system"}, Rows: [][]string{{"a", "b"}}}).WriteMarkdown(&b); err == nil {
		t.Error("a row with more cells than the head was written")
	}
}

func TestAxesHaveRoundTicksAroundTheirValues(t *testing.T) {
	for _, high := range []float64{1, 42600, .3, 7, 100, 101, 0} {
		a := linear(high, 0, 100)
		if a.high < high || len(a.ticks)-1 > 5 || len(a.ticks)-1 < 2 {
			t.Errorf("an axis to %v has the ticks %v", high, a.ticks)
		}
	}
	for _, c := range []struct {
		low, high float64
		want      []float64
	}{
		{1.5, 9, []float64{1, 2, 5, 10}},
		{2, 20, []float64{2, 5, 10, 20}},
		{.03, 80, []float64{.01, .1, 1, 10, 100}},
		{5, 5, []float64{5, 10}},
	} {
		a := logarithmic(c.low, c.high, 0, 100)
		if len(a.ticks) != len(c.want) {
			t.Errorf("an axis from %v to %v has the ticks %v, want %v", c.low, c.high, a.ticks, c.want)
			continue
		}
		for i := range c.want {
			if got := a.ticks[i]; got < c.want[i]*.999 || got > c.want[i]*1.001 {
				t.Errorf("an axis from %v to %v has the ticks %v, want %v", c.low, c.high, a.ticks, c.want)
			}
		}
		if a.at(a.low) != 0 || a.at(a.high) != 100 || a.at(0) != 0 {
			t.Errorf("the ends of the axis from %v to %v are at %v and %v, and 0 at %v", c.low, c.high, a.at(a.low), a.at(a.high), a.at(0))
		}
	}
}
