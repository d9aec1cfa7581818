package wire

import "google.golang.org/protobuf/encoding/protowire"

// edits are the changes of one message that put it into a namespace, or take it out of one, in the message's order.
//
// They are found by walking through the message by its layout. The length of an embedded message stands before what it
// depends on: its edit is reserved when the walk enters the embedded message, and set when it leaves it.
type edits struct {
	namespace Namespace
	msg       []byte
	list      []edit
	end       []byte // the namespace's, once it is asked for
}

// edit is one change: msg[from:to] becomes the tag, unless it is 0, the length, unless it is negative, and what is inserted.
type edit struct {
	from, to int
	length   int
	tag      byte
	insert   insertion
}

type insertion uint8

const (
	insertNothing  insertion = iota
	insertPrefix             // the namespace
	insertSmallest           // the smallest key in it
	insertEnd                // its end
)

// maxMessageDepth is how deep messages may be nested. protobuf takes none that are deeper.
const maxMessageDepth = protowire.DefaultRecursionLimit

// request finds the changes of a request, msg[start:end], and returns by how many bytes they make it larger.
func (e *edits) request(k Keyed, start, end, depth int) (grown int, err error) {
	l := &layouts[k]
	if depth >= maxMessageDepth {
		return 0, malformed(l.name, 0)
	}
	msg, seen := e.msg[:end], uint(0)
	var tag uint64
	var body []byte
	for at, i := start, start; i < end; at = i {
		tag, i = readVarint(msg, i)
		n := l.find(tag)
		if n < 0 {
			if i = skipField(msg, i, tag); i < 0 {
				return 0, malformed(l.name, at-start)
			}
			if hasRoom(tag) {
				return 0, &UnknownFieldError{Message: l.name, Field: tag >> 3}
			}
			continue
		}
		length := i
		if body, i = readBytes(msg, i); i < 0 {
			return 0, malformed(l.name, at-start)
		}
		seen |= 1 << n
		from, f := i-len(body), &l.fields[n]
		switch {
		case f.role == nested:
			reserved := e.enter()
			more, err := e.request(f.in, from, i, depth+1)
			if err != nil {
				return 0, err
			}
			grown += e.leave(reserved, length, from, i, more)
		case f.role == rangeEnd && isOpenEnd(body):
			grown += e.add(edit{from: length, to: i, length: e.sizeOf(insertEnd), insert: insertEnd})
		case f.role == watchedKey && len(body) == 0:
			grown += e.add(edit{from: length, to: i, length: e.sizeOf(insertSmallest), insert: insertSmallest})
		case f.role == keyPrefix || f.role != opaque && len(body) > 0:
			grown += e.add(edit{from: length, to: from, length: len(e.namespace) + len(body), insert: insertPrefix})
		}
	}
	for n := range l.fields {
		f, insert := &l.fields[n], insertNothing
		switch {
		case seen&(1<<n) != 0:
		case f.role == watchedKey:
			insert = insertSmallest
		case f.role == keyPrefix:
			insert = insertPrefix
		}
		if insert != insertNothing {
			grown += e.add(edit{from: end, to: end, tag: f.num<<3 | bytesType, length: e.sizeOf(insert), insert: insert})
		}
	}
	return grown, nil
}

// answer finds the changes of an answer, msg[start:end], and returns by how many bytes they make it larger, which is never
// positive. What is not known is left alone: it is upstream's, and meant for the client.
func (e *edits) answer(k Keyed, start, end, depth int) (grown int, err error) {
	l := &layouts[k]
	if depth >= maxMessageDepth {
		return 0, malformed(l.name, 0)
	}
	msg, seen := e.msg[:end], uint(0)
	var tag uint64
	var body []byte
	for at, i := start, start; i < end; at = i {
		tag, i = readVarint(msg, i)
		n := l.find(tag)
		if n < 0 {
			if i = skipField(msg, i, tag); i < 0 {
				return 0, malformed(l.name, at-start)
			}
			continue
		}
		length := i
		if body, i = readBytes(msg, i); i < 0 {
			return 0, malformed(l.name, at-start)
		}
		seen |= 1 << n
		from, f := i-len(body), &l.fields[n]
		switch {
		case f.role == nested:
			reserved := e.enter()
			more, err := e.answer(f.in, from, i, depth+1)
			if err != nil {
				return 0, err
			}
			grown += e.leave(reserved, length, from, i, more)
		case e.namespace.has(body):
			grown += e.add(edit{from: length, to: from + len(e.namespace), length: len(body) - len(e.namespace)})
		case f.role == listedKey:
			grown += e.add(edit{from: at, to: i, length: -1})
		default:
			return 0, ErrForeignKey
		}
	}
	for n := range l.fields {
		if l.fields[n].role == ownKey && seen&(1<<n) == 0 {
			return 0, ErrForeignKey // an empty one
		}
	}
	return grown, nil
}

// hasRoom tells whether a field with this tag may hold bytes.
func hasRoom(tag uint64) bool {
	switch protowire.Type(tag & 7) {
	case protowire.VarintType, protowire.Fixed32Type, protowire.Fixed64Type:
		return false
	}
	return true
}

// enter reserves the edit of an embedded message's length.
func (e *edits) enter() (reserved int) {
	e.list = append(e.list, edit{})
	return len(e.list) - 1
}

// leave sets the edit that was reserved for an embedded message, msg[from:to], whose length is at msg[length:], and which
// becomes so many bytes larger. It returns by how many bytes the message around it does.
func (e *edits) leave(reserved, length, from, to, grown int) int {
	if len(e.list) == reserved+1 { // nothing changes in it
		e.list = e.list[:reserved]
		return 0
	}
	c := edit{from: length, to: from, length: to - from + grown}
	e.list[reserved] = c
	return grown + e.grows(c)
}

// add adds a change and returns by how many bytes it makes the message larger.
func (e *edits) add(c edit) int {
	e.list = append(e.list, c)
	return e.grows(c)
}

func (e *edits) grows(c edit) int {
	n := e.sizeOf(c.insert) - (c.to - c.from)
	if c.length >= 0 {
		n += protowire.SizeVarint(uint64(c.length))
	}
	if c.tag != 0 {
		n++
	}
	return n
}

func (e *edits) sizeOf(i insertion) int {
	switch i {
	case insertPrefix:
		return len(e.namespace)
	case insertSmallest:
		return len(e.namespace) + 1
	case insertEnd:
		if e.end == nil {
			e.end = e.namespace.End()
		}
		return len(e.end)
	}
	return 0
}

// apply returns the message with its changes, which make it so many bytes larger.
func (e *edits) apply(grown int) []byte {
	if len(e.list) == 0 {
		return e.msg
	}
	return e.appendTo(make([]byte, 0, len(e.msg)+grown))
}

func (e *edits) appendTo(dst []byte) []byte {
	done := 0
	for i := range e.list {
		c := &e.list[i]
		dst = append(dst, e.msg[done:c.from]...)
		done = c.to
		if c.tag != 0 {
			dst = append(dst, c.tag)
		}
		if c.length >= 0 {
			dst = protowire.AppendVarint(dst, uint64(c.length))
		}
		switch c.insert {
		case insertPrefix:
			dst = append(dst, e.namespace...)
		case insertSmallest:
			dst = append(append(dst, e.namespace...), 0)
		case insertEnd:
			dst = append(dst, e.end...)
		}
	}
	return append(dst, e.msg[done:]...)
}
