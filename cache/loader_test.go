package cache

import (
	"bytes"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

func mustMarshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestLoaderRefusesWhatIsNoRange(t *testing.T) {
	l := NewLoader()
	if err := l.Add(testKV("b", 1).bytes()); err != nil {
		t.Fatal(err)
	}
	before := l.Bytes()
	for _, c := range []struct {
		name string
		kv   []byte
		want string
	}{
		{"same key", testKV("b", 2).bytes(), `load snapshot: key "b" comes after "b"`},
		{"descending", testKV("a", 2).bytes(), `load snapshot: key "a" comes after "b"`},
		{"no key", []byte{0x10, 1}, "load snapshot: KeyValue without a key"},
		{"malformed", []byte{0x0a, 5, 'c'}, "load snapshot: decode KeyValue: malformed field at offset 0"},
	} {
		if err := l.Add(c.kv); err == nil || err.Error() != c.want {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
	}
	if l.Bytes() != before {
		t.Errorf("%d bytes, %d before what was refused", l.Bytes(), before)
	}
	s := l.Snapshot(7, 0)
	v, _ := s.View(7)
	if kvs, count := v.Range([]byte{0}, []byte{0}, 0); count != 1 || string(kvs[0]) != string(testKV("b", 1)) {
		t.Errorf("the snapshot has %d keys: %q", count, kvs)
	}
}

func TestNothingLoadedIsAnEmptySnapshot(t *testing.T) {
	s := NewLoader().Snapshot(7, 0)
	v, ok := s.View(0)
	if !ok || s.Keys() != 0 || s.Revision() != 7 || s.Oldest() != 7 || v.Revision() != 7 {
		t.Fatalf("%d keys, revision %d, oldest %d, view %v of %d", s.Keys(), s.Revision(), s.Oldest(), ok, v.Revision())
	}
	if kvs, count := v.Range([]byte("a"), []byte{0}, 0); kvs != nil || count != 0 {
		t.Errorf("%d keys: %q", count, kvs)
	}
	if kvs, count := v.Range([]byte("a"), nil, 0); kvs != nil || count != 0 {
		t.Errorf("%d keys: %q", count, kvs)
	}
}

func TestLoaderKeepsItsOwnMemory(t *testing.T) {
	given := bytes.Clone(testKV("a", 1).bytes())
	l := NewLoader()
	if err := l.Add(given); err != nil {
		t.Fatal(err)
	}
	clear(given)
	v, _ := l.Snapshot(1, 0).View(0)
	if kvs, _ := v.Range([]byte("a"), nil, 0); len(kvs) != 1 || string(kvs[0]) != string(testKV("a", 1)) {
		t.Errorf("got %q", kvs)
	}
}

func FuzzLoaderAdd(f *testing.F) {
	f.Add(testKV("key", 1).bytes())
	f.Add([]byte{0x10, 1, 0x0a, 1, 'k'})    // key not first
	f.Add([]byte{0x0a, 0x81, 0x00, 'k'})    // length longer than needed
	f.Add([]byte{0x0a, 1, 'k', 0x7a, 1, 0}) // unknown field
	f.Fuzz(func(t *testing.T, b []byte) {
		var want mvccpb.KeyValue
		valid := proto.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, &want) == nil && len(want.Key) > 0
		l := NewLoader()
		if err := l.Add(b); (err == nil) != valid {
			t.Fatalf("error %v of a KeyValue that is valid: %v", err, valid)
		}
		if !valid {
			return
		}
		v, _ := l.Snapshot(1, 0).View(0)
		kvs, _ := v.Range(want.Key, nil, 0)
		if len(kvs) != 1 || !bytes.Equal(kvs[0], mustMarshal(t, &want)) {
			t.Fatalf("kept %x of %x", kvs, b)
		}
	})
}
