package wire

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

func TestCodecPassesReadyBytesWithoutCopy(t *testing.T) {
	data := []byte("encoded")
	raw := Raw(data)
	for _, v := range []any{raw, &raw, mem.BufferSlice{mem.SliceBuffer(data)}} {
		out, err := Codec{}.Marshal(v)
		if err != nil || len(out) != 1 || &out[0].ReadOnlyData()[0] != &data[0] || out.Len() != len(data) {
			t.Errorf("%T: got %v, error %v", v, out, err)
		}
	}
}

func TestCodecEncodesAndDecodesMessages(t *testing.T) {
	for _, size := range []int{0, 10, 100_000} { // below and above what grpc pools
		m := &pb.PutRequest{Key: []byte("k"), Value: make([]byte, size)}
		out, err := Codec{}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		checkEncoded(t, "message", out.Materialize(), mustMarshal(t, m))
		got := &pb.PutRequest{}
		if err := (Codec{}).Unmarshal(out, got); err != nil || !proto.Equal(got, m) {
			t.Errorf("got %v, error %v", got, err)
		}
		out.Free()
	}
}

func TestRawOutlivesTheBuffersItCameIn(t *testing.T) {
	for _, parts := range [][]string{{}, {"one"}, {"one", "", "two"}} {
		var data mem.BufferSlice
		for _, p := range parts {
			data = append(data, mem.SliceBuffer(p))
		}
		raw := Raw("old")
		if err := (Codec{}).Unmarshal(data, &raw); err != nil {
			t.Fatal(err)
		}
		for _, b := range data {
			clear(b.ReadOnlyData())
		}
		if want := strings.Join(parts, ""); string(raw) != want {
			t.Errorf("got %q, want %q", raw, want)
		}
	}
}

func TestCodecNamesTheTypeThatItCannotHandle(t *testing.T) {
	if _, err := (Codec{}).Marshal(42); err == nil || !strings.Contains(err.Error(), "int") {
		t.Errorf("marshal: %v", err)
	}
	var s string
	if err := (Codec{}).Unmarshal(nil, &s); err == nil || !strings.Contains(err.Error(), "*string") {
		t.Errorf("unmarshal: %v", err)
	}
}

// A server and a client that use bytes, each against one that uses messages and gRPC's own codec.
func TestCodecOverGRPC(t *testing.T) {
	defer goleak.VerifyNone(t)
	answer := EncodeRange(Header{Revision: 7}, benchmarkKVs(3, 2000), false, 3)
	handler := func(_ any, stream grpc.ServerStream) error {
		var req Raw
		if err := stream.RecvMsg(&req); err != nil {
			return err
		}
		var r RangeRequest
		if err := r.Unmarshal(req); err != nil || string(r.Key) != "key" {
			t.Errorf("server got %x: key %q, error %v", req, r.Key, err)
		}
		return stream.SendMsg(answer) // the same buffers each time
	}
	server := grpc.NewServer(grpc.ForceServerCodecV2(Codec{}), grpc.UnknownServiceHandler(handler))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		server.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}()

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	req := &pb.RangeRequest{Key: []byte("key")}
	resp, err := pb.NewKVClient(conn).Range(ctx, req)
	if err != nil || len(resp.Kvs) != 3 || resp.Header.Revision != 7 {
		t.Fatalf("client of messages got %v, error %v", resp, err)
	}
	var raw Raw
	sent := Raw(mustMarshal(t, req))
	if err := conn.Invoke(ctx, pb.KV_Range_FullMethodName, &sent, &raw, grpc.ForceCodecV2(Codec{})); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(raw, answer.Materialize()) {
		t.Fatalf("client of bytes got %x", raw)
	}
}
