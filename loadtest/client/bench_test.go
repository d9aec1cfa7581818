package client

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// BenchmarkCall is what RPCs with one small answer cost, 32 at a time on one connection, with a server in the same process that does
// nothing but write answers that are encoded already.
func BenchmarkCall(b *testing.B) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	served := make(chan error, 1)
	go func() { served <- answerAll(listener) }()

	h := &caller{left: b.N, done: make(chan struct{})}
	if h.conn, err = Dial(context.Background(), listener.Addr().String(), Config{}, h); err != nil {
		b.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- h.conn.Read(func() {}) }()
	b.ReportAllocs()
	b.ResetTimer()
	for range min(32, b.N) {
		if err := h.call(); err != nil {
			b.Fatal(err)
		}
	}
	if err := h.conn.Flush(); err != nil {
		b.Fatal(err)
	}
	select {
	case <-h.done:
	case err := <-ended:
		b.Fatal(err)
	}
	b.StopTimer()
	if err := h.conn.Close(); err != nil {
		b.Error(err)
	}
	if err := <-ended; err == nil {
		b.Error("the reader ended without an error")
	}
	if err := <-served; !errors.Is(err, io.EOF) {
		b.Error(err)
	}
}

// caller calls again whenever it is answered.
type caller struct {
	conn *Conn
	left int // answers that are to come
	done chan struct{}
}

func (h *caller) call() error {
	_, err := h.conn.Call(KVRange, []byte("a key of some length"))
	return err
}

func (h *caller) Message(uint32, []byte) error { return nil }

func (h *caller) End(_ uint32, err error) error {
	if h.left--; h.left == 0 {
		close(h.done)
	}
	if err != nil || h.left < 32 {
		return err
	}
	return h.call()
}

// answerAll answers each RPC of one connection as soon as it has all of its request.
func answerAll(listener net.Listener) error {
	nc, err := listener.Accept()
	if err != nil {
		return err
	}
	defer nc.Close()
	r, w := bufio.NewReaderSize(nc, 64<<10), bufio.NewWriterSize(nc, 64<<10)
	if _, err := io.CopyN(io.Discard, r, int64(len(http2.ClientPreface))); err != nil {
		return err
	}
	fr := http2.NewFramer(w, r)
	fr.SetReuseFrames()
	if err := errors.Join(fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20}), fr.WriteWindowUpdate(0, 1<<30)); err != nil {
		return err
	}
	// Fields of HPACK's static table, or without indexing, so that they are the same for every answer.
	headers, trailers := encoded(":status", "200"), encoded("grpc-status", "0")
	message := make([]byte, 100)
	message[4] = byte(len(message) - 5)
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return err
		}
		if f, ok := f.(*http2.DataFrame); ok {
			id := f.StreamID
			err = errors.Join(
				fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: headers, EndHeaders: true}),
				fr.WriteData(id, false, message),
				fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: trailers, EndHeaders: true, EndStream: true}),
				fr.WriteWindowUpdate(0, f.Length),
			)
		}
		if r.Buffered() == 0 {
			err = errors.Join(err, w.Flush())
		}
		if err != nil {
			return err
		}
	}
}

func encoded(name, value string) []byte {
	var b bytes.Buffer
	_ = hpack.NewEncoder(&b).WriteField(hpack.HeaderField{Name: name, Value: value, Sensitive: true}) // a bytes.Buffer does not fail
	return b.Bytes()
}
