package e2e

import (
	"bytes"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"weir/loadtest/target/targettest"
)

// spans is a collector of traces, which keeps what it is sent as it came.
type spans struct {
	mu  sync.Mutex // guards raw
	raw []byte
}

// serve listens until the test ends.
func (s *spans) serve(t *testing.T) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		var m emptypb.Empty // every field is unknown to it, and kept
		if err := stream.RecvMsg(&m); err != nil {
			return err
		}
		b, err := proto.Marshal(&m)
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.raw = append(s.raw, b...)
		s.mu.Unlock()
		return stream.SendMsg(&emptypb.Empty{})
	}))
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// With etcd's flags an RPC is traced under etcd's names, and what is traced has been sent when the member has ended.
func TestRequestsAreTraced(t *testing.T) {
	for _, p := range members {
		var got spans
		m, client, _ := startMember(t, p, []string{
			"--enable-distributed-tracing", "--distributed-tracing-address=" + got.serve(t), "--distributed-tracing-service-name=the-service",
			"--distributed-tracing-instance-id=the-instance", "--distributed-tracing-sampling-rate=1000000",
		}, nil)
		if _, err := targettest.Client(t, client).Put(t.Context(), "key", "value"); err != nil {
			t.Fatal(err)
		}
		if err := m.Stop(); err != nil {
			t.Fatal(err)
		}
		got.mu.Lock()
		for _, want := range []string{"etcdserverpb.KV/Put", "service.name", "the-service", "service.instance.id", "the-instance"} {
			if !bytes.Contains(got.raw, []byte(want)) {
				t.Errorf("%s: no %q in %d bytes of traces", p, want, len(got.raw))
			}
		}
		got.mu.Unlock()
	}
}
