package coalesce

// Range is a part of the key space, and whether its events come with previous values.
type Range struct {
	Key, End []byte // as in etcd's requests: no end is the single key, an end of one zero byte is no end
	PrevKV   bool   // with previous values
}

// Contains tells whether somebody who has r has o too: every key of it, and previous values if o is with them.
func (r Range) Contains(o Range) bool {
	return (r.PrevKV || !o.PrevKV) && contains(string(r.Key), string(r.End), string(o.Key), string(o.End))
}

// holds is Contains for the range of a group.
func (r Range) holds(g *group) bool {
	return (r.PrevKV || !g.options.prevKV) && contains(string(r.Key), string(r.End), g.key, g.end)
}

// contains tells whether [key, end) holds [innerKey, innerEnd).
func contains(key, end, innerKey, innerEnd string) bool {
	switch {
	case end == "":
		return innerEnd == "" && innerKey == key
	case innerKey < key:
		return false
	case end == noEnd:
		return true
	case innerEnd == "":
		return innerKey < end
	}
	return innerEnd != noEnd && innerEnd <= end
}

// noEnd is the end of a range that has none.
const noEnd = "\x00"

// hull is the smallest range that holds the ranges of all parts. If they are all the same it is that one.
func hull(parts []part) Range {
	first := parts[0].group
	key, end, prevKV, same := first.key, first.end, false, true
	for i := range parts {
		g := parts[i].group
		same = same && g.key == first.key && g.end == first.end
		prevKV = prevKV || g.options.prevKV
	}
	if !same {
		end = ""
		for i := range parts {
			g := parts[i].group
			key = min(key, g.key)
			if g.end == "" {
				end = laterEnd(end, g.key+"\x00")
			} else {
				end = laterEnd(end, g.end)
			}
		}
	}
	return Range{Key: []byte(key), End: []byte(end), PrevKV: prevKV}
}
