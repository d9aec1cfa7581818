package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
)

// Transport connects one member to the others. It dials every other member and sends over what it has dialled; what the
// others send comes over what they have dialled. So no two members need to agree on which connection to use, and nothing that
// one sends waits behind what the other sends.
//
// All methods may be called concurrently.
type Transport struct {
	cfg     Config
	metrics *metrics

	ctx        context.Context // ends with Close
	cancel     context.CancelCauseFunc
	goroutines sync.WaitGroup

	mu      sync.RWMutex // guards all below
	closed  bool
	self    []string         // this member's own URLs
	peers   map[uint64]*peer // the members that were set, and guests
	inbound map[inboundKey]*inbound

	// guestFrame has a token while a frame of several parts comes from a guest: one at a time, as each may become large.
	guestFrame chan struct{}
}

// Config says who this member is and whom it works for. ID, ClusterID, Handler and Logger are needed.
type Config struct {
	ID        uint64
	ClusterID uint64
	Handler   Handler
	Logger    *slog.Logger

	// IsRemoved tells whether a member was once removed from the cluster. Such a one is refused and told why; one that is
	// merely unknown may be newer than what this member has applied. Called from any goroutine and from SetPeers; nil: nobody
	// was.
	IsRemoved func(id uint64) bool
	// TLS makes the configuration with which an https URL is dialled; its ServerName, if empty, is taken from the URL. nil: Go's
	// defaults. http URLs are dialled in plaintext whatever it is. It may be called concurrently.
	TLS func() *tls.Config
	// MaxMessage is how large in bytes a message may be of a member that is not known here yet, if it is larger than a part: what
	// members send by their flags. 0: 512 MiB, which is what known ones may send.
	MaxMessage int
	// Dial makes the connections; nil: a net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	timing timing // zero fields: defaults
}

// Handler is what a Transport works for. Its methods are called from any goroutine, also several at once, but not after
// Close has returned; nor does a method of Transport call any of them before it returns. They must not call Close, which waits for
// them.
type Handler interface {
	// Receive takes a message; it is the handler's from then on. While it blocks, nothing more is received on this one
	// stream of this one peer.
	Receive(m *raftpb.Message)
	// ReceiveSnapshot stores a snapshot of size bytes and steps m, whose metadata is what the sender says of it, into raft. body gives
	// exactly the bytes that were sent; it ends with io.EOF only if their number and checksum are right, and must be read to this end.
	// Nothing of it is asked of the sender before it is read. One is called at a time. When it returns nil the sender is told that the snapshot has arrived, else why not. ctx ends
	// when the sender goes away, or a newer leader sends one.
	ReceiveSnapshot(ctx context.Context, m *raftpb.Message, size int64, body io.Reader) error
	// Unreachable says that messages to a peer were lost, or may have been: once when its connection breaks or cannot be
	// made, until there is one again, and once when its queue is so full that messages are dropped, until it has been empty.
	Unreachable(id uint64)
	// SnapshotSent says how a snapshot that SendSnapshot was given has ended: nil when the peer has stored and stepped it.
	// A failure is told late, so that who tries again at once does not send without end what the peer cannot take.
	SnapshotSent(id uint64, err error)
	// Removed says that a peer refuses this member because it was removed from the cluster.
	Removed(by uint64)
}

// Snapshot is the content of a snapshot to send. WriteTo is called at most once, Close exactly once.
type Snapshot interface {
	io.WriterTo
	io.Closer
}

// timing is how long things take at most. Tests shorten it.
type timing struct {
	connect    time.Duration // TCP, TLS and HTTP/2 handshakes, and the peer's word that it takes part
	minBackoff time.Duration // between attempts to connect
	maxBackoff time.Duration
	pausing    time.Duration // after a snapshot that failed; doubles up to 16 times
	ping       time.Duration // between pings on the small channel
	silence    time.Duration // without an answer to one, after which nobody is there
	bulkPing   time.Duration // the same where pings wait behind megabytes
	bulkQuiet  time.Duration
	request    time.Duration // for a call's request to come
	quiet      time.Duration // of a guest's stream, and of a snapshot, after which it ends; up to twice that
}

// defaults: an election takes about a second, and a silent peer should be known before many of them have passed.
var defaults = timing{
	connect:    2 * time.Second,
	minBackoff: 100 * time.Millisecond,
	maxBackoff: time.Second,
	pausing:    time.Second,
	ping:       time.Second,
	silence:    2500 * time.Millisecond,
	bulkPing:   5 * time.Second,
	bulkQuiet:  15 * time.Second,
	request:    10 * time.Second,
	quiet:      20 * time.Second,
}

// New returns a Transport without peers. It must be closed.
func New(cfg Config) *Transport {
	if cfg.IsRemoved == nil {
		cfg.IsRemoved = func(uint64) bool { return false }
	}
	if cfg.MaxMessage == 0 {
		cfg.MaxMessage = maxFrameSize
	}
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	if cfg.timing == (timing{}) {
		cfg.timing = defaults
	}
	t := &Transport{
		cfg:     cfg,
		metrics: newMetrics(cfg.ID),
		peers:   map[uint64]*peer{},
		inbound: map[inboundKey]*inbound{},

		guestFrame: make(chan struct{}, 1),
	}
	t.ctx, t.cancel = context.WithCancelCause(context.Background())
	return t
}

// SetPeers says who the members are and at which URLs; an entry for this member itself says what its own are. It connects
// to those that are new, and leaves those that are gone: their connections are closed, what is on its way to them is lost,
// and if they were removed they are told so. One that is gone, was not removed, and still calls is left when it ceases to. It does
// not wait. No lock may be held that IsRemoved takes.
func (t *Transport) SetPeers(members map[uint64][]string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	t.self = members[t.cfg.ID]
	for id, p := range t.peers {
		if urls, ok := members[id]; ok {
			p.guest = false
			p.setURLs(urls)
		} else if p.streams == 0 || t.cfg.IsRemoved(id) {
			t.drop(p)
		} else {
			p.guest = true
		}
	}
	for id, urls := range members {
		if id != t.cfg.ID && t.peers[id] == nil {
			t.peers[id] = newPeer(t, id, urls)
		}
	}
	for _, in := range t.inbound {
		if t.cfg.IsRemoved(in.from) {
			in.end(refuseRemoved(in.from))
		}
	}
}

// drop leaves a peer. t.mu is held.
func (t *Transport) drop(p *peer) {
	delete(t.peers, p.id)
	p.cancel(errPeerGone)
	t.metrics.forget(p.id)
}

// isMember tells whether SetPeers has set it.
func (t *Transport) isMember(id uint64) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return !t.isGuest(id)
}

// isGuest tells whether a caller is none of those that SetPeers has set. t.mu is held.
func (t *Transport) isGuest(id uint64) bool {
	p := t.peers[id]
	return p == nil || p.guest
}

func (t *Transport) peer(id uint64) *peer {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.peers[id]
}

// Send queues messages for the peers they are to, and never blocks. What is to nobody known, or does not fit in the peer's
// queue, is dropped, the latter reported as Unreachable. The messages must not be changed any more. MsgSnap is not for Send,
// but for SendSnapshot.
func (t *Transport) Send(ms []*raftpb.Message) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, m := range ms {
		if p := t.peers[m.GetTo()]; p != nil {
			p.send(m)
		}
	}
}

// SendSnapshot sends a message of type MsgSnap, whose metadata are those of the snapshot, and the snapshot itself, of size
// bytes. It closes the snapshot, and tells the outcome with SnapshotSent, unless the peer is gone or the Transport closed by
// then. It does not block. A snapshot that is on its way to the same peer is given up for this one, which alone is then
// reported.
func (t *Transport) SendSnapshot(m *raftpb.Message, size int64, snapshot Snapshot) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if p := t.peers[m.GetTo()]; p != nil && !t.closed {
		p.snapshots.send(m, size, snapshot)
		return
	}
	if err := snapshot.Close(); err != nil {
		t.cfg.Logger.Warn("cannot close a snapshot", "error", err)
	}
}

// ActiveSince is when the present connection to a peer was made, zero if there is none.
func (t *Transport) ActiveSince(id uint64) time.Time {
	if p := t.peer(id); p != nil {
		return p.small.activeSince()
	}
	return time.Time{}
}

// State is whether a peer is connected.
type State struct {
	Connected bool
	Since     time.Time // when it began to be so; zero while nothing has become of the first attempt
	Err       error     // why it is not; nil while it is, and for a moment after
}

// State is of a peer as of now, the zero value of one that is not known. It may be called at any time, also after Close.
func (t *Transport) State(id uint64) State {
	if p := t.peer(id); p != nil {
		return p.small.state()
	}
	return State{}
}

// Conn is for other calls to a peer than raft's messages, nil if the peer is not known; see Method. It is the same until the peer
// is gone, connects when it is used, and moves on to another of the peer's URLs when one fails. A request may have 2 MiB. Large
// answers need a call option that allows them.
func (t *Transport) Conn(id uint64) *grpc.ClientConn {
	if p := t.peer(id); p != nil {
		return p.calls.conn
	}
	return nil
}

// Close ends what is under way and waits for it, calls of the Handler included. It may be called once.
func (t *Transport) Close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.cancel(errClosing)
	t.goroutines.Wait()
}

var (
	errPeerGone = errors.New("it is no member any more")
	errClosing  = errors.New("this member is stopping")
)

func idString(id uint64) string { return strconv.FormatUint(id, 16) }

func peerName(id uint64) string { return fmt.Sprintf("member %x", id) }
