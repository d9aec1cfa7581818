package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"
)

const testCluster = 0xc1

// member is a Transport behind a server on a loopback port, with a handler that records.
type member struct {
	*Transport
	id     uint64
	cables *cables // what it dials
	server *grpc.Server
	url    string
	logs   *syncBuffer

	received    chan *raftpb.Message
	unreachable chan uint64
	sent        chan sentSnapshot
	removed     chan uint64

	mu      sync.Mutex // guards all below
	receive func(*raftpb.Message)
	store   func(context.Context, *raftpb.Message, io.Reader) error
	gone    map[uint64]bool
}

type sentSnapshot struct {
	to  uint64
	err error
}

// patient: what a test does not end by itself lasts.
var patient = timing{
	connect:    10 * time.Second,
	minBackoff: 5 * time.Millisecond,
	maxBackoff: 50 * time.Millisecond,
	pausing:    time.Millisecond,
	ping:       20 * time.Millisecond,
	silence:    time.Minute,
	bulkPing:   20 * time.Millisecond,
	bulkQuiet:  time.Minute,
	request:    time.Minute,
	quiet:      time.Minute,
}

type option func(*memberOptions)

type memberOptions struct {
	cfg      Config
	server   *tls.Config
	unix     bool
	register func(*member)
	listen   func(net.Listener) net.Listener
	grpc     []grpc.ServerOption // more of them
}

// start starts a member without peers.
func start(t testing.TB, id uint64, options ...option) *member {
	m := &member{
		id: id, cables: newCables(), logs: new(syncBuffer),
		received:    make(chan *raftpb.Message, 100_000),
		unreachable: make(chan uint64, 1000),
		sent:        make(chan sentSnapshot, 1000),
		removed:     make(chan uint64, 1000),
		gone:        map[uint64]bool{},
	}
	o := memberOptions{cfg: Config{
		ID: id, ClusterID: testCluster, Handler: m,
		Logger:    slog.New(slog.NewTextHandler(m.logs, nil)),
		Dial:      m.cables.dial,
		IsRemoved: m.isRemoved,
		timing:    patient,
	}}
	for _, f := range options {
		f(&o)
	}
	network, address, scheme := "tcp", "127.0.0.1:0", "http"
	if o.unix {
		network, address, scheme = "unix", t.TempDir()+"/peer", "unix"
	}
	serverOptions := append(ServerOptions(), o.grpc...)
	if o.server != nil {
		scheme += "s"
		serverOptions = append(serverOptions, grpc.Creds(credentials.NewTLS(o.server)))
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	m.url = scheme + "://" + listener.Addr().String()
	if o.listen != nil {
		listener = o.listen(listener)
	}
	m.Transport = New(o.cfg)
	m.server = grpc.NewServer(serverOptions...)
	m.Register(m.server)
	if o.register != nil {
		o.register(m)
	}
	go func() { _ = m.server.Serve(listener) }()
	t.Cleanup(m.stop)
	return m
}

// stop ends the member: it is closed, or has died.
func (m *member) stop() {
	m.Close()
	m.server.Stop()
}

// connect makes members of each other.
func connect(ms ...*member) {
	urls := map[uint64][]string{}
	for _, m := range ms {
		urls[m.id] = []string{m.url}
	}
	for _, m := range ms {
		m.SetPeers(maps.Clone(urls))
	}
}

// active waits until m is connected to its peer.
func (m *member) active(t testing.TB, peer *member) {
	t.Helper()
	until(t, func() bool { return !m.ActiveSince(peer.id).IsZero() && m.peer(peer.id).bulk.present() })
}

func (l *link) present() bool { return !l.activeSince().IsZero() }

// until waits for a state that nothing announces.
func until(t testing.TB, reached func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for !reached() {
		select {
		case <-deadline:
			t.Fatal("what was waited for has not come about")
		case <-time.After(time.Millisecond):
		}
	}
}

// next takes from a channel what must come.
func next[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(30 * time.Second):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func (m *member) isRemoved(id uint64) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.gone[id]
}

// remove makes m know that a member was removed.
func (m *member) remove(id uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gone[id] = true
}

// onReceive has messages given to f, before they are recorded.
func (m *member) onReceive(f func(*raftpb.Message)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.receive = f
}

// onSnapshot has snapshots given to f.
func (m *member) onSnapshot(f func(context.Context, *raftpb.Message, io.Reader) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.store = f
}

func (m *member) Receive(message *raftpb.Message) {
	m.mu.Lock()
	f := m.receive
	m.mu.Unlock()
	if f != nil {
		f(message)
	}
	m.received <- message
}

func (m *member) ReceiveSnapshot(ctx context.Context, message *raftpb.Message, _ int64, body io.Reader) error {
	m.mu.Lock()
	f := m.store
	m.mu.Unlock()
	return f(ctx, message, body)
}

func (m *member) Unreachable(id uint64)             { m.unreachable <- id }
func (m *member) SnapshotSent(id uint64, err error) { m.sent <- sentSnapshot{id, err} }
func (m *member) Removed(by uint64)                 { m.removed <- by }

// syncBuffer is a log.
type syncBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (s *syncBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

// count returns how many lines have all the words.
func (s *syncBuffer) count(words ...string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
lines:
	for line := range strings.Lines(s.b.String()) {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue lines
			}
		}
		n++
	}
	return n
}

// say sends messages.
func (m *member) say(ms ...*raftpb.Message) { m.Send(ms) }

func heartbeat(from, to *member, commit uint64) *raftpb.Message {
	return &raftpb.Message{
		Type: raftpb.MsgHeartbeat.Enum(), From: proto.Uint64(from.id), To: proto.Uint64(to.id),
		Term: proto.Uint64(7), Commit: proto.Uint64(commit),
	}
}

func appendMsg(from, to *member, index uint64, data ...[]byte) *raftpb.Message {
	m := &raftpb.Message{
		Type: raftpb.MsgApp.Enum(), From: proto.Uint64(from.id), To: proto.Uint64(to.id),
		Term: proto.Uint64(7), LogTerm: proto.Uint64(6), Index: proto.Uint64(index),
	}
	for i, d := range data {
		m.Entries = append(m.Entries, &raftpb.Entry{
			Term: proto.Uint64(7), Index: proto.Uint64(index + uint64(i) + 1), Data: d,
		})
	}
	return m
}

func wantMessage(t *testing.T, got, want *raftpb.Message) {
	t.Helper()
	if !proto.Equal(got, want) {
		t.Fatalf("got %s, want %s", brief(got), brief(want))
	}
}

func brief(m *raftpb.Message) string {
	return fmt.Sprintf("%v from %x to %x, index %d, commit %d, %d entries", m.GetType(), m.GetFrom(), m.GetTo(), m.GetIndex(), m.GetCommit(), len(m.GetEntries()))
}
