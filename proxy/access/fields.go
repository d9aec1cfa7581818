package access

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// What a request asks for can be judged only if each of its fields is known: a newer etcd may give it one more, and a decoder
// skips what it does not know, while upstream does not.

// isKnown tells whether an encoded message, which can be decoded, has no fields with higher numbers than last.
func isKnown(raw []byte, last protowire.Number) bool {
	for len(raw) > 0 {
		num, _, n := protowire.ConsumeField(raw)
		if n < 0 || num > last {
			return false
		}
		raw = raw[n:]
	}
	return true
}

// hasUnknown tells whether there are unknown fields in a decoded message, or in one that is in it.
func hasUnknown(m protoreflect.Message) bool {
	if len(m.GetUnknown()) > 0 {
		return true
	}
	found := false
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.Message() == nil, found:
		case f.IsMap():
			found = v.Map().Len() > 0 // no request of etcd has one
		case f.IsList():
			for i := range v.List().Len() {
				found = found || hasUnknown(v.List().Get(i).Message())
			}
		default:
			found = hasUnknown(v.Message())
		}
		return !found
	})
	return found
}
