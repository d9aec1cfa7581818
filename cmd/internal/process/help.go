package process

import (
	"flag"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Group is flags that the help has together, in the order in which it has them.
type Group struct {
	Title string
	Flags []string
}

// GroupAs says in which groups the help has the flags.
func (f *Flags) GroupAs(groups []Group) { f.groups = groups }

// Ungrouped returns the flags of which something is said, and which are not in exactly one group, and what is in a group and no
// flag of which something is said.
func (f *Flags) Ungrouped() (names []string) {
	times := map[string]int{}
	for _, g := range f.groups {
		for _, name := range g.Flags {
			times[name]++
			if fl := f.Lookup(name); fl == nil || fl.Usage == "" {
				names = append(names, name)
			}
		}
	}
	f.VisitAll(func(fl *flag.Flag) {
		if fl.Usage != "" && times[fl.Name] != 1 {
			names = append(names, fl.Name)
		}
	})
	return names
}

// WordsAsFlags takes the words help and version, alone, for the flags that they are more often written as.
func WordsAsFlags(args []string) []string {
	if len(args) == 1 && (args[0] == "help" || args[0] == "version") {
		return []string{"--" + args[0]}
	}
	return args
}

// helpWidth is how long a line of the help is at most, in characters, unless it has a longer word.
const helpWidth = 100

// Usage writes how the command is called, as introduction says it, and its flags by group.
func (f *Flags) Usage(w io.Writer, introduction string) {
	fmt.Fprint(w, introduction)
	for _, g := range f.groups {
		fmt.Fprintf(w, "\n%s:\n", g.Title)
		for _, name := range g.Flags {
			describe(w, f.Lookup(name))
		}
	}
}

// Describe writes the flags of a command without groups. A flag of which nothing is said is left out: it is there for
// the sake of old command lines.
func (f *Flags) Describe(w io.Writer) {
	f.VisitAll(func(fl *flag.Flag) { describe(w, fl) })
}

// describe writes a flag with its default and what it means, as etcd does.
func describe(w io.Writer, fl *flag.Flag) {
	if fl == nil || fl.Usage == "" {
		return
	}
	fmt.Fprintf(w, "  --%s '%s'\n", fl.Name, fl.DefValue)
	for line := range slices.Values(wrap(fl.Usage, helpWidth-4)) {
		fmt.Fprintf(w, "    %s\n", line)
	}
}

// wrap breaks a text into lines of at most width characters.
func wrap(text string, width int) (lines []string) {
	line, length := "", 0
	for _, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		if line != "" && length+1+n > width {
			lines, line, length = append(lines, line), "", 0
		}
		if line != "" {
			line, length = line+" ", length+1
		}
		line, length = line+word, length+n
	}
	return append(lines, line)
}
