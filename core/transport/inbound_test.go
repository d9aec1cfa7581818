package transport

import (
	"context"
	"io"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
)

// raw is a stream by hand, for what a Transport would never send.
type raw struct {
	grpc.ClientStream
	t *testing.T
}

// rawContext is for a call of a member to b.
func rawContext(t *testing.T, from uint64, b *member, more ...string) context.Context {
	return metadata.NewOutgoingContext(t.Context(), metadata.Join(metadata.Pairs(more...), metadata.Pairs(
		keyCluster, idString(testCluster), keyFrom, idString(from), keyTo, idString(b.id), keyProtocol, "1-1")))
}

func rawConn(t *testing.T, b *member) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(strings.TrimPrefix(b.url, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wire.Codec{})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func rawStream(ctx context.Context, t *testing.T, b *member, desc *grpc.StreamDesc) *raw {
	t.Helper()
	s, err := rawConn(t, b).NewStream(ctx, desc, serviceName+desc.StreamName)
	if err != nil {
		t.Fatal(err)
	}
	return &raw{s, t}
}

func (s *raw) send(b []byte) {
	s.t.Helper()
	if err := s.SendMsg(wire.Raw(b)); err != nil && err != io.EOF { // after which end tells
		s.t.Fatal(err)
	}
}

// end returns how the server has ended the stream.
func (s *raw) end() (metadata.MD, error) {
	err := s.RecvMsg(new(wire.Raw))
	return s.Trailer(), err
}

func TestMalformedFrameEndsTheStream(t *testing.T) {
	b := start(t, 2)
	a := &member{id: 1}
	for name, frame := range map[string][]byte{
		"empty":          {},
		"another format": {77},
		"truncated":      {formatVersion, 5, 1},
		"no message":     {formatVersion, 2, 0xff, 0xff},
		"local message": frameOf(t, &raftpb.Message{
			Type: raftpb.MsgHup.Enum(), From: &a.id, To: &b.id,
		}),
		"of another member": frameOf(t, heartbeat(&member{id: 3}, b, 1)),
	} {
		s := rawStream(rawContext(t, 1, b, keyChannel, "small"), t, b, &messagesDesc)
		s.send(frameOf(t, heartbeat(a, b, 1)))
		next(t, b.received)
		s.send(frame)
		if _, err := s.end(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(b.received) > 0 {
		t.Errorf("received %s", brief(<-b.received))
	}
}

func TestMalformedSnapshotIsNotTaken(t *testing.T) {
	a, b := &member{id: 1}, start(t, 2)
	head := func(size int64, m *raftpb.Message) []byte {
		h, err := snapshotHead{size, m}.encode()
		if err != nil {
			t.Fatal(err)
		}
		return h.Materialize()
	}
	b.onSnapshot(func(ctx context.Context, m *raftpb.Message, body io.Reader) error {
		err := discard(ctx, m, body)
		if err == nil {
			t.Error("it was taken for whole")
		}
		return err
	})
	good := head(10, snapshotMsg(a, b))
	for name, messages := range map[string][][]byte{
		"no head":          {},
		"no message":       {{formatVersion}},
		"a heartbeat":      {head(10, heartbeat(a, b, 1))},
		"no metadata":      {head(10, &raftpb.Message{Type: raftpb.MsgSnap.Enum(), From: &a.id, To: &b.id})},
		"too little":       {good, make([]byte, 9)},
		"no checksum":      {good, make([]byte, 10)},
		"wrong checksum":   {good, make([]byte, 10), make([]byte, 32)},
		"too much":         {good, make([]byte, 11)},
		"an empty chunk":   {good, {}},
		"chunks too large": {head(1<<20, snapshotMsg(a, b)), make([]byte, chunkSize+1)},
	} {
		s := rawStream(rawContext(t, 1, b, keyTerm, "7"), t, b, &snapshotDesc)
		for _, m := range messages {
			s.send(m)
		}
		if err := s.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := s.end(); status.Code(err) != codes.Internal {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLaterStreamOfTheSameChannelReplacesTheEarlier(t *testing.T) {
	a, b := &member{id: 1}, start(t, 2)
	ctx := rawContext(t, 1, b, keyChannel, "small")
	inside, release := make(chan struct{}), make(chan struct{})
	b.onReceive(func(m *raftpb.Message) {
		if m.GetCommit() == 1 {
			close(inside)
			<-release
		}
	})
	open := func(frame []byte) *raw { // and wait until b knows of it
		before := b.current(inboundKey{1, "small"})
		s := rawStream(ctx, t, b, &messagesDesc)
		s.send(frame)
		until(t, func() bool { return b.current(inboundKey{1, "small"}) != before })
		return s
	}
	first := open(frameOf(t, heartbeat(a, b, 1), heartbeat(a, b, 2)))
	next(t, inside)
	second := open(frameOf(t, heartbeat(a, b, 3)))
	open(frameOf(t, heartbeat(a, b, 4)))
	for _, s := range []*raw{first, second} {
		if _, err := s.end(); status.Code(err) != codes.Aborted {
			t.Errorf("the stream ended with %v", err)
		}
	}
	if len(b.received) > 0 {
		t.Error("a message has passed another")
	}
	close(release)
	for _, commit := range []uint64{1, 4} { // what was on the way on a stream that is gone is lost
		wantMessage(t, next(t, b.received), heartbeat(a, b, commit))
	}
}

func (t *Transport) current(key inboundKey) *inbound {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.inbound[key]
}
