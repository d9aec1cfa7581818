package client_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"weir/loadtest/client"
)

// script is the server's side of one connection, which does what a test says.
type script struct {
	*http2.Framer
	tb  testing.TB
	w   *bufio.Writer
	nc  net.Conn
	enc *hpack.Encoder
	buf bytes.Buffer
}

// play connects to a server that has sent settings.
func play(tb testing.TB, config client.Config, settings ...http2.Setting) (*peer, *script) {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer listener.Close()
	p := dial(tb, listener.Addr().String(), config)
	nc, err := listener.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = nc.Close() })
	s := &script{tb: tb, nc: nc, w: bufio.NewWriter(nc)}
	s.enc = hpack.NewEncoder(&s.buf)
	r := bufio.NewReader(nc)
	s.Framer = http2.NewFramer(s.w, r)
	s.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.CopyN(io.Discard, r, int64(len(http2.ClientPreface))); err != nil {
		tb.Fatal(err)
	}
	s.do(s.WriteSettings(settings...))
	for acked := false; !acked; {
		f, ok := s.read().(*http2.SettingsFrame)
		acked = ok && f.IsAck()
	}
	return p, s
}

// do sends what was written, with what came of it.
func (s *script) do(err error) {
	s.tb.Helper()
	if err = errors.Join(err, s.w.Flush()); err != nil {
		s.tb.Fatal(err)
	}
}

func (s *script) read() http2.Frame {
	s.tb.Helper()
	f, err := s.ReadFrame()
	if err != nil {
		s.tb.Fatal(err)
	}
	return f
}

// data reads frames until one is data, of which it returns as much as a frame has.
func (s *script) data() (stream uint32, length int, last bool) {
	s.tb.Helper()
	for {
		if f, ok := s.read().(*http2.DataFrame); ok {
			return f.StreamID, len(f.Data()), f.StreamEnded()
		}
	}
}

// expectData is that such data comes next.
func (s *script) expectData(stream uint32, length int, last bool) {
	s.tb.Helper()
	if gotStream, gotLength, gotLast := s.data(); gotStream != stream || gotLength != length || gotLast != last {
		s.tb.Fatalf("%d bytes came on %d, last: %v, want %d on %d, last: %v", gotLength, gotStream, gotLast, length, stream, last)
	}
}

// expectNothing is that no data comes, and nothing is reset or allowed for an RPC, before the answer to a ping that is sent now.
func (s *script) expectNothing() {
	s.tb.Helper()
	s.do(s.WritePing(false, [8]byte{}))
	for {
		switch f := s.read().(type) {
		case *http2.DataFrame:
			s.tb.Fatalf("%d bytes came on %d, want none", len(f.Data()), f.StreamID)
		case *http2.RSTStreamFrame, *http2.WindowUpdateFrame:
			s.tb.Fatalf("%v came, want nothing", f)
		case *http2.PingFrame:
			return
		}
	}
}

// expectReset is that the next frame resets an RPC.
func (s *script) expectReset(rpc uint32, code http2.ErrCode) {
	s.tb.Helper()
	frame := s.read()
	if f, ok := frame.(*http2.RSTStreamFrame); !ok || f.StreamID != rpc || f.ErrCode != code {
		s.tb.Fatalf("%v came, want %d reset with %v", frame, rpc, code)
	}
}

func (s *script) headers(stream uint32, last bool, fields ...string) {
	s.tb.Helper()
	s.buf.Reset()
	for i := 0; i < len(fields); i += 2 {
		if err := s.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}); err != nil {
			s.tb.Fatal(err)
		}
	}
	s.do(s.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: s.buf.Bytes(), EndHeaders: true, EndStream: last}))
}

func initialWindow(n uint32) http2.Setting {
	return http2.Setting{ID: http2.SettingInitialWindowSize, Val: n}
}
