package reads

import (
	"strings"

	"weir/coalesce"
)

// interval is the keys of a range, from the first to the one before `to`. No `to` is no end. It is comparable, and
// a single key has the same form as any range.
type interval struct{ from, to string }

// everything is all keys that there can be: none is empty.
var everything = interval{from: "\x00"}

// noEnd is what etcd's requests have for a range without end.
const noEnd = "\x00"

// intervalOf is the keys of [key, end), by etcd's conventions: no end is the single key, an end of one zero byte is no
// end.
func intervalOf(key, end []byte) interval {
	switch {
	case len(end) == 0:
		return interval{string(key), string(key) + "\x00"}
	case string(end) == noEnd:
		return interval{from: string(key)}
	}
	return interval{string(key), string(end)}
}

// ofPrefix is all keys that begin with prefix.
func ofPrefix(prefix string) interval {
	if prefix == "" {
		return everything
	}
	end := []byte(prefix)
	for n := len(end); n > 0; n-- {
		if end[n-1]++; end[n-1] != 0 {
			return interval{prefix, string(end[:n])}
		}
	}
	return interval{from: prefix} // nothing is behind it
}

// span is the interval by etcd's conventions.
func (i interval) span() coalesce.Range {
	switch {
	case i.isKey():
		return coalesce.Range{Key: []byte(i.from)}
	case i.to == "":
		return coalesce.Range{Key: []byte(i.from), End: []byte(noEnd)}
	}
	return coalesce.Range{Key: []byte(i.from), End: []byte(i.to)}
}

// isKey tells whether there can only be one key.
func (i interval) isKey() bool {
	return len(i.to) == len(i.from)+1 && strings.HasPrefix(i.to, i.from) && i.to[len(i.from)] == 0
}

func (i interval) contains(o interval) bool {
	return i.from <= o.from && (i.to == "" || o.to != "" && o.to <= i.to)
}

// String is for the log.
func (i interval) String() string {
	switch {
	case i.isKey():
		return i.from
	case i.to == "":
		return "[" + i.from + ", end)"
	}
	return "[" + i.from + ", " + i.to + ")"
}
