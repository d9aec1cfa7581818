package core

import (
	"bytes"
	"strings"
	"testing"

	"weir/core/auth"
)

func TestEntryKeepsItsRequests(t *testing.T) {
	payloads := [][]byte{[]byte("one"), {}, bytes.Repeat([]byte("x"), 300)}
	data := appendEntryHeader(nil, 7)
	users := []auth.Identity{{}, {User: "alice", Revision: 300}, {User: "", Revision: 1}}
	for i, p := range payloads {
		before := len(data)
		data = appendEntryRequest(data, kind(i+1), users[i], p)
		if added, bound := len(data)-before, entryRequestSize(users[i], p); added > bound {
			t.Fatalf("request %d takes %d bytes, and was to take at most %d", i, added, bound)
		}
	}
	id, rest, err := readEntryHeader(data)
	if err != nil || id != 7 {
		t.Fatalf("header: batch %d, %v", id, err)
	}
	for i, want := range payloads {
		var k kind
		var as auth.Identity
		var got []byte
		if k, as, got, rest, err = readEntryRequest(rest); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		if k != kind(i+1) || as != users[i] || !bytes.Equal(got, want) {
			t.Fatalf("request %d is %v of %v with %d bytes, want %v of %v with %d", i, k, as, len(got), kind(i+1), users[i], len(want))
		}
	}
	if len(rest) != 0 {
		t.Fatalf("%d bytes are left", len(rest))
	}
}

func TestEntryOfAnotherVersionIsRefusedByName(t *testing.T) {
	data := appendEntryHeader(nil, 1)
	data[0] = 9
	if _, _, err := readEntryHeader(data); err == nil || !strings.Contains(err.Error(), "format version 9") {
		t.Fatalf("got %v", err)
	}
	if _, err := decode(kind(99), nil, newestLevel); err == nil || !strings.Contains(err.Error(), "kind 99") {
		t.Fatalf("got %v", err)
	}
}

func FuzzReadEntry(f *testing.F) {
	f.Add(appendEntryRequest(appendEntryHeader(nil, 1), kindPut, auth.Identity{}, []byte("payload")))
	f.Add(appendEntryRequest(appendEntryHeader(nil, 1), kindPut, auth.Identity{User: "bob", Revision: 4}, []byte("payload")))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, rest, err := readEntryHeader(data)
		for err == nil && len(rest) > 0 {
			before := len(rest)
			if _, _, _, rest, err = readEntryRequest(rest); err == nil && len(rest) >= before {
				t.Fatal("no progress")
			}
		}
	})
}
