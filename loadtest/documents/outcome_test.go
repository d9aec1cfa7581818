package documents

import (
	"regexp"
	"strings"
	"testing"
)

// ellipsis stands for what is another each time: within a line for some of it, alone for some lines.
const ellipsis = "…"

// matches tells whether a document's words describe what was printed.
func matches(want, got []string) bool {
	if len(want) == 0 {
		return len(got) == 0
	}
	if strings.TrimSpace(want[0]) == ellipsis {
		for skip := range len(got) + 1 {
			if matches(want[1:], got[skip:]) {
				return true
			}
		}
		return false
	}
	return len(got) > 0 && lineMatches(want[0], got[0]) && matches(want[1:], got[1:])
}

func lineMatches(want, got string) bool {
	pattern := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimRight(want, " \t")), ellipsis, ".*")
	return regexp.MustCompile("^" + pattern + "$").MatchString(strings.TrimRight(got, " \t\r"))
}

// jobNotice is what a shell that is not a terminal's says when a job of it was killed.
var jobNotice = regexp.MustCompile(`^\S+: line \d+: +\d+ (Killed|Terminated)`)

// printed are the lines of an output, without notices of the shell and empty ones at its end.
func printed(output string) []string {
	var lines []string
	for _, line := range strings.Split(strings.TrimRight(output, "\n"), "\n") {
		if !jobNotice.MatchString(line) {
			lines = append(lines, line)
		}
	}
	return lines
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		want, got string
		is        bool
	}{
		{"OK", "OK", true},
		{"OK", "OK ", true},
		{"OK", "OK\nmore", false},
		{"OK", "", false},
		{"revision … of a.b", "revision 17 of a.b", true},
		{"revision … of a.b", "revision 17 of a_b", false},
		{"a\n…", "a", true},
		{"a\n…\nd", "a\nb\nc\nd", true},
		{"a\n…\nd", "a\nb\nc", false},
		{"…\nd\n…", "a\nd\nd\ne", true},
	} {
		if got := matches(strings.Split(c.want, "\n"), printed(c.got)); got != c.is {
			t.Errorf("%q describes %q: %v", c.want, c.got, got)
		}
	}
}
