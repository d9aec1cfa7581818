package client_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"weir/loadtest/client"
)

func TestARequestGoesOutAsFarAsTheWindowsAllow(t *testing.T) {
	p, s := play(t, client.Config{}, initialWindow(10))
	rpc := p.open(echo)
	p.send(rpc, strings.Repeat("x", 95))
	s.expectData(rpc, 10, false)
	s.do(s.WriteWindowUpdate(rpc, 30))
	s.expectData(rpc, 30, false)
	p.send(rpc, "an RPC's messages wait for each other")
	if err := p.CloseSend(rpc); err != nil {
		t.Fatal(err)
	}
	s.expectNothing()

	// A message on another RPC overtakes it.
	other, err := p.Call(echo, []byte("12345"))
	if err != nil {
		t.Fatal(err)
	}
	p.flush()
	s.expectData(other, 10, true)

	s.do(s.WriteWindowUpdate(rpc, 200))
	s.expectData(rpc, 60+5+37, true)
}

func TestTheWindowOfTheConnectionIsUsedInTheOrderOfRequests(t *testing.T) {
	p, s := play(t, client.Config{}, initialWindow(1<<20))
	first, second := p.open(echo), p.open(echo)
	p.send(first, strings.Repeat("x", 65535))
	p.send(second, "five!")
	for _, n := range []int{16 << 10, 16 << 10, 16 << 10, 16<<10 - 1} {
		s.expectData(first, n, false)
	}
	s.expectNothing()
	s.do(s.WriteWindowUpdate(0, 3))
	s.expectData(first, 3, false)
	s.do(s.WriteWindowUpdate(0, 7))
	s.expectData(first, 2, false)
	s.expectData(second, 5, false)
	s.do(s.WriteWindowUpdate(0, 100))
	s.expectData(second, 5, false)
}

func TestAWindowThatShrinksBelowWhatWasSentIsFilledUpFirst(t *testing.T) {
	p, s := play(t, client.Config{}, initialWindow(100))
	rpc := p.open(echo)
	p.send(rpc, strings.Repeat("x", 195))
	s.expectData(rpc, 100, false)
	s.do(s.WriteSettings(initialWindow(20)))
	s.do(s.WriteWindowUpdate(rpc, 80))
	s.expectNothing()
	s.do(s.WriteWindowUpdate(rpc, 1))
	s.expectData(rpc, 1, false)
	s.do(s.WriteSettings(initialWindow(1000)))
	s.expectData(rpc, 99, false)
}

func TestFramesAreAsLargeAsTheServerTakes(t *testing.T) {
	p, s := play(t, client.Config{}, initialWindow(1<<20), http2.Setting{ID: http2.SettingMaxFrameSize, Val: 40_000})
	rpc := p.open(echo)
	p.send(rpc, strings.Repeat("x", 50_000-5))
	s.expectData(rpc, 40_000, false)
	s.expectData(rpc, 10_000, false)
}

func TestWhateverTheWindowsAreEveryByteIsSentOnceInOrder(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	p, s := play(t, client.Config{}, initialWindow(0))
	want, got := map[uint32][]byte{}, map[uint32][]byte{}
	windows := map[uint32]int{0: 65535}
	missing := 0
	var rpcs []uint32
	for range 5 {
		rpcs = append(rpcs, p.open(echo))
	}
	for range 40 {
		rpc := rpcs[random.IntN(len(rpcs))]
		m := make([]byte, random.IntN(20_000))
		for i := range m {
			m[i] = byte(random.Uint32())
		}
		p.send(rpc, string(m))
		want[rpc] = append(append(want[rpc], 0, 0, 0, byte(len(m)>>8), byte(len(m))), m...)
		missing += 5 + len(m)
	}
	for missing > 0 {
		to, n := rpcs[random.IntN(len(rpcs))], 1+random.IntN(10_000)
		if random.IntN(3) == 0 {
			to = 0
		}
		windows[to] += n
		s.do(errors.Join(s.WriteWindowUpdate(to, uint32(n)), s.WritePing(false, [8]byte{})))
		for ponged := false; !ponged; {
			switch f := s.read().(type) {
			case *http2.PingFrame:
				ponged = true
			case *http2.DataFrame:
				n := len(f.Data())
				got[f.StreamID] = append(got[f.StreamID], f.Data()...)
				windows[0] -= n
				windows[f.StreamID] -= n
				missing -= n
				if windows[0] < 0 || windows[f.StreamID] < 0 {
					t.Fatalf("a window is exceeded: %v", windows)
				}
			}
		}
	}
	for _, rpc := range rpcs {
		if !bytes.Equal(got[rpc], want[rpc]) {
			t.Errorf("%d bytes came on %d, which are not the %d that were sent", len(got[rpc]), rpc, len(want[rpc]))
		}
	}
}

func TestTheServerIsToldTheWindowsAndWhatIsReadOfThem(t *testing.T) {
	p, s := play(t, client.Config{StreamWindow: 10, ConnWindow: 65535})
	rpc := p.open(echo)
	p.send(rpc, "x")
	s.expectData(rpc, 6, false)
	s.headers(rpc, false, ":status", "200")
	s.do(s.WriteData(rpc, false, []byte{0, 0, 0, 0}))
	s.expectNothing()
	s.do(s.WriteData(rpc, false, []byte{0}))
	frame := s.read()
	if f, ok := frame.(*http2.WindowUpdateFrame); !ok || f.StreamID != rpc || f.Increment != 5 {
		t.Errorf("%v came, want 5 bytes more", frame)
	}
	p.expect(event{rpc: rpc})
}

func TestTheLeastWindowLetsAMessageThrough(t *testing.T) {
	p, s := play(t, client.Config{StreamWindow: 1})
	rpc := p.open(echo)
	p.send(rpc, "x")
	s.expectData(rpc, 6, false)
	s.headers(rpc, false, ":status", "200")
	s.do(s.WriteData(rpc, false, nil))
	s.expectNothing()
	for _, b := range []byte{0, 0, 0, 0, 2, 'm', 'y'} {
		s.do(s.WriteData(rpc, false, []byte{b}))
		frame := s.read()
		if f, ok := frame.(*http2.WindowUpdateFrame); !ok || f.StreamID != rpc || f.Increment != 1 {
			t.Fatalf("%v came, want a byte more", frame)
		}
	}
	p.expect(event{rpc: rpc, message: "my"})
}
