package statuspage

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// View is what is shown of one moment. Whatever clients have chosen in it, as keys, has gone through Key or Range.
type View struct {
	Title string // what this is: "weir proxy"
	Name  string // which one
	// Notices are what somebody should know before all else; none while all is well.
	Notices []Notice
	Tiles   []Tile
	Tables  []Table
}

// Notice is a line above everything else.
type Notice struct {
	Text  string
	Level Level
}

// Tile is a number at a glance.
type Tile struct {
	Label, Value string
	Note         string // below it
	Level        Level
}

// Table is what there are several of. Rows have as many cells as there are columns.
type Table struct {
	ID      string // of the element: letters only
	Title   string
	Note    string // what the numbers mean, if the columns do not say it
	Empty   string // instead of a table without rows
	Columns []Column
	Rows    [][]Cell
}

// Column is how its cells look.
type Column struct {
	Title  string
	Number bool // to the right, so that digits are below each other
	Code   bool // keys and addresses
	Whole  bool // in one line, however wide: half an address is another one
}

// Cell is one value.
type Cell struct {
	Text  string
	Level Level
}

// Level is how much somebody should care. Text says the same: not everybody sees colours.
type Level string

// The levels.
const (
	Plain Level = ""
	Good  Level = "good"
	Warn  Level = "warn"
	Bad   Level = "bad"
)

// Clients are who is connected, and their watches, but for those that are forwarded.
type Clients struct {
	Connections int `json:"connections"` // to gRPC
	Streams     int `json:"streams"`     // of watches
	Watches     int `json:"watches"`
	Behind      int `json:"behind"` // watches that have not been sent all that there is
}

// Tile counts connections, which is what a process or a client library has.
func (c Clients) Tile() Tile {
	return Tile{Label: "Clients", Value: Count(c.Connections), Note: "watch streams: " + Count(c.Streams)}
}

// Row makes cells of texts.
func Row(texts ...string) []Cell {
	cells := make([]Cell, len(texts))
	for i, t := range texts {
		cells[i].Text = t
	}
	return cells
}

// shownKey is how many bytes of a key are shown.
const shownKey = 96

// Key is a key, or another name that a client has chosen, for people: what is not printable ASCII is escaped as in Go, and of a
// long one the beginning is shown.
func Key(key []byte) string {
	rest := ""
	if len(key) > shownKey {
		key, rest = key[:shownKey], "…"
	}
	quoted := strconv.QuoteToASCII(string(key))
	return strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`) + rest
}

// Range is a range of keys, as in etcd's requests, for people.
func Range(key, end []byte) string {
	switch {
	case len(end) == 0:
		return Key(key)
	case len(end) == 1 && end[0] == 0 && (len(key) == 0 || len(key) == 1 && key[0] == 0):
		return "all keys"
	case len(end) == 1 && end[0] == 0:
		return "from " + Key(key)
	case isPrefix(key, end):
		return Key(key) + "*"
	}
	return "[" + Key(key) + ", " + Key(end) + ")"
}

// isPrefix tells whether [key, end) is all that begins with key.
func isPrefix(key, end []byte) bool {
	n := len(end)
	if n == 0 || n > len(key) || string(key[:n-1]) != string(end[:n-1]) || end[n-1] != key[n-1]+1 {
		return false
	}
	for _, b := range key[n:] {
		if b != 0xff {
			return false
		}
	}
	return true
}

// Count is a number with its thousands apart.
func Count[N int | int64 | uint64](n N) string {
	digits := fmt.Sprint(n)
	sign := ""
	if digits[0] == '-' {
		sign, digits = "-", digits[1:]
	}
	for i := len(digits) - 3; i > 0; i -= 3 {
		digits = digits[:i] + "\u202f" + digits[i:]
	}
	return sign + digits
}

// Bytes is a size.
func Bytes[N int | int64 | uint64](n N) string {
	f := float64(n)
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if f < 1024 {
			return short(f) + " " + unit
		}
		f /= 1024
	}
	return short(f) + " TiB"
}

// Rate is how often something happens in a second.
func Rate(f float64) string { return short(f) + " /s" }

// Share is a part of a whole in percent, of which nothing but all is 100; a dash if there is no whole.
func Share(part, whole float64) string {
	if whole <= 0 {
		return "–"
	}
	percent := 100 * part / whole
	if part < whole {
		percent = min(percent, 99.9)
	}
	return short(percent) + " %"
}

// Took is how long something took, or is ago.
func Took(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return short(float64(d)/float64(time.Microsecond)) + " µs"
	case d < time.Second:
		return short(float64(d)/float64(time.Millisecond)) + " ms"
	case d < time.Minute:
		return short(d.Seconds()) + " s"
	}
	return d.Round(time.Second).String()
}

// short has three digits that matter.
func short(f float64) string {
	switch {
	case f == 0:
		return "0"
	case f < 10:
		return strings.TrimSuffix(strings.TrimRight(strconv.FormatFloat(f, 'f', 2, 64), "0"), ".")
	case f < 100:
		return strings.TrimSuffix(strconv.FormatFloat(f, 'f', 1, 64), ".0")
	}
	return Count(int64(f + 0.5))
}
