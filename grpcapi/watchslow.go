package grpcapi

import (
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// slowClients ends watch streams whose clients take nothing although something is in flight for them.
//
// The method: all streams are looked at several times in one timeout, and each is compared with how it was the last
// time. A timer for each stream, wound up by every response, would cost the many that are well more than the few
// that are not.
//
// Such a stream ends with Unavailable, because that is the code after which client/v3 watches again by itself, from where
// it was; after any other but Internal, which says that something is broken, it gives its watches up. What had been given
// to the transport, up to inflightLimit and one response, stays there before the status until the client takes it or
// its connection ends.
//
// Streams through net/http are left alone: that transport tells only of whole messages that they have been written, so a
// client that steadily takes a long one would seem to take nothing. What one of them pins is a single response.
type slowClients struct {
	timeout time.Duration
	after   func(d time.Duration, f func()) (stop func() bool)
	log     *slog.Logger

	mu      sync.Mutex // guards the fields below
	streams map[*watchStream]struct{}
	armed   bool // look will be called
	disarm  func() bool
}

// minSlowClientTimeout keeps the looks from costing more than the clients.
const minSlowClientTimeout = time.Second

// stallLooks is into how many intervals the timeout is divided.
const stallLooks = 4

func newSlowClients(cfg watchConfig) *slowClients {
	return &slowClients{timeout: cfg.slowTimeout, after: cfg.after, log: cfg.log, streams: map[*watchStream]struct{}{}}
}

func (c *slowClients) add(s *watchStream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.streams[s] = struct{}{}
	if !c.armed {
		c.arm()
	}
}

func (c *slowClients) remove(s *watchStream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.streams, s)
	if len(c.streams) == 0 && c.armed && c.disarm() {
		c.armed = false
	}
}

// arm is called with c.mu held.
func (c *slowClients) arm() {
	c.armed = true
	c.disarm = c.after(c.timeout/stallLooks, c.look)
}

func (c *slowClients) look() {
	for _, s := range c.stalled() {
		remote := "unknown"
		if p, ok := peer.FromContext(s.grpc.Context()); ok {
			remote = p.Addr.String()
		}
		c.log.Warn("ended the watch stream of a slow client", "remote-addr", remote, "timeout", c.timeout.String())
		s.end(status.Errorf(codes.Unavailable, "weir: the client of this watch stream has taken nothing for %v", c.timeout))
	}
}

func (c *slowClients) stalled() (all []*watchStream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := range c.streams {
		if s.isStalled() {
			all = append(all, s)
		}
	}
	if c.armed = len(c.streams) > 0; c.armed {
		c.arm()
	}
	return all
}

// stall is what a stream remembers of what its client has taken. It is guarded by the stream's mu.
type stall struct {
	count uint32 // of what has been taken
	seen  uint32 // count at the last look
	looks int32  // how many looks in a row, the last included, have found something in flight and the same count
}

// isStalled is called at every look. The first look of a row says only that something is in flight, the others that an
// interval has passed each: a stream ends between one timeout and one interval more after its client's last taking.
func (s *watchStream) isStalled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &s.taken
	switch {
	case s.closed || s.inflight == 0:
		t.looks = 0
	case t.count != t.seen:
		t.looks = 1
	default:
		t.looks++
	}
	t.seen = t.count
	return t.looks > stallLooks
}

// takenStep is after how many bytes of a long response it is noticed that the client takes it.
const takenStep = 64 << 10

// inSteps puts a marker behind each step of body, see outgoing.
func (s *watchStream) inSteps(body mem.BufferSlice) mem.BufferSlice {
	var steps mem.BufferSlice
	room := takenStep
	for _, b := range body {
		for data := b.ReadOnlyData(); len(data) > 0; {
			n := min(room, len(data))
			steps = append(steps, mem.SliceBuffer(data[:n]))
			data = data[n:]
			if room -= n; room == 0 {
				steps = append(steps, mem.NewBuffer(&s.service.marker, takenSteps{s}))
				room = takenStep
			}
		}
	}
	return steps
}

// takenSteps is the pool of the markers in a response.
type takenSteps struct{ stream *watchStream }

// Get is part of mem.BufferPool. Nobody calls it.
func (t takenSteps) Get(int) *[]byte { return &t.stream.service.marker }

// Put is part of mem.BufferPool: the response has been written up to the marker.
func (t takenSteps) Put(*[]byte) {
	t.stream.mu.Lock()
	defer t.stream.mu.Unlock()
	t.stream.taken.count++
}
