package main

import (
	"fmt"
	"slices"
	"strings"
)

// prefixes are prefixes of keys, given by a flag once or several times, or by its variable. The empty one is the whole
// key space.
type prefixes []string

// wholeKeySpace is how the empty prefix is said where it cannot be said by nothing at all: an empty variable counts
// as none, and an empty element of a list is more likely a slip than the wish for every key.
const wholeKeySpace = `""`

// add takes one flag, or the variable. An empty flag is the empty prefix.
func (p *prefixes) add(list string) error {
	if list == "" {
		list = wholeKeySpace
	}
	for prefix := range strings.SplitSeq(list, ",") {
		switch prefix = strings.TrimSpace(prefix); prefix {
		case "":
			return fmt.Errorf("it has an empty element: leave the comma out, or write %s for every key", wholeKeySpace)
		case wholeKeySpace:
			prefix = ""
		}
		if strings.Contains(prefix, `"`) {
			return fmt.Errorf("it has a double quote in %s: write prefixes without quotes; one with a comma or a quote cannot be given", prefix)
		}
		if !slices.Contains(*p, prefix) {
			*p = append(*p, prefix)
		}
	}
	return nil
}
