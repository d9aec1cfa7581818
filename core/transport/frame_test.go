package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"iter"
	"math"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

func frameOf(t testing.TB, ms ...*raftpb.Message) []byte {
	t.Helper()
	var out []outgoing
	for _, m := range ms {
		out = append(out, outgoing{m, proto.Size(m)})
	}
	frame, err := encodeFrame(out)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := assembled(slices.Collect(materialized(frame)), maxFrameSize)
	if err != nil || whole == nil {
		t.Fatalf("%d bytes: %v", len(whole), err)
	}
	return whole
}

// materialized are the parts of a frame, as a peer receives them.
func materialized(frame mem.Buffer) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for part := range partsOf(frame) {
			b := part.Materialize()
			part.Free()
			if !yield(b) {
				return
			}
		}
	}
}

// assembled is the frame that has these parts, nil if it is not whole.
func assembled(parts [][]byte, limit int) (frame []byte, err error) {
	a := assembly{limit: func() int { return limit }}
	for _, part := range parts {
		if frame, err = a.add(part); err != nil {
			return nil, err
		}
	}
	return frame, nil
}

func messagesOf(b []byte) (ms []*raftpb.Message, err error) {
	err = decodeFrame(b, func(m *raftpb.Message) error {
		ms = append(ms, m)
		return nil
	})
	return ms, err
}

func everyField() *raftpb.Message {
	return &raftpb.Message{
		Type: raftpb.MsgApp.Enum(), To: proto.Uint64(1), From: proto.Uint64(math.MaxUint64), Term: proto.Uint64(3),
		LogTerm: proto.Uint64(4), Index: proto.Uint64(5), Commit: proto.Uint64(6), Vote: proto.Uint64(7),
		Entries: []*raftpb.Entry{
			{Term: proto.Uint64(1), Index: proto.Uint64(2), Type: raftpb.EntryConfChangeV2.Enum(), Data: []byte("x")},
			{},
		},
		Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
			ConfState: &raftpb.ConfState{Voters: []uint64{1, 2}}, Index: proto.Uint64(1), Term: proto.Uint64(1),
		}},
		Reject: proto.Bool(true), RejectHint: proto.Uint64(8), Context: []byte("context"),
	}
}

func TestFrameKeepsMessagesAndTheirOrder(t *testing.T) {
	large := everyField()
	large.Entries[0].Data = bytes.Repeat([]byte("large"), 1<<20)
	want := []*raftpb.Message{everyField(), {}, large, {Type: raftpb.MsgHeartbeat.Enum()}}
	got, err := messagesOf(frameOf(t, want...))
	if err != nil || len(got) != len(want) {
		t.Fatalf("%d messages, %v", len(got), err)
	}
	for i := range want {
		wantMessage(t, got[i], want[i])
	}
}

func TestFrameIsSentInPartsThatAreNotTooLarge(t *testing.T) {
	for _, data := range []int{0, partSize - 100, partSize - 1, partSize, partSize + 1, 2 * partSize, 5*partSize + 12345} {
		m := everyField()
		m.Entries[0].Data = bytes.Repeat([]byte("abcdefg"), data/7+1)[:data]
		frame, err := encodeFrame([]outgoing{{m, proto.Size(m)}})
		if err != nil {
			t.Fatal(err)
		}
		size, received := frame.Len(), 0
		parts := slices.Collect(materialized(frame))
		for i, part := range parts {
			if len(part) > partSize || i < len(parts)-1 && len(part) < partSize {
				t.Errorf("%d bytes: part %d of %d has %d", size, i, len(parts), len(part))
			}
			received += len(part)
		}
		if want := size + len(parts) - 1; received != want {
			t.Errorf("%d bytes became %d in %d parts", size, received, len(parts))
		}
		whole, err := assembled(parts, maxFrameSize)
		if err != nil {
			t.Fatal(err)
		}
		got, err := messagesOf(whole)
		if err != nil || len(got) != 1 {
			t.Fatalf("%d bytes: %d messages, %v", size, len(got), err)
		}
		wantMessage(t, got[0], m)
	}
}

func TestPartsThatBelongToNoFrameAreRefused(t *testing.T) {
	const more = formatVersion | continued
	for _, c := range []struct {
		name  string
		parts [][]byte
		want  error
	}{
		{"too much", [][]byte{{more, 1, 2, 3}, {more, 1, 2, 3}, {formatVersion, 1, 2}}, errTooLarge},
		{"too much, but for the end", [][]byte{{more, 1, 2, 3}, {more, 1, 2, 3, 4, 5}}, errTooLarge},
		{"nothing", [][]byte{{}}, errTruncated},
		{"nothing at the beginning", [][]byte{{more}}, errTruncated},
		{"nothing at the end", [][]byte{{more, 1}, {formatVersion}}, errTruncated},
		{"another format", [][]byte{{more, 1}, {formatVersion + 1, 2}}, errFormat},
		{"as much as may be", [][]byte{{more, 1, 2, 3}, {more, 1, 2, 3}, {formatVersion, 1}}, nil},
	} {
		if _, err := assembled(c.parts, 8); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

func TestOnlyTheLastPartOfAFrameMayBeSmall(t *testing.T) {
	const more = formatVersion | continued
	for _, c := range []struct {
		name  string
		parts [][]byte
		want  error
	}{
		{"the first", [][]byte{{more, 1, 2}}, errSmallPart},
		{"one between", [][]byte{{more, 1, 2, 3}, {more, 1}}, errSmallPart},
		{"the last", [][]byte{{more, 1, 2, 3}, {more, 1, 2, 3}, {formatVersion, 1}}, nil},
		{"the only one", [][]byte{{formatVersion, 1}}, nil},
	} {
		a := assembly{part: 4, limit: func() int { return 100 }}
		for i, part := range c.parts {
			frame, err := a.add(part)
			isLast := i == len(c.parts)-1
			if isLast && !errors.Is(err, c.want) || !isLast && err != nil {
				t.Errorf("%s: part %d: %v, want %v", c.name, i, err, c.want)
			}
			if (frame != nil) != (isLast && c.want == nil) {
				t.Errorf("%s: part %d: there is a frame of %d bytes", c.name, i, len(frame))
			}
		}
	}
}

func TestDamagedFrameIsAnError(t *testing.T) {
	whole := frameOf(t, everyField(), everyField())
	boundary := len(frameOf(t, everyField()))
	for n := range whole {
		ms, err := messagesOf(whole[:n])
		switch n {
		case 1, boundary: // as long as a frame of fewer messages
		default:
			if err == nil {
				t.Fatalf("%d of %d bytes gave %d messages and no error", n, len(whole), len(ms))
			}
		}
	}
	huge := binary.AppendUvarint([]byte{formatVersion}, math.MaxUint64)
	if _, err := messagesOf(huge); !errors.Is(err, errTruncated) {
		t.Errorf("a message of 2^64-1 bytes: %v", err)
	}
}

func TestUnknownFormatIsRefusedByName(t *testing.T) {
	if _, err := messagesOf([]byte{9, 1, 2}); !errors.Is(err, errFormat) || !strings.Contains(err.Error(), "9") {
		t.Errorf("got %v", err)
	}
	if _, err := decodeSnapshotHead([]byte{9, 1, 2}); !errors.Is(err, errFormat) {
		t.Errorf("got %v", err)
	}
}

func FuzzFrame(f *testing.F) {
	f.Add(frameOf(f, everyField(), &raftpb.Message{}))
	f.Add([]byte{formatVersion, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		ms, err := messagesOf(b)
		for _, m := range ms {
			_ = checkMessage(m, 1, 2)
			_ = checkSnapshot(m, 1, 2)
		}
		if err != nil {
			return
		}
		again, err := messagesOf(frameOf(t, ms...))
		if err != nil || len(again) != len(ms) {
			t.Fatalf("%d messages became %d: %v", len(ms), len(again), err)
		}
		for i := range ms {
			wantMessage(t, again[i], ms[i])
		}
	})
}

// FuzzParts cuts bytes into parts, the first byte of which says where.
func FuzzParts(f *testing.F) {
	f.Add([]byte{3, formatVersion | continued, 1, 2, formatVersion, 3})
	f.Add(append([]byte{200}, frameOf(f, everyField())...))
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 1 << 10
		a := assembly{part: 2, limit: func() int { return limit }}
		for len(b) > 1 {
			n := min(int(b[0]), len(b)-1)
			part := b[1 : 1+n]
			b = b[1+n:]
			frame, err := a.add(part)
			if err != nil {
				return
			}
			if len(frame) > limit || a.size > limit || len(a.parts) > limit {
				t.Fatalf("a frame of %d bytes, and %d of one in %d parts", len(frame), a.size, len(a.parts))
			}
			if frame == nil {
				continue
			}
			ms, _ := messagesOf(frame)
			for _, m := range ms {
				_ = checkMessage(m, 1, 2)
			}
		}
	})
}

func FuzzSnapshotHead(f *testing.F) {
	head, err := snapshotHead{123456, everyField()}.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(head.Materialize())
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeSnapshotHead(b)
		if err != nil {
			return
		}
		if h.size < 0 {
			t.Fatalf("size %d", h.size)
		}
		_ = checkSnapshot(h.message, 1, 2)
	})
}
