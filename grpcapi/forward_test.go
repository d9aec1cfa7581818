package grpcapi

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"

	"weir/grpcapi/wire"
)

func TestEveryMethodIsForwarded(t *testing.T) {
	u := &fakeUpstream{answer: []byte("answer")}
	conn := dial(t, start(t, NewForwardServer(Config{KeepClientURLs: true, Logger: quiet()}, u, nil, nil)))
	raw := grpc.ForceCodecV2(wire.Codec{})
	unary := func(method string) {
		t.Helper()
		var answer wire.Raw
		err := conn.Invoke(t.Context(), method, wire.Raw("request"), &answer, raw)
		if err != nil || string(answer) != "answer" || u.called != method {
			t.Errorf("%s: got %q, %v by %s", method, answer, err, u.called)
		}
	}
	streamed := func(method string) {
		t.Helper()
		s, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method, raw)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.SendMsg(wire.Raw("message")); err != nil {
			t.Fatal(err)
		}
		var answer wire.Raw
		if err := s.RecvMsg(&answer); err != nil || string(answer) != "message" || u.called != "stream "+method {
			t.Errorf("%s: got %q, %v by %s", method, answer, err, u.called)
		}
	}
	for _, s := range etcdServices() {
		for _, m := range s.Methods {
			unary("/" + s.ServiceName + "/" + m.MethodName)
		}
		for _, m := range s.Streams {
			streamed("/" + s.ServiceName + "/" + m.StreamName)
		}
	}
	streamed("/etcdserverpb.KV/FromTheFuture")
	streamed("/some.Service/Method")
}

func TestErrorOfAForwarderIsPassedOn(t *testing.T) {
	u := &fakeUpstream{err: rpctypes.ErrGRPCCompacted}
	kv := pb.NewKVClient(dial(t, start(t, NewForwardServer(Config{Logger: quiet()}, u, nil, nil))))
	_, err := kv.Range(t.Context(), &pb.RangeRequest{})
	if errText(err) != errText(rpctypes.ErrGRPCCompacted) {
		t.Errorf("got %v", err)
	}
}

func TestEveryMethodOfEtcdIsKnown(t *testing.T) {
	if n := len(everyMethod()); n != 49 {
		t.Errorf("%d methods; etcd 3.7 has 49", n)
	}
}
