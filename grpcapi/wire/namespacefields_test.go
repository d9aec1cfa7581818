package wire

import (
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
)

// A field with bytes that a request has and its layout has not would be refused; one that an answer has could show a key.
func TestLayoutsAreThoseOfEtcdsMessages(t *testing.T) {
	checked := map[Keyed]bool{}
	var check func(k Keyed, d protoreflect.MessageDescriptor, request bool)
	check = func(k Keyed, d protoreflect.MessageDescriptor, request bool) {
		if checked[k] {
			return
		}
		checked[k] = true
		l := &layouts[k]
		if l.name != string(d.Name()) {
			t.Errorf("the layout of %s is named %s", d.Name(), l.name)
		}
		known := 0
		for i := range d.Fields().Len() {
			f := d.Fields().Get(i)
			n := l.find(uint64(f.Number())<<3 | uint64(bytesType))
			switch {
			case n >= 0:
				known++
				if nests := f.Kind() == protoreflect.MessageKind; nests != (l.fields[n].role == nested) {
					t.Errorf("%s: role %d", f.FullName(), l.fields[n].role)
				} else if nests {
					check(l.fields[n].in, f.Message(), request)
				} else if want := modelRoles[f.FullName()]; l.fields[n].role != want {
					t.Errorf("%s: role %d, want %d", f.FullName(), l.fields[n].role, want)
				}
			case f.Kind() == protoreflect.MessageKind && f.Message().Name() == "ResponseHeader":
			case request && (f.Kind() == protoreflect.BytesKind || f.Kind() == protoreflect.StringKind || f.IsPacked() || f.Message() != nil),
				f.Kind() == protoreflect.BytesKind && f.FullName() != "mvccpb.KeyValue.value", !request && f.Message() != nil:
				t.Errorf("the layout has no %s", f.FullName())
			}
		}
		if known != len(l.fields) {
			t.Errorf("the layout of %s has fields that the message has not", d.Name())
		}
	}
	for _, m := range keyedRequests {
		check(m.kind, m.make().ProtoReflect().Descriptor(), true)
	}
	for _, m := range keyedAnswers {
		check(m.kind, m.make().ProtoReflect().Descriptor(), false)
	}
	for k := range layouts {
		for _, f := range layouts[k].fields {
			if f.num > 15 && (f.role == watchedKey || f.role == keyPrefix) {
				t.Errorf("%s: the tag of field %d, which may have to be added, is longer than a byte", layouts[k].name, f.num)
			}
		}
	}
}
