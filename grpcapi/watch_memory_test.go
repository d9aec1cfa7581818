package grpcapi

import (
	"bytes"
	"encoding/binary"
	"net"
	"runtime"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"
)

// BenchmarkWatchStreamMemory reports the bytes that an idle stream with one watch takes on the server, with what grpc
// keeps and the stacks of goroutines. The clients are in this process, and keep nothing for a stream.
func BenchmarkWatchStreamMemory(b *testing.B) {
	const conns, streams = 50, 200
	for b.Loop() {
		s := startWatchServer(b, 1<<20)
		var clients []*frugalClient
		for range conns {
			clients = append(clients, dialFrugally(b, s.address, streams))
		}
		before, stacks := heap(), stackBytes()
		for _, c := range clients {
			for range streams {
				c.openWatch()
			}
		}
		for _, c := range clients {
			<-c.answered
		}
		b.ReportMetric(float64(heap()-before)/(conns*streams), "heap-B/stream")
		b.ReportMetric(float64(stackBytes()-stacks)/(conns*streams), "stack-B/stream")
	}
}

func stackBytes() int64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.StackInuse)
}

// frugalClient speaks just enough HTTP/2 to open watches.
type frugalClient struct {
	b        *testing.B
	framer   *http2.Framer
	header   bytes.Buffer
	hpack    *hpack.Encoder
	stream   uint32        // id of the next one
	answered chan struct{} // closed when each stream has been sent one message
}

func dialFrugally(b *testing.B, address string, streams int) *frugalClient {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	c := &frugalClient{b: b, framer: http2.NewFramer(conn, conn), stream: 1, answered: make(chan struct{})}
	c.hpack = hpack.NewEncoder(&c.header)
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		b.Fatal(err)
	}
	if err := c.framer.WriteSettings(); err != nil {
		b.Fatal(err)
	}
	go func() {
		for n := 0; n < streams; {
			f, err := c.framer.ReadFrame()
			if err != nil {
				b.Error(err)
				break
			}
			if _, ok := f.(*http2.DataFrame); ok {
				n++
			}
		}
		close(c.answered)
	}()
	return c
}

// openWatch opens a stream and creates a watch on it.
func (c *frugalClient) openWatch() {
	c.header.Reset()
	for _, f := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", "/etcdserverpb.Watch/Watch"}, {":authority", "weir"},
		{"content-type", "application/grpc"}, {"te", "trailers"}, {"user-agent", "grpc-go"},
	} {
		if err := c.hpack.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}); err != nil {
			c.b.Fatal(err)
		}
	}
	request, err := proto.Marshal(createRequest(key("a")))
	if err != nil {
		c.b.Fatal(err)
	}
	id := c.stream
	c.stream += 2
	if err := c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.header.Bytes(), EndHeaders: true}); err != nil {
		c.b.Fatal(err)
	}
	message := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(request))), request...)
	if err := c.framer.WriteData(id, false, message); err != nil {
		c.b.Fatal(err)
	}
}
