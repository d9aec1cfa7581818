package transport

import (
	"context"
	"errors"
	"io"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
)

// serveMessages hands on what comes on one stream.
func (t *Transport) serveMessages(stream grpc.ServerStream) error {
	c, err := t.admit(stream.Context())
	if err != nil {
		return err
	}
	md, _ := metadata.FromIncomingContext(stream.Context())
	key := inboundKey{c.from, one(md, keyChannel)}
	if key.channel != "small" && key.channel != "bulk" {
		return status.Errorf(codes.InvalidArgument, "unknown channel %q", key.channel)
	}
	return t.serve(stream, c, key, 0, t.receive)
}

// receive delivers messages until the stream or the inbound ends.
func (t *Transport) receive(ctx context.Context, stream grpc.ServerStream, in *inbound, p *peer) error {
	parts := assembly{part: partSize, limit: func() int { return t.frameLimit(in.from) }}
	lane := guestLane{t: t, from: in.from}
	defer lane.leave()
	for {
		var part wire.Raw
		if err := in.receive(stream, &part); err != nil {
			if !errors.Is(err, io.EOF) {
				p.metrics.receivedFailures.Inc()
			}
			return err
		}
		p.metrics.receivedBytes.Add(float64(len(part)))
		frame, err := parts.add(part)
		if err == nil && frame == nil {
			if !lane.enter() {
				p.metrics.receivedFailures.Inc()
				return errGuests
			}
			continue
		}
		if err == nil {
			err = t.deliver(ctx, frame, in)
			lane.leave()
		}
		if err == nil {
			continue
		}
		if ctx.Err() != nil {
			return err
		}
		p.metrics.receivedFailures.Inc()
		t.cfg.Logger.Error("a peer has sent what is no message", "peer", idString(in.from), "error", err)
		return status.Errorf(codes.InvalidArgument, "malformed frame: %v", err)
	}
}

// deliver hands on the messages of a frame. The first that is wrong ends it.
func (t *Transport) deliver(ctx context.Context, frame []byte, in *inbound) error {
	return decodeFrame(frame, func(m *raftpb.Message) error {
		if err := checkMessage(m, t.cfg.ID, in.from); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !t.mayHear(m, in.from) {
			t.cfg.Logger.Debug("a message is only for members to send", "type", m.GetType().String(), "caller", idString(in.from))
			return nil
		}
		t.cfg.Handler.Receive(m)
		return nil
	})
}

var errGuests = status.Error(codes.ResourceExhausted, "a large message comes from another member that is not known here")

// frameLimit is what a frame of several parts may have, in bytes. A member's may be larger than what members send by this one's
// flags, which theirs may differ from: what it has committed must come through.
func (t *Transport) frameLimit(from uint64) int {
	if t.isMember(from) {
		return maxFrameSize
	}
	return t.cfg.MaxMessage
}

// guestLane lets one guest at a time send a frame of several parts: each may become as large as Config.MaxMessage, and guests are
// whoever claims to be a member.
type guestLane struct {
	t      *Transport
	from   uint64
	inside bool
}

// enter tells whether the next part may come. To members it is nothing.
func (l *guestLane) enter() bool {
	if l.inside || l.t.isMember(l.from) {
		return true
	}
	select {
	case l.t.guestFrame <- struct{}{}:
		l.inside = true
		return true
	default:
		return false
	}
}

// leave is for when the frame has ended.
func (l *guestLane) leave() {
	if l.inside {
		l.inside = false
		<-l.t.guestFrame
	}
}
