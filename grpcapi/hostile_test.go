package grpcapi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"runtime"
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// rawClient speaks HTTP/2 as badly as it is told to.
type rawClient struct {
	t      testing.TB
	conn   net.Conn
	framer *http2.Framer
	header bytes.Buffer
	hpack  *hpack.Encoder
	next   uint32 // stream id

	// What the server has sent, as far as a test asks for it.
	settings chan map[http2.SettingID]uint32
	pongs    chan struct{}
	refused  chan uint32 // streams
	goAway   chan string
	ended    chan struct{} // closed with the connection
}

func dialRaw(t testing.TB, address string) *rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	c := &rawClient{
		t: t, conn: conn, framer: http2.NewFramer(conn, conn), next: 1,
		settings: make(chan map[http2.SettingID]uint32, 1),
		pongs:    make(chan struct{}, 1),
		refused:  make(chan uint32, 100),
		goAway:   make(chan string, 1),
		ended:    make(chan struct{}),
	}
	c.hpack = hpack.NewEncoder(&c.header)
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	if err := c.framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	go c.read()
	t.Cleanup(func() {
		conn.Close()
		<-c.ended
	})
	return c
}

func (c *rawClient) read() {
	defer close(c.ended)
	for {
		frame, err := c.framer.ReadFrame()
		var of http2.StreamError
		if err != nil && !errors.As(err, &of) {
			return
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if f.IsAck() {
				continue
			}
			settings := map[http2.SettingID]uint32{}
			_ = f.ForeachSetting(func(s http2.Setting) error {
				settings[s.ID] = s.Val
				return nil
			})
			c.settings <- settings
		case *http2.PingFrame:
			if f.IsAck() {
				c.pongs <- struct{}{}
			}
		case *http2.RSTStreamFrame:
			if f.ErrCode == http2.ErrCodeRefusedStream {
				c.refused <- f.StreamID
			}
		case *http2.GoAwayFrame:
			select {
			case c.goAway <- string(f.DebugData()):
			default:
			}
		}
	}
}

// ping returns when the server has read all that was sent before, or has closed the connection.
func (c *rawClient) ping() {
	c.t.Helper()
	_ = c.framer.WritePing(false, [8]byte{})
	select {
	case <-c.pongs:
	case <-c.ended:
	}
}

// fields is an encoded header block of a request.
func (c *rawClient) fields(path string, more ...string) []byte {
	c.header.Reset()
	all := append([]string{
		":method", "POST", ":scheme", "http", ":path", path, ":authority", "weir", "content-type", "application/grpc", "te", "trailers",
	}, more...)
	for i := 0; i < len(all); i += 2 {
		if err := c.hpack.WriteField(hpack.HeaderField{Name: all[i], Value: all[i+1]}); err != nil {
			c.t.Fatal(err)
		}
	}
	return c.header.Bytes()
}

// open opens a stream, with a message if it is not nil.
func (c *rawClient) open(path string, message []byte) (stream uint32, err error) {
	stream = c.next
	c.next += 2
	if err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: c.fields(path), EndHeaders: true}); err != nil {
		return 0, err
	}
	if message == nil {
		return stream, nil
	}
	return stream, c.framer.WriteData(stream, true, append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...))
}

// everyMethod is the path of each RPC that a backend server has.
func everyMethod() (paths []string) {
	for _, s := range etcdServices() {
		for _, m := range s.Methods {
			paths = append(paths, "/"+s.ServiceName+"/"+m.MethodName)
		}
		for _, m := range s.Streams {
			paths = append(paths, "/"+s.ServiceName+"/"+m.StreamName)
		}
	}
	return paths
}

// wantOthersServed asks something of the server on another connection.
func wantOthersServed(t *testing.T, address string) {
	t.Helper()
	_, err := pb.NewKVClient(dial(t, address)).Range(t.Context(), &pb.RangeRequest{Key: []byte("a")})
	if err != nil {
		t.Errorf("another client is not served: %v", err)
	}
}

// awaitQuiet waits until there are no more than that many goroutines.
func awaitQuiet(t *testing.T, goroutines int) {
	t.Helper()
	for runtime.NumGoroutine() > goroutines {
		if t.Context().Err() != nil {
			t.Fatal(t.Context().Err())
		}
		runtime.Gosched()
	}
}

func TestFloodOfResetStreamsLeavesNothing(t *testing.T) {
	s := newLockServer(t)
	wantHeld(t, s.lock(t.Context(), "a", 1), "a/1") // so that other locks of the name wait
	c := dialRaw(t, s.address)
	c.ping()
	wantOthersServed(t, s.address)
	goroutines, before := runtime.NumGoroutine()+10, heap()

	const rounds = 400
	request := []byte("\x0a\x01a\x10\x02") // key or name "a"; lease 2 or range_end
	for range rounds {
		for _, method := range everyMethod() {
			stream, err := c.open(method, request)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.framer.WriteRSTStream(stream, http2.ErrCodeCancel); err != nil {
				t.Fatal(err)
			}
		}
	}
	c.ping() // once that is answered, the server has read all
	wantOthersServed(t, s.address)
	awaitQuiet(t, goroutines)
	if grown, limit := heap()-before, int64(8<<20); grown > limit {
		t.Errorf("%d streams left %d bytes, more than %d", rounds*len(everyMethod()), grown, limit)
	}
	if keys := s.keys(); slices.Contains(keys, "a/2") {
		t.Error("a lock was taken by who is gone")
	}
}

// What is announced must cost nothing before it is there.
func TestAnnouncedMessagesCostOnlyWhatWasSent(t *testing.T) {
	s := newLockServer(t)
	c := dialRaw(t, s.address)
	c.ping()
	before := heap()
	const streams = 1000
	for range streams {
		stream, err := c.open(pb.KV_Put_FullMethodName, nil)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.framer.WriteData(stream, false, []byte{0, 0, 0x1f, 0, 0, 'x'}); err != nil { // the first of 2 MB
			t.Fatal(err)
		}
	}
	c.ping()
	if grown, limit := heap()-before, int64(streams*20<<10); grown > limit {
		t.Errorf("%d bytes for %d streams, more than %d", grown, streams, limit)
	}
	if _, err := c.conn.Write([]byte{0, 0, 100, 0}); err != nil { // half of a frame's header
		t.Fatal(err)
	}
	wantOthersServed(t, s.address)
}

func TestHeaderWithoutEndIsCutOff(t *testing.T) {
	s := newLockServer(t)
	c := dialRaw(t, s.address)
	headers := http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.fields(pb.KV_Put_FullMethodName)}
	if err := c.framer.WriteHeaders(headers); err != nil {
		t.Fatal(err)
	}
	fields := bytes.Repeat([]byte("\x00\x01x\x01y"), 3000) // x: y, not to be put into the table
	sent := 0
	for ; c.framer.WriteContinuation(1, false, fields) == nil; sent += len(fields) {
		if sent > 256<<20 {
			t.Fatalf("%d bytes of a header were taken", sent)
		}
	}
	<-c.ended
	wantOthersServed(t, s.address)
}

func TestBrokenFramesEndOnlyTheirConnection(t *testing.T) {
	s := newLockServer(t)
	for _, frame := range []string{
		"\x00\x00\x01\x00\x01\x00\x00\x00\x01x",                // DATA of a stream that was never opened
		"\xff\xff\xff\x00\x00\x00\x00\x00\x01",                 // DATA of 16 MiB
		"\x00\x00\x04\x01\x04\x00\x00\x00\x01\xff\xff\xff\xff", // HEADERS that are not HPACK
		"\x00\x00\x03\x04\x00\x00\x00\x00\x00abc",              // SETTINGS of half a setting
		"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00", // WINDOW_UPDATE by nothing
		"\x00\x00\x08\x06\x00\x00\x00\x00\x01pingping",         // PING on a stream
		"\x00\x00\x04\x03\x00\x00\x00\x00\x00\x00\x00\x00\x08", // RST_STREAM of the connection
	} {
		c := dialRaw(t, s.address)
		if _, err := c.conn.Write([]byte(frame)); err != nil {
			t.Fatal(err)
		}
		c.ping()
		c.conn.Close()
	}
	wantOthersServed(t, s.address)
}
