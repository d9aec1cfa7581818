package grpcapi

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"runtime"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"

	"weir/coalesce"
	"weir/grpcapi/wire"
)

// pingStream is one client's stream of pings, in its life:
//
//	state       begins with            pings are read  pongs are sent                             ends when
//	open        serve                  yes             yes                                        the client half-closes, or something fails
//	halfClosed  the half-close         no              of all pings that were read                the last one is sent, or something fails
//	failed      the first error        no              those that were ready to be sent by then   the last one is sent
//	over        the return of serve    no              no                                         -
//
// Pings are read in a goroutine, and handed to the pinger. Pongs come from whoever reads upstream's streams. He sends them
// himself, if nobody else is sending and that cannot block, because few are on their way to the client: to wake a goroutine
// for each would cost a quarter of the whole again. Else he leaves them here, for the sender in progress or for the RPC's own
// goroutine, which may block. A client that does not take its pongs is not read from any more; see pingStreams.
type pingStream struct {
	grpc     grpc.ServerStream
	protocol pingProtocol
	pinger   pinger
	waiting  waitingPings
	client   any // of coalesce.PingRoute
	all      *pingStreams
	inline   int    // so many messages may be unwritten when the bringer of a pong sends it; 0 if he never may
	marker   []byte // empty; see pongMark. Not needed if inline is 0

	late    time.Duration // what is read before settled may have arrived so much earlier
	settled time.Time

	mu        sync.Mutex // guards the fields below
	state     pingState
	err       error           // to end with
	todo      sync.Cond       // of mu: there is something for the RPC's goroutine to do
	room      sync.Cond       // of mu: pongs have been sent, or no more pings are to be read
	unsent    int             // pings whose answer has not been sent
	order     pingOrder       // of pings that are not in batches
	answers   []coalesce.Pong // that may be sent, with those of failed pings if they are in batches
	taken     []coalesce.Pong // those that were there before, of which next is the next to send
	next      int
	sending   bool // somebody is, and nobody else may touch taken
	unwritten int  // messages given to the transport, and not known to be written; not counted if inline is 0
	unmarked  int  // how many of them have no marker behind them
}

type pingState int

const (
	open pingState = iota
	halfClosed
	failed
	over
)

// pinger is what becomes of the pings of a stream.
type pinger interface {
	// ping takes care of the pings of one message. Each is answered to s, or given to s.waiting if it has to wait for something.
	// ping waits at most for what all of them need, and does not keep ids. What the client sends meanwhile is read when it returns,
	// and has arrived only then: a proxy of weir gives up a stream that is silent for much less than coalesce.PingLife, and with it
	// what has not been read. One goroutine calls it.
	ping(s *pingStream, ids []int64, stamp pingStamp)
	// settle takes care of a ping that waits, by the end of ctx. If it fails so has the ping. It is called concurrently.
	settle(ctx context.Context, s *pingStream, p waitingPing) error
	// patience is how long after a ping has arrived settle may still find out what becomes of it.
	patience() time.Duration
}

// pingStamp is what the pings of one message have in common.
type pingStamp struct {
	arrived time.Time // when the message was read; see pinger.ping
	number  uint64    // that answers are to have, see coalesce.PingSink
}

const (
	// maxInline is how many pongs surely fit into the 64 KiB that grpc takes without blocking.
	maxInline = 512
	// pongsPerMark is after how many messages a marker is sent, which costs more than a pong does. It divides maxInline.
	pongsPerMark = 64
)

func newPingStream(gs grpc.ServerStream, protocol pingProtocol, p pinger, all *pingStreams, marker []byte) *pingStream {
	s := &pingStream{grpc: gs, protocol: protocol, pinger: p, all: all, marker: marker}
	// net/http's transport blocks as soon as one message is unwritten, and batches grow while they wait.
	if !protocol.batches() && gs.Context().Value(http.ServerContextKey) == nil {
		s.inline = maxInline
	}
	s.todo.L, s.room.L = &s.mu, &s.mu
	return s
}

// openedAfter says how long it took until the stream could be served. What the client has sent meanwhile has not been read.
func (s *pingStream) openedAfter(d time.Duration) {
	s.late, s.settled = d, time.Now().Add(coalesce.PingLife)
}

// serve returns how the RPC ends. The goroutines that read and wait end soon after that.
func (s *pingStream) serve() error {
	// A compressed message is freed before it is sent, and what is on its way could not be counted.
	if err := grpc.SetSendCompressor(s.grpc.Context(), encoding.Identity); err != nil {
		return err
	}
	if s.protocol.batches() {
		// The client need not wait for its first pong to know that the method is there.
		if err := s.grpc.SendHeader(metadata.Pairs(wire.PingsHeader, "1")); err != nil {
			return err
		}
	}
	return s.run()
}

func (s *pingStream) run() error {
	ctx, cancel := context.WithCancel(s.grpc.Context())
	defer cancel()
	s.waiting.stream, s.waiting.ctx, s.waiting.tasks = s, ctx, &s.all.tasks
	defer context.AfterFunc(ctx, func() { s.end(ctx.Err()) })()
	defer context.AfterFunc(retiredOf(ctx), func() { s.end(errRetired) })()
	s.all.tasks.Go(s.receive)
	return s.sendAll()
}

// sendAll sends what others leave to it, until the stream is over.
func (s *pingStream) sendAll() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for s.sending || !s.pending() && !s.done() {
			s.todo.Wait()
		}
		if !s.pending() {
			break
		}
		if s.protocol.batches() {
			s.mu.Unlock()
			runtime.Gosched() // what comes at the same time goes along
			s.mu.Lock()
		}
		s.send(math.MaxInt)
	}
	s.state = over
	s.count(-s.unsent)
	s.room.Signal()
	return s.err
}

// receive takes the client's pings while the stream is open.
func (s *pingStream) receive() {
	var (
		raw wire.Raw
		ids []int64
	)
	for s.mayRead() {
		err := s.grpc.RecvMsg(&raw)
		arrived := time.Now()
		if errors.Is(err, io.EOF) {
			s.halfClose()
			return
		}
		if err == nil {
			ids, err = s.protocol.decode(raw, ids[:0])
			raw = nil // may be large, and the next one far away
		}
		if err != nil {
			s.end(err)
			return
		}
		if s.late > 0 && arrived.Before(s.settled) {
			arrived = arrived.Add(-s.late)
		}
		number, ok := s.accept(ids)
		if !ok {
			return
		}
		s.pinger.ping(s, ids, pingStamp{arrived, number})
	}
}

// mayRead waits until there is room for another message. It returns false if no more are to be read.
func (s *pingStream) mayRead() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.hasRoom() && s.state == open {
		s.room.Wait()
	}
	return s.state == open
}

// accept counts the pings of a message, unless the stream has failed. They all have the number that it returns, which means
// nothing if there can be several.
func (s *pingStream) accept(ids []int64) (number uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state >= failed {
		return 0, false
	}
	s.count(len(ids))
	if s.protocol.batches() {
		return 0, true
	}
	return s.order.ask(), true
}

// Client is part of coalesce.PingSink.
func (s *pingStream) Client() any { return s.client }

// Pong is part of coalesce.PingSink.
func (s *pingStream) Pong(p coalesce.Pong) {
	if errors.Is(p.Err, coalesce.ErrKeepalivesClosed) {
		s.end(p.Err)
	} else {
		s.answer(p)
	}
}

// answer takes answers to pings, those that are there at the same time together.
func (s *pingStream) answer(answers ...coalesce.Pong) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state >= failed {
		return
	}
	if s.protocol.batches() {
		s.answers = append(s.answers, answers...)
	} else {
		for _, p := range answers {
			var err error
			if s.answers, err = s.order.answer(s.answers, p); err != nil {
				s.fail(err)
				break
			}
		}
	}
	s.deliver()
}

// halfClose says that the client sends no more.
func (s *pingStream) halfClose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == open {
		s.state = halfClosed
		s.todo.Signal()
	}
}

// end has the RPC end with err, after what is ready has been sent, unless it is ending already.
func (s *pingStream) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail(err)
}

// written is called by the transport, which must not be kept, when n messages are no longer on their way.
func (s *pingStream) written(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unwritten -= n
}

// The functions below are called with s.mu held.

func (s *pingStream) fail(err error) {
	if s.state >= failed {
		return
	}
	s.state, s.err = failed, err
	s.order = pingOrder{}
	s.todo.Signal()
	s.room.Signal()
}

// hasRoom tells whether another message may be read.
func (s *pingStream) hasRoom() bool { return s.unsent < s.all.limit() }

// count counts so many more pings whose answer has not been sent.
func (s *pingStream) count(n int) {
	s.unsent += n
	s.all.unsent.Add(int64(n))
}

// pending tells whether there is something to send. Nobody is sending.
func (s *pingStream) pending() bool { return len(s.answers) > 0 || s.next < len(s.taken) }

// done tells whether the stream is over when nothing is pending.
func (s *pingStream) done() bool {
	return s.state == failed || s.state == halfClosed && s.unsent == 0
}

// deliver sends new answers, or leaves them to who may.
func (s *pingStream) deliver() {
	if s.sending || !s.pending() {
		return
	}
	if s.send(s.inline); s.pending() || s.done() {
		s.todo.Signal()
	}
}

// send sends what is pending as long as less than limit messages are unwritten. Nobody else is sending. It releases s.mu
// meanwhile.
func (s *pingStream) send(limit int) {
	s.sending = true
	for s.pending() && s.unwritten < limit {
		if s.next == len(s.taken) {
			s.taken, s.answers, s.next = s.answers, s.taken[:0], 0
		}
		n := 1
		if s.protocol.batches() {
			n = len(s.taken)
		}
		pongs := s.taken[s.next : s.next+n]
		s.next += n
		mark := s.markNext()
		s.mu.Unlock()
		err := s.transmit(pongs, mark)
		s.mu.Lock()
		if s.count(-n); s.hasRoom() {
			s.room.Signal()
		}
		if err != nil { // nothing can be sent any more
			s.taken, s.answers, s.next = nil, nil, 0
			s.fail(err)
		}
	}
	if !s.pending() {
		s.taken, s.answers, s.next = emptied(s.taken), emptied(s.answers), 0
	}
	s.sending = false
}

// markNext counts a message as unwritten, and tells whether a marker goes with it.
func (s *pingStream) markNext() bool {
	if s.inline == 0 { // nobody wants to know
		return false
	}
	s.unwritten++
	s.unmarked++
	if s.unmarked < pongsPerMark {
		return false
	}
	s.unmarked = 0
	return true
}

// transmit sends one message. It is called without s.mu.
func (s *pingStream) transmit(pongs []coalesce.Pong, mark bool) error {
	m := &pongMessage{}
	m.head = s.protocol.encode(m.room[:0], pongs)
	m.message = append(m.buffers[:0], &m.head)
	if mark {
		m.message = append(m.message, mem.NewBuffer(&s.marker, &pongMark{s}))
	}
	return s.grpc.SendMsg(&m.message)
}

// pongMessage is a message on its way. What it is made of is here to spare allocations.
type pongMessage struct {
	message mem.BufferSlice
	buffers [2]mem.Buffer
	head    mem.SliceBuffer
	room    [64]byte
}

// pongMark is the pool of an empty buffer behind some messages, which grpc gives back when they are written; see mark.
type pongMark struct{ stream *pingStream }

// Get is part of mem.BufferPool. Nobody calls it.
func (m *pongMark) Get(int) *[]byte { return &m.stream.marker }

// Put is part of mem.BufferPool: what is before the marker has been written, or never will be.
func (m *pongMark) Put(*[]byte) { m.stream.written(pongsPerMark) }
