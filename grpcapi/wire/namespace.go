package wire

import (
	"errors"
	"fmt"
	"slices"
)

// Namespace is what a server puts before every key of a client and takes off again, so that the client lives in a part of
// the store as if that were all of it. It is not empty.
//
// Messages are rewritten as they are: one pass finds what is to change (edits), another copies the message with the changes.
// Both are linear in it, however deep transactions are nested. To decode it, change its keys and encode it again was
// rejected: it costs several times as much.
//
// Nothing that upstream could take for a key leaves the namespace, whatever the bytes are. A field that is given twice is
// rewritten twice, since decoders take the last one; one that is missing is added where upstream would use an empty key; and
// a field that is not known here is refused if it has room for a key. Only a key that is empty where every server refuses an
// empty one stays so, because clients know that error.
//
// Ranges are as with etcd's own client/v3/namespace, but for prefixes that end with 0xff, after which that reads one key more.
// All methods may be called concurrently.
type Namespace string

// maxNamespaceGrowth bounds in bytes what a namespace may add to a request. etcd by default takes none as large as that.
const maxNamespaceGrowth = 4 << 20

var (
	// ErrNamespaceTooLarge is the error of Request for one with so many keys that upstream would not take it.
	ErrNamespaceTooLarge = errors.New("request is too large in its namespace")
	// ErrForeignKey is the error of Answer for one with a key outside the namespace, which must not be given.
	ErrForeignKey = errors.New("answer has a key outside the namespace")
)

// UnknownFieldError is the error of Request for a field that is not known here and could hold a key.
type UnknownFieldError struct {
	Message string // as "RangeRequest"
	Field   uint64
}

// Error is part of error.
func (e *UnknownFieldError) Error() string {
	return fmt.Sprintf("field %d of %s is not known here, and might hold a key outside the namespace", e.Field, e.Message)
}

// Key is where a client's key is in the store.
func (n Namespace) Key(key []byte) []byte {
	return append(append(make([]byte, 0, len(n)+len(key)), n...), key...)
}

// RangeEnd is where a client's range ends in the store: nowhere if it is of a single key, which is "", and at the end of the
// namespace if it goes to the end of all keys, which is "\0".
func (n Namespace) RangeEnd(end []byte) []byte {
	switch {
	case len(end) == 0:
		return nil
	case isOpenEnd(end):
		return n.End()
	}
	return n.Key(end)
}

// End is the first key behind the namespace, or "\0", the end of all keys, if nothing is.
func (n Namespace) End() []byte {
	for i := len(n) - 1; i >= 0; i-- {
		if n[i] != 0xff {
			end := []byte(n[:i+1])
			end[i]++
			return end
		}
	}
	return []byte{0}
}

// isOpenEnd tells whether a range end stands for the end of all keys.
func isOpenEnd(end []byte) bool { return len(end) == 1 && end[0] == 0 }

// has tells whether a key of the store is in the namespace.
func (n Namespace) has(key []byte) bool {
	return len(key) >= len(n) && string(key[:len(n)]) == string(n)
}

// Request returns an encoded request of a client as upstream is to have it, which may share msg. The error is that msg is
// malformed, a *UnknownFieldError, or ErrNamespaceTooLarge.
func (n Namespace) Request(k Keyed, msg []byte) ([]byte, error) {
	if k == NoKeys {
		return msg, nil
	}
	e := edits{namespace: n, msg: msg}
	grown, err := e.request(k, 0, len(msg), 0)
	switch {
	case err != nil:
		return nil, err
	case grown > maxNamespaceGrowth:
		return nil, ErrNamespaceTooLarge
	}
	return e.apply(grown), nil
}

// Answer returns an encoded answer of upstream as the client is to have it, which may share msg. Keys outside the namespace
// are left out of lists in which others' keys are to be expected. The error is that msg is malformed, or ErrForeignKey.
func (n Namespace) Answer(k Keyed, msg []byte) ([]byte, error) {
	if k == NoKeys {
		return msg, nil
	}
	e := edits{namespace: n, msg: msg}
	grown, err := e.answer(k, 0, len(msg), 0)
	if err != nil {
		return nil, err
	}
	return e.apply(grown), nil
}

// AnswerEvents is Answer for events that are not in a message yet. They are without previous values unless prevKV is set.
func (n Namespace) AnswerEvents(events []Event, prevKV bool) ([]Event, error) {
	out, size := slices.Clone(events), 0
	for i := range out {
		if !prevKV {
			out[i].Prev = nil
		}
		size += len(out[i].Data) + len(out[i].Prev)
	}
	all := make([]byte, 0, size) // of the answers, which are smaller
	e := edits{namespace: n}
	answer := func(k Keyed, msg []byte) ([]byte, error) {
		e.msg, e.list = msg, e.list[:0]
		if _, err := e.answer(k, 0, len(msg), 0); err != nil {
			return nil, err
		}
		start := len(all)
		all = e.appendTo(all)
		return all[start:len(all):len(all)], nil
	}
	var err error
	for i := range out {
		event := &out[i]
		if !n.has(event.Key) { // nor is there one in an event without a KeyValue
			return nil, ErrForeignKey
		}
		event.Key = event.Key[len(n):]
		if event.Data, err = answer(eventKeys, event.Data); err != nil {
			return nil, err
		}
		if event.Prev == nil {
			continue
		}
		if event.Prev, err = answer(keyValueKeys, event.Prev); err != nil {
			return nil, err
		}
	}
	return out, nil
}
