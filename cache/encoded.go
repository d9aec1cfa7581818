package cache

import (
	"errors"
	"fmt"
	"math/bits"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"

	"weir/grpcapi/wire"
)

// encoded is a KeyValue as it is sent to clients: a canonical mvccpb.KeyValue with a key, in memory of its own. The key
// is its first field, and so is not stored a second time to be searched by. It is a string because nobody may
// change it, and because a string takes a third less room in a tree than a slice.
type encoded string

var errNoKey = errors.New("KeyValue without a key")

// encode copies the KeyValue b. Since it writes the fields that it has read, the copy is canonical whatever b was.
func encode(b []byte) (encoded, error) {
	var kv wire.KeyValue
	if err := kv.Unmarshal(b); err != nil {
		return "", err
	}
	if len(kv.Key) == 0 {
		return "", errNoKey
	}
	own := kv.Append(make([]byte, 0, kv.Size()))
	return encoded(borrow(own)), nil
}

// key returns the key, which shares the memory of e.
func (e encoded) key() string {
	if n := int(e[1]); n < 0x80 {
		return string(e[2 : 2+n])
	}
	return e.longKey()
}

// longKey is apart so that key is inlined.
func (e encoded) longKey() string {
	n, size := protowire.ConsumeVarint(e[1:].bytes())
	return string(e[1+size : 1+size+int(n)])
}

// bytes returns e as it is. The caller must not change it.
func (e encoded) bytes() []byte { return unsafe.Slice(unsafe.StringData(string(e)), len(e)) }

func (e encoded) size() int { return allocated(len(e)) }

// borrow views b as a string, for memory that nobody changes as long as the string is used.
func borrow(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// allocated is about what the runtime takes for n bytes. Its size classes are eight to each power of two and multiples of
// 16, with a few left out (runtime/sizeclasses.go).
func allocated(n int) int {
	step := max(16, 1<<max(0, bits.Len(uint(n))-4))
	return (n + step - 1) &^ (step - 1)
}

// change is what a revision did to a key: kv is what it put, "" if it deleted the key.
type change struct {
	key string
	kv  encoded
}

// changeOf returns what e did. The key of a deletion shares the memory of e.
func changeOf(e *wire.Event) (change, error) {
	if e.Delete {
		return change{key: borrow(e.Key)}, nil
	}
	kv, err := encode(e.KeyValue())
	if err != nil {
		return change{}, fmt.Errorf("event of key %q: %w", e.Key, err)
	}
	return change{key: kv.key(), kv: kv}, nil
}
