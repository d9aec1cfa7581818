package grpcapi

import (
	"bytes"
	"math"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"golang.org/x/net/http2"
)

// writtenConn keeps what is written to it.
type writtenConn struct {
	net.Conn // nil
	mu       sync.Mutex
	written  bytes.Buffer
	closed   int
}

func (c *writtenConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.written.Write(p)
}

func (c *writtenConn) Close() error {
	c.closed++
	return nil
}

// Whatever pieces the transport writes its frames in, and whenever the client is to be told: the GOAWAY stands between two frames,
// and never within a header block.
func TestGoAwayStandsBetweenFrames(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for range 300 {
		var frames bytes.Buffer
		f := http2.NewFramer(&frames, nil)
		_ = f.WriteSettings() // a buffer takes everything
		for range random.IntN(8) {
			switch random.IntN(3) {
			case 0:
				_ = f.WriteData(1, false, make([]byte, random.IntN(300)))
			case 1:
				_ = f.WritePing(true, [8]byte{})
			default:
				rest := random.IntN(3)
				_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: make([]byte, random.IntN(40)), EndHeaders: rest == 0})
				for ; rest > 0; rest-- {
					_ = f.WriteContinuation(1, rest == 1, make([]byte, random.IntN(40)))
				}
			}
		}
		want := bytes.Clone(frames.Bytes())
		wire := &writtenConn{}
		conn, told := newGoAwayConn(wire, func() {})
		at := random.IntN(len(want) + 1)
		for p := want; len(p) > 0; {
			if len(want)-len(p) >= at {
				told.goAway()
				at = math.MaxInt
			}
			n := 1 + random.IntN(min(len(p), 60))
			if _, err := conn.Write(p[:n]); err != nil {
				t.Fatal(err)
			}
			p = p[n:]
		}
		if at != math.MaxInt {
			told.goAway()
		}
		read := http2.NewFramer(nil, &wire.written)
		goAways, length := 0, wire.written.Len()
		for wire.written.Len() > 0 {
			frame, err := read.ReadFrame() // which checks that header blocks are whole
			if err != nil {
				t.Fatalf("frame after %d of %d bytes: %v", length-wire.written.Len(), length, err)
			}
			if g, ok := frame.(*http2.GoAwayFrame); ok {
				goAways++
				if g.LastStreamID != math.MaxInt32 || g.ErrCode != http2.ErrCodeNo {
					t.Errorf("got %v", g)
				}
			}
		}
		if goAways != 1 || length != len(want)+len(goAwayFrame) {
			t.Fatalf("%d GOAWAYs, %d bytes, want one among %d", goAways, length, len(want))
		}
	}
}

func TestGoAwayWaitsForTheBeginningOfTheConnection(t *testing.T) {
	wire := &writtenConn{}
	conn, told := newGoAwayConn(wire, func() {})
	told.goAway()
	if wire.written.Len() > 0 {
		t.Fatal("something stands before SETTINGS")
	}
	var settings bytes.Buffer
	if err := http2.NewFramer(&settings, nil).WriteSettings(); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(settings.Bytes()); err != nil {
		t.Fatal(err)
	}
	if got := wire.written.Bytes(); !bytes.Equal(got, append(settings.Bytes(), goAwayFrame[:]...)) {
		t.Errorf("got % x", got)
	}
}

// One is told while others write.
func TestGoAwayBesideAWriter(t *testing.T) {
	var ping bytes.Buffer
	if err := http2.NewFramer(&ping, nil).WritePing(true, [8]byte{}); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		wire := &writtenConn{}
		conn, told := newGoAwayConn(wire, func() {})
		var writing sync.WaitGroup
		writing.Go(func() {
			for range 100 {
				if _, err := conn.Write(ping.Bytes()); err != nil {
					t.Error(err)
				}
			}
		})
		told.goAway()
		writing.Wait()
		if got, want := wire.written.Len(), 100*ping.Len()+len(goAwayFrame); got != want {
			t.Fatalf("%d bytes were written, want %d", got, want)
		}
	}
}

func TestAConnectionIsForgottenOnce(t *testing.T) {
	wire, forgotten := &writtenConn{}, 0
	conn, _ := newGoAwayConn(wire, func() { forgotten++ })
	conn.Close()
	conn.Close()
	if forgotten != 1 || wire.closed != 2 {
		t.Errorf("forgotten %d times, closed %d times", forgotten, wire.closed)
	}
}

// What every write of the transport costs more: this, where a system call is some microseconds.
func BenchmarkGoAwayConnWrite(b *testing.B) {
	var frames bytes.Buffer
	f := http2.NewFramer(&frames, nil)
	for range 8 {
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: make([]byte, 12), EndHeaders: true})
		_ = f.WriteData(1, false, make([]byte, 60))
	}
	conn, _ := newGoAwayConn(discardConn{}, func() {})
	for b.Loop() {
		if _, err := conn.Write(frames.Bytes()); err != nil {
			b.Fatal(err)
		}
	}
}

type discardConn struct{ net.Conn }

func (discardConn) Write(p []byte) (int, error) { return len(p), nil }
