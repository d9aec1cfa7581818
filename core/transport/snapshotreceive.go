package transport

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
)

// serveSnapshot takes one snapshot and answers when it is stored and stepped. Of two that are sent at once, by different members,
// raft can use only that of the newer leader.
func (t *Transport) serveSnapshot(stream grpc.ServerStream) error {
	c, err := t.admit(stream.Context())
	if err != nil {
		return err
	}
	md, _ := metadata.FromIncomingContext(stream.Context())
	term, err := strconv.ParseUint(one(md, keyTerm), 10, 64)
	if err != nil {
		return status.Errorf(codes.InvalidArgument, "metadata %s: %v", keyTerm, err)
	}
	if err := t.serve(stream, c, snapshotKey, term, t.receiveSnapshot); err != nil {
		return err
	}
	return stream.SendMsg(wire.Raw(nil))
}

func (t *Transport) receiveSnapshot(ctx context.Context, stream grpc.ServerStream, in *inbound, p *peer) error {
	p.metrics.snapshotReceiving.Inc()
	defer p.metrics.snapshotReceiving.Dec()
	start := time.Now()
	if err := t.store(ctx, stream, in, p); err != nil {
		p.metrics.snapshotReceiveFailures.Inc()
		return status.Errorf(codes.Internal, "the snapshot was not taken: %v", err)
	}
	p.metrics.snapshotReceived.Inc()
	p.metrics.snapshotReceiveSeconds.Observe(time.Since(start).Seconds())
	return nil
}

func (t *Transport) store(ctx context.Context, stream grpc.ServerStream, in *inbound, p *peer) error {
	var first wire.Raw
	if err := in.receive(stream, &first); err != nil {
		return err
	}
	head, err := decodeSnapshotHead(first)
	if err != nil {
		return err
	}
	if err := checkSnapshot(head.message, t.cfg.ID, in.from); err != nil {
		return err
	}
	body := &snapshotBody{receive: func(m *wire.Raw) error { return in.receive(stream, m) }, left: head.size, sum: sha256.New(), received: p.metrics.receivedBytes}
	if err := t.cfg.Handler.ReceiveSnapshot(ctx, head.message, head.size, body); err != nil {
		return err
	}
	if !errors.Is(body.err, io.EOF) {
		return errors.New("it was not read to its end")
	}
	return nil
}

// snapshotBody reads the bytes of a snapshot, and ends with io.EOF only when number and checksum are right.
type snapshotBody struct {
	receive  func(*wire.Raw) error
	left     int64
	sum      hash.Hash
	received prometheus.Counter

	chunk []byte // what is not read of the last one
	err   error  // what Read ends with
}

func (b *snapshotBody) Read(dst []byte) (int, error) {
	for len(b.chunk) == 0 && b.err == nil {
		b.err = b.next()
	}
	if len(b.chunk) == 0 {
		return 0, b.err
	}
	n := copy(dst, b.chunk)
	b.chunk = b.chunk[n:]
	return n, nil
}

// next receives a chunk, or the checksum.
func (b *snapshotBody) next() error {
	var raw wire.Raw
	if err := b.receive(&raw); err != nil {
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: %d bytes are missing", io.ErrUnexpectedEOF, b.left)
		}
		return err
	}
	if b.left == 0 {
		if !bytes.Equal(raw, b.sum.Sum(nil)) {
			return errors.New("its checksum is wrong")
		}
		return io.EOF
	}
	if len(raw) == 0 || len(raw) > chunkSize || int64(len(raw)) > b.left {
		return fmt.Errorf("a chunk of %d bytes, when %d are left", len(raw), b.left)
	}
	b.received.Add(float64(len(raw)))
	b.sum.Write(raw)
	b.chunk, b.left = raw, b.left-int64(len(raw))
	return nil
}
