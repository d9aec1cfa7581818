package transport

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"weir/grpcapi/wire"
)

const serviceName = "/weir.Peers/"

// Register registers weir.Peers, which other members call. The server must have the ServerOptions.
func (t *Transport) Register(s grpc.ServiceRegistrar) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "weir.Peers",
		Streams: []grpc.StreamDesc{
			unary("Ping", func(s grpc.ServerStream) ([]byte, error) {
				_, err := t.admit(s.Context())
				return nil, err
			}),
			{StreamName: "Messages", ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
				return explain(s.Context(), t.serveMessages(s))
			}},
			{StreamName: "Snapshot", ClientStreams: true, Handler: func(_ any, s grpc.ServerStream) error {
				return explain(s.Context(), t.serveSnapshot(s))
			}},
		},
	}, nil)
}

// What one connection may have.
const (
	// maxStreams is how many calls there are at once: of those that follow from clients' requests more wait for each other, at the
	// member that makes them. gRPC has no bound of its own for what comes in on a connection: it gives the connection's window back on
	// receipt, so what is held is what its streams hold, up to bulkWindow and a part for each.
	maxStreams = 16
	// maxHeader bounds in bytes the metadata of a call, of which maxURLs is the most.
	maxHeader = 16 << 10
	// idleTimeout is after how long a connection ends on which there is no call. Links and snapshots always have one.
	idleTimeout = 5 * time.Minute
	// handshakeTimeout is how long HTTP/2's handshake may take.
	handshakeTimeout = 10 * time.Second
)

// ServerOptions are what a server needs to have weir.Peers registered: the codec, windows, that a caller who has silently gone away is
// noticed, and bounds on what one connection may have. How many connections there are is for Transport.BoundListener.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(wire.Codec{}),
		grpc.MaxRecvMsgSize(partSize),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeader),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.StaticStreamWindowSize(bulkWindow),
		grpc.StaticConnWindowSize(bulkWindow),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: 5 * time.Second, Timeout: 10 * time.Second, MaxConnectionIdle: idleTimeout,
		}),
	}
}

// inbound is a stream that a peer has opened to this member. Of each kind there is one: the latest. When it comes, the one before,
// which is broken or forgotten, ends first, so that messages stay in order and snapshots do not meet in one file.
type inbound struct {
	from  uint64
	term  uint64        // of a snapshot: its sender's
	ended chan struct{} // closed by end
	done  chan struct{} // closed when nothing more of it or of those before reaches the handler

	once sync.Once
	err  error // why it was ended; read after ended

	// receives is twice how many messages were received, and 1 more while the next one is waited for.
	receives atomic.Uint64
}

// receive receives a message.
func (in *inbound) receive(stream grpc.ServerStream, m *wire.Raw) error {
	in.receives.Add(1)
	defer in.receives.Add(1)
	return stream.RecvMsg(m)
}

// isQuiet tells whether nothing has come since before, a value of receives, though it was waited for.
func (in *inbound) isQuiet(before uint64) bool {
	return before%2 == 1 && in.receives.Load() == before
}

// inboundKey is a kind of stream. Snapshots are of one kind, whoever sends them: one is as large as the store.
type inboundKey struct {
	from    uint64 // 0 for snapshots
	channel string
}

var snapshotKey = inboundKey{0, "snapshot"}

// end has the stream answered with err.
func (in *inbound) end(err error) {
	in.once.Do(func() {
		in.err = err
		close(in.ended)
	})
}

var (
	errClosed   = status.Error(codes.Unavailable, "the member is stopping")
	errReplaced = status.Error(codes.Aborted, "there is a newer stream for this")
	errQuiet    = status.Error(codes.DeadlineExceeded, "nothing has come for too long")
)

// maxGuests bounds how many callers are let in that are not known to be members.
const maxGuests = 16

// serve lets work, which reads the stream, have its turn, and ends it when it must. work gets a context that ends with it.
func (t *Transport) serve(stream grpc.ServerStream, c caller, key inboundKey, term uint64,
	work func(ctx context.Context, stream grpc.ServerStream, in *inbound, p *peer) error,
) error {
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	in := &inbound{from: c.from, term: term, ended: make(chan struct{}), done: make(chan struct{})}
	p, before, err := t.enter(key, in, c)
	if err != nil {
		return err
	}
	defer t.goroutines.Done()
	defer t.leave(key, in, p)
	// Only the return of this handler ends a RecvMsg that waits, so another goroutine has to wait there.
	worked := make(chan error, 1)
	t.goroutines.Go(func() {
		defer close(in.done)
		if before != nil {
			before.end(errReplaced)
			<-before.done
		}
		if err := ctx.Err(); err != nil {
			worked <- err
			return
		}
		if err := stream.SendHeader(c.accept()); err != nil {
			worked <- err
			return
		}
		worked <- work(ctx, stream, in, p)
	})
	err = t.watch(key, in, worked)
	cancel(err)
	return err
}

// watch waits for why a stream ends. A link may be quiet, but not for ever that of a guest, which takes a place of maxGuests. A
// snapshot may not: others may wait for it to end.
func (t *Transport) watch(key inboundKey, in *inbound, worked <-chan error) error {
	look := time.NewTicker(t.cfg.timing.quiet)
	defer look.Stop()
	for before := uint64(0); ; {
		select {
		case err := <-worked:
			return err
		case <-in.ended:
			return in.err
		case <-t.ctx.Done():
			return errClosed
		case <-look.C:
			if in.isQuiet(before) && (key == snapshotKey || !t.isMember(in.from)) {
				return errQuiet
			}
			before = in.receives.Load()
		}
	}
}

// enter makes a stream the one of its key and returns the one before, or nil. A caller that is not known to be a member may be
// newer than what this member has applied, and if it could not be answered this member might never learn of it: it becomes a
// guest, a peer for as long as it has a stream here.
func (t *Transport) enter(key inboundKey, in *inbound, c caller) (p *peer, before *inbound, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, nil, errClosed
	}
	if t.cfg.IsRemoved(c.from) { // again: SetPeers ends the streams that it sees
		return nil, nil, refuseRemoved(c.from)
	}
	before = t.inbound[key]
	if before != nil && before.from != in.from && !t.yields(before, in) {
		return nil, nil, status.Errorf(codes.ResourceExhausted, "a snapshot of %s is coming in", peerName(before.from))
	}
	if p, err = t.host(c); err != nil {
		return nil, nil, err
	}
	t.inbound[key] = in
	t.goroutines.Add(1)
	return p, before, nil
}

// yields tells whether a snapshot that comes in is given up for that of another sender: one of a guest for a member's, and else for a
// newer leader's. So no guest, who may claim any term, keeps a member out. t.mu is held.
func (t *Transport) yields(before, next *inbound) bool {
	if isGuest := t.isGuest(before.from); isGuest != t.isGuest(next.from) {
		return isGuest
	}
	return before.term < next.term
}

// host returns the peer that calls, and counts a stream of it. t.mu is held.
func (t *Transport) host(c caller) (*peer, error) {
	p := t.peers[c.from]
	if p == nil {
		guests := 0
		for _, p := range t.peers {
			if p.guest {
				guests++
			}
		}
		if guests >= maxGuests {
			return nil, status.Errorf(codes.ResourceExhausted, "%s is not known here, like %d others", peerName(c.from), guests)
		}
		p = newPeer(t, c.from, c.urls)
		p.guest = true
		t.peers[c.from] = p
	}
	p.streams++
	p.retry() // it lives
	return p, nil
}

// leave undoes enter.
func (t *Transport) leave(key inboundKey, in *inbound, p *peer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.inbound[key] == in {
		delete(t.inbound, key)
	}
	t.unhost(p)
}

// unhost undoes host. t.mu is held.
func (t *Transport) unhost(p *peer) {
	p.streams--
	if p.guest && p.streams == 0 && t.peers[p.id] == p {
		t.drop(p)
	}
}
