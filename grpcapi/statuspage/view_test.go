package statuspage

import (
	"strings"
	"testing"
	"time"
)

func TestKeysAreEscapedAndCut(t *testing.T) {
	for key, want := range map[string]string{
		"/registry/pods/": "/registry/pods/", `say "hi"`: `say "hi"`, "a\x00\xff\n": `a\x00\xff\n`, "ключ": `\u043a\u043b\u044e\u0447`,
		strings.Repeat("k", 97): strings.Repeat("k", 96) + "…",
	} {
		if got := Key([]byte(key)); got != want {
			t.Errorf("%q: got %q", key, got)
		}
	}
	for _, c := range []struct{ key, end, want string }{
		{"a", "", "a"}, {"/a/", "/a0", "/a/*"}, {"a\xff", "b", `a\xff*`}, {"\x00", "\x00", "all keys"}, {"", "\x00", "all keys"},
		{"b", "\x00", "from b"}, {"a", "c", "[a, c)"}, {"ab", "b", "[ab, b)"},
	} {
		if got := Range([]byte(c.key), []byte(c.end)); got != c.want {
			t.Errorf("%q to %q: got %q, want %q", c.key, c.end, got, c.want)
		}
	}
}

func TestNumbersAreShort(t *testing.T) {
	for got, want := range map[string]string{
		Count(1234567): "1\u202f234\u202f567", Count(-1000): "-1\u202f000", Count(uint64(7)): "7", Bytes(0): "0 B", Bytes(1536): "1.5 KiB",
		Bytes(int64(3) << 30): "3 GiB", Rate(12.345): "12.3 /s", Rate(10): "10 /s", Share(1, 3): "33.3 %", Share(0, 0): "–", Share(99999, 100000): "99.9 %", Share(5, 5): "100 %",
		Took(1500 * time.Nanosecond): "1.5 µs", Took(20 * time.Millisecond): "20 ms", Took(90 * time.Second): "1m30s",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
