package mvcc

import (
	"errors"
	"slices"
	"testing"

	"weir/grpcapi/wire"
)

// TestHistoryStopsAndGoesOn reads one revision at a time, of a range that not every revision touches.
func TestHistoryStopsAndGoesOn(t *testing.T) {
	s := openTemp(t, manual())
	put(s, "a1", "")       // 2
	put(s, "b", "")        // 3
	put(s, "a2", "")       // 4
	del(s, "\x00", "\x00") // 5
	put(s, "b", "")        // 6
	type stop struct{ rev, next int64 }
	for name, end := range map[string]string{"keys of the index": "b", "walk": "\x00"} {
		want := []stop{{2, 3}, {4, 5}, {5, 6}}
		if end == "\x00" {
			want = []stop{{2, 3}, {3, 4}, {4, 5}, {5, 6}, {6, 7}}
		}
		var got []stop
		for from := int64(0); ; {
			rev := int64(0)
			next, err := s.History([]byte("a"), []byte(end), from, func(r int64, _ []wire.Event) bool {
				rev = r
				return false
			})
			if err != nil {
				t.Fatal(err)
			}
			if rev == 0 {
				if next != 7 {
					t.Errorf("%s: ends at %d, want 7", name, next)
				}
				break
			}
			got = append(got, stop{rev, next})
			from = next
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %v, want %v", name, got, want)
		}
	}
	if next, err := s.History([]byte("a"), nil, 99, nil); next != 99 || err != nil {
		t.Errorf("from the future: %d %v", next, err)
	}
}

func TestHistoryMayStartAtCompactRevision(t *testing.T) {
	s := openTemp(t, manual())
	put(s, "a", "1")
	put(s, "b", "1")
	rev := del(s, "a", "")
	put(s, "b", "2")
	compact(t, s, rev)
	var got []int64
	_, err := s.History([]byte("a"), []byte("c"), rev, func(r int64, events []wire.Event) bool {
		got = append(got, r)
		return true
	})
	if err != nil || !slices.Equal(got, []int64{4, 5}) {
		t.Errorf("got %v %v", got, err)
	}
	if _, err := s.History([]byte("a"), []byte("c"), rev-1, nil); !errors.Is(err, ErrCompacted) {
		t.Errorf("before: %v", err)
	}
}
