package core

import (
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestPingsThatWaitShareACall(t *testing.T) {
	q := newPingQueue()
	for i := range maxPings + 1 {
		b, place := q.join(int64(i))
		if want := i % maxPings; place != want || b.ids[place] != int64(i) {
			t.Fatalf("ping %d is at %d", i, place)
		}
	}
	for _, want := range []int{maxPings, 1} {
		if b := q.take(); b == nil || len(b.ids) != want {
			t.Fatalf("a call with %v, want %d pings", b, want)
		}
	}
	if b := q.take(); b != nil {
		t.Errorf("a call with %d, want none", b.ids)
	}
}

func TestIDsAndNumbersComeBackAsTheyWere(t *testing.T) {
	ids := []int64{0, 1, -1, 1 << 62}
	if got, err := parseIDs(appendIDs(nil, ids)); err != nil || !slices.Equal(got, ids) {
		t.Errorf("ids %d, %v", got, err)
	}
	numbers := []int64{0, 1, 300, 9_000_000_000}
	if got, err := parseNumbers(appendNumbers(nil, numbers...), 4); err != nil || !slices.Equal(got, numbers) {
		t.Errorf("numbers %d, %v", got, err)
	}
}

func TestWhatNoMemberSendsIsRefused(t *testing.T) {
	for _, b := range [][]byte{make([]byte, 7), make([]byte, 8*maxPings+8)} {
		if _, err := parseIDs(b); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%d bytes of ids: %v", len(b), err)
		}
	}
	for _, b := range [][]byte{{}, {1}, {1, 0x80}, {1, 2, 3}} {
		if _, err := parseNumbers(b, 2); status.Code(err) != codes.Internal {
			t.Errorf("two numbers from %x: %v", b, err)
		}
	}
}
