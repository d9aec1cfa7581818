package process

import "testing"

func TestSameSocketWhateverItIsCalled(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"127.0.0.1:1", "localhost:1", true},
		{"127.0.0.1:1", "127.0.0.1:2", false},
		{"127.0.0.1:0", "127.0.0.1:0", false},
		{":1", "127.0.0.1:1", true},
		{"[::]:1", "10.0.0.1:1", true},
		{"0.0.0.0:1", "10.0.0.1:1", true},
		{"0.0.0.0:1", "[::1]:1", false},
		{"[::1]:1", "localhost:1", false},
		{"name:1", "name:1", true},
		{"name:1", "127.0.0.1:1", false},
		{"/a/socket", "/a/socket", true},
		{"/a/socket", "/another", false},
	} {
		if got := SameSocket(c.a, c.b); got != c.want || SameSocket(c.b, c.a) != c.want {
			t.Errorf("%s and %s: got %v", c.a, c.b, got)
		}
	}
}
